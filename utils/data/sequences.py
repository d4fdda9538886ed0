"""Windows of latent episodes, for training a recurrent model that keeps its state.

A batch has a number of lanes. Each lane plays whole episodes one after another, `length` steps per
window. The window at the end of an episode is padded and masked, and the lane's state is reset
for the next episode. The rows in a window depend only on the seed and the batch number.
"""

import collections
import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

import jax
import numpy as np

from models.rnn import Window
from utils.data.episodes import EpisodeFile, latent_schema
from utils.data.mirror import mirror_actions
from utils.data.prefetch import READER_THREADS, Threads
from utils.data.targets import clip_penalty, failed_steps, lap_steps, smooth_rewards


class LatentEpisode(NamedTuple):
    """A latent file in memory: T steps, with the targets of utils/data/targets.py."""

    mu: np.ndarray  # float32 (T+1, latent)
    logvar: np.ndarray  # float32 (T+1, latent)
    actions: np.ndarray  # float32 (T, 3)
    rewards: np.ndarray  # float32 (T), points, smoothed
    failed: np.ndarray  # bool (T)


class Batch(NamedTuple):
    """The input of one gradient step."""

    window: Window  # leaves with axes (lanes, length)
    resets: np.ndarray  # bool (lanes): the window begins an episode, so the state starts at zero


def read_latent_episode(
    entry: EpisodeFile, latent: int, smoothing: int, mirrored: bool = False
) -> LatentEpisode:
    """Read a latent file up to the end of a whole lap, or its mirror image.

    Raises CorruptFileError.
    """
    arrays = entry.read(latent_schema(latent))
    steps = lap_steps(arrays["rewards"])
    actions, rewards = arrays["actions"][:steps], arrays["rewards"][:steps]
    left_playfield = (arrays["terminated"] & ~arrays["lap_finished"])[:steps]
    return LatentEpisode(
        mu=arrays["mirror_mu" if mirrored else "mu"][: steps + 1],
        logvar=arrays["mirror_logvar" if mirrored else "logvar"][: steps + 1],
        actions=mirror_actions(actions) if mirrored else actions,
        rewards=smooth_rewards(clip_penalty(rewards), smoothing),
        failed=failed_steps(rewards, left_playfield),
    )


def cut_window(episode: LatentEpisode, start: int, length: int) -> Window:
    """Rows start … start + length − 1 of an episode, padded with zeros after its end."""
    stop = min(start + length, len(episode.actions))

    def rows(array: np.ndarray, shift: int = 0) -> Any:  # NumPy, where a Window names JAX arrays
        part = array[start + shift : stop + shift]
        if len(part) == length:
            return part
        padding = ((0, length - len(part)), *(((0, 0),) * (array.ndim - 1)))
        return np.pad(part, padding)

    return Window(
        mu=rows(episode.mu),
        logvar=rows(episode.logvar),
        next_mu=rows(episode.mu, 1),
        next_logvar=rows(episode.logvar, 1),
        actions=rows(episode.actions),
        rewards=rows(episode.rewards),
        failed=rows(episode.failed),
        mask=rows(np.ones(len(episode.actions), bool)),
    )


def lane_schedule(
    steps: Sequence[int], lanes: int, length: int, seed: int
) -> Iterator[list[tuple[int, int]]]:
    """Endless (episode, first row) of every lane, one list per batch. `steps` has each episode's T.

    A lane that reaches the end of an episode takes the next one from an endless stream of shuffled
    epochs. The first episode of each lane begins at a random window; otherwise all lanes would be
    in the same part of a lap.
    """
    rng = np.random.default_rng([seed, len(steps)])
    stream = itertools.chain.from_iterable(rng.permutation(len(steps)) for _ in itertools.count())
    positions = []
    for _ in range(lanes):
        episode = int(next(stream))
        windows = -(-steps[episode] // length)
        positions.append((episode, length * int(rng.integers(windows))))
    while True:
        yield list(positions)
        for lane, (episode, start) in enumerate(positions):
            more = start + length < steps[episode]
            positions[lane] = (episode, start + length) if more else (int(next(stream)), 0)


def window_batches(
    read: Callable[[int], LatentEpisode], schedule: Iterator[list[tuple[int, int]]], length: int
) -> Iterator[Batch]:
    """The batches of a schedule. Calls `read(episode)` when a lane begins an episode.

    Only the present and the next episode of each lane are in memory. Threads read files and build
    the next batch while a gradient step runs.
    """
    episodes: dict[int, Future[LatentEpisode]] = {}

    def build(lanes: list[tuple[Future[LatentEpisode], int]]) -> Batch:
        windows = [cut_window(episode.result(), row, length) for episode, row in lanes]
        resets = np.array([row == 0 for _, row in lanes])
        return Batch(jax.tree.map(lambda *rows: np.stack(rows), *windows), resets)

    with Threads(READER_THREADS) as readers, Threads(1) as builder:

        def begin(positions: list[tuple[int, int]]) -> Future[Batch]:
            for episode in set(episodes) - {episode for episode, _ in positions}:
                del episodes[episode]
            for episode, _ in positions:
                if episode not in episodes:
                    episodes[episode] = readers.submit(read, episode)
            return builder.submit(build, [(episodes[episode], row) for episode, row in positions])

        pending = collections.deque([begin(next(schedule)), begin(next(schedule))])
        for positions in schedule:
            batch = pending.popleft().result()
            pending.append(begin(positions))
            yield batch
