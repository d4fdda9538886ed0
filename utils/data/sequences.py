"""Windows of latent episodes for a recurrent model that carries its state.

A batch is a set of lanes. Each lane plays whole episodes, one after another, `length` steps a
window; the window that ends an episode is padded and masked, and the lane's state is reset for
the next episode. Which rows a window holds follows from seed and number alone.
"""

import collections
import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np

from models.rnn import STEP_REWARD, Window
from utils.data.episodes import EpisodeFile, latent_schema
from utils.data.prefetch import READER_THREADS
from utils.data.targets import failed_steps, lap_steps, smooth_rewards


class LatentEpisode(NamedTuple):
    """A latent file in memory: T steps."""

    mu: np.ndarray  # float32 (T+1, latent)
    logvar: np.ndarray  # float32 (T+1, latent)
    actions: np.ndarray  # float32 (T, 3)
    rewards: np.ndarray  # float32 (T), points, smoothed
    failed: np.ndarray  # bool (T), as `failed_steps` says


class Batch(NamedTuple):
    """What one gradient step learns from."""

    window: Window  # leaves with axes (lanes, length)
    resets: np.ndarray  # bool (lanes): this window begins an episode, its state is zero


def read_latent_episode(entry: EpisodeFile, latent: int, smoothing: int) -> LatentEpisode:
    """Read a latent file, but for what comes after a whole lap. Raises CorruptFileError."""
    arrays = entry.read(latent_schema(latent))
    steps = lap_steps(arrays["rewards"])
    rewards = arrays["rewards"][:steps]
    left = (arrays["terminated"] & ~arrays["lap_finished"])[:steps]
    return LatentEpisode(
        mu=arrays["mu"][: steps + 1],
        logvar=arrays["logvar"][: steps + 1],
        actions=arrays["actions"][:steps],
        # The −100 of leaving the playfield belongs to the end head.
        rewards=smooth_rewards(np.maximum(rewards, STEP_REWARD), smoothing),
        failed=failed_steps(rewards, left),
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
    """Endless: for each batch, (episode, first row) of every lane; `steps` is each episode's T.

    A lane that is done takes the next episode of an endless stream of shuffled epochs. The first
    episodes begin somewhere inside, or all lanes would be in the same part of a lap.
    """
    rng = np.random.default_rng([seed, len(steps)])
    stream = itertools.chain.from_iterable(rng.permutation(len(steps)) for _ in itertools.count())
    places = []
    for _ in range(lanes):
        episode = int(next(stream))
        windows = -(-steps[episode] // length)
        places.append((episode, length * int(rng.integers(windows))))
    while True:
        yield list(places)
        for lane, (episode, start) in enumerate(places):
            more = start + length < steps[episode]
            places[lane] = (episode, start + length) if more else (int(next(stream)), 0)


def window_batches(
    read: Callable[[int], LatentEpisode], schedule: Iterator[list[tuple[int, int]]], length: int
) -> Iterator[Batch]:
    """The batches of a schedule; `read(episode)` is called when a lane gets to an episode.

    In memory are the episodes that the lanes are in or get to next: their files are read, and the
    next batch is built, while a gradient step runs.
    """
    episodes: dict[int, Future[LatentEpisode]] = {}

    def build(lanes: list[tuple[Future[LatentEpisode], int]]) -> Batch:
        windows = [cut_window(episode.result(), row, length) for episode, row in lanes]
        resets = np.array([row == 0 for _, row in lanes])
        return Batch(jax.tree.map(lambda *rows: np.stack(rows), *windows), resets)

    with ThreadPoolExecutor(READER_THREADS) as readers, ThreadPoolExecutor(1) as builder:

        def begin(places: list[tuple[int, int]]) -> Future[Batch]:
            for episode in set(episodes) - {episode for episode, _ in places}:
                del episodes[episode]
            for episode, _ in places:
                if episode not in episodes:
                    episodes[episode] = readers.submit(read, episode)
            return builder.submit(build, [(episodes[episode], row) for episode, row in places])

        begun = collections.deque([begin(next(schedule)), begin(next(schedule))])
        for places in schedule:
            batch = begun.popleft().result()
            begun.append(begin(places))
            yield batch
