"""Batches of V and M: every row in its place, none lost, none twice; the targets of M.

Over 300 lines: V and M share the synthetic episodes.
"""

import doctest
import inspect
import itertools
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path

import jax
import numpy as np
import pytest
from hostile_files import noise_latents

import train_rnn
import utils.data.frames
from utils.data import targets
from utils.data.episodes import (
    EPISODE_SCHEMA,
    Episode,
    EpisodeFile,
    latent_schema,
    scan_files,
    step_arrays,
    write_episode,
)
from utils.data.frames import evenly_spaced_frames, frame_batches, read_shard, shuffled_shards
from utils.data.prefetch import read_ahead
from utils.data.sequences import (
    Batch,
    LatentEpisode,
    cut_window,
    lane_schedule,
    read_latent_episode,
    window_batches,
)
from utils.data.targets import NO_TILE_STEPS, failed_steps, lap_steps, smooth_rewards
from utils.errors import UserError
from utils.io.npz import CorruptFileLog, write_arrays

LATENT = 3


def tagged_episode(number: int, steps: int) -> LatentEpisode:
    """Every value tells its episode and its row: 1000 · number + row, plus a part of its own."""
    rows = 1000.0 * number + np.arange(steps + 1)

    def columns(count: int, part: float) -> np.ndarray:
        return (rows[:, None] + part + np.arange(count) / 100).astype(np.float32)

    failed = np.zeros(steps, bool)
    failed[-1] = number % 2 == 1
    return LatentEpisode(
        mu=columns(LATENT, 0.1),
        logvar=columns(LATENT, 0.2),
        actions=columns(3, 0.3)[:-1],
        rewards=columns(1, 0.4)[:-1, 0],
        failed=failed,
    )


def test_a_row_has_a_step_and_what_it_caused() -> None:
    episode = tagged_episode(7, steps=5)
    window = cut_window(episode, start=1, length=3)
    for row in range(3):
        t = 1 + row
        np.testing.assert_array_equal(window.mu[row], episode.mu[t])
        np.testing.assert_array_equal(window.logvar[row], episode.logvar[t])
        np.testing.assert_array_equal(window.next_mu[row], episode.mu[t + 1])
        np.testing.assert_array_equal(window.next_logvar[row], episode.logvar[t + 1])
        np.testing.assert_array_equal(window.actions[row], episode.actions[t])
        assert window.rewards[row] == episode.rewards[t]
    np.testing.assert_array_equal(window.mask, [True] * 3)
    np.testing.assert_array_equal(window.failed, [False] * 3)


def test_the_last_window_is_padded_not_cut() -> None:
    window = cut_window(tagged_episode(7, steps=5), start=3, length=4)
    np.testing.assert_array_equal(window.mask, [True, True, False, False])
    np.testing.assert_array_equal(window.failed, [False, True, False, False])
    np.testing.assert_allclose(window.rewards, [7003.4, 7004.4, 0, 0], rtol=1e-6)
    # The frame after the last step is what that step led to.
    np.testing.assert_allclose(window.next_mu[:, 0], [7004.1, 7005.1, 0, 0], rtol=1e-6)
    for leaf in jax.tree.leaves(window):
        assert len(leaf) == 4 and not leaf[2:].any()


def test_windows_of_one_episode_are_the_episode() -> None:
    episode = tagged_episode(2, steps=11)
    windows = [cut_window(episode, start, 4) for start in (0, 4, 8)]
    whole = jax.tree.map(lambda *rows: np.concatenate(rows), *windows)
    np.testing.assert_array_equal(whole.mu[whole.mask], episode.mu[:-1])
    np.testing.assert_array_equal(whole.next_mu[whole.mask], episode.mu[1:])
    np.testing.assert_array_equal(whole.actions[whole.mask], episode.actions)


@pytest.mark.parametrize("width", [1, 3, 8, 40])
def test_rewards_are_smoothed_over_the_past(width: int) -> None:
    rewards = np.random.default_rng(0).choice([-0.1, 3.3, -100], 25).astype(np.float32)
    expected = np.empty(25)
    for t in range(25):
        window = [rewards[i] if i >= 0 else -0.1 for i in range(t - width + 1, t + 1)]
        expected[t] = sum(np.float64(r) for r in window) / width
    smoothed = smooth_rewards(rewards, width)
    assert smoothed.dtype == np.float32 and smoothed.shape == rewards.shape
    np.testing.assert_allclose(smoothed, expected, rtol=1e-5, atol=1e-6)


STEPS = [7, 12, 1, 4, 10]  # of five episodes; windows of four steps


@pytest.mark.parametrize("lanes", [1, 3, 8])
@pytest.mark.parametrize("seed", [0, 1])
def test_every_step_is_learned_once_an_epoch(lanes: int, seed: int) -> None:
    length, batches = 4, 60
    schedule = lane_schedule(STEPS, lanes, length, seed)
    stream = window_batches(lambda e: tagged_episode(e, STEPS[e]), schedule, length)
    plays: list[list[int]] = []  # the steps of each play of an episode, in the order they begin
    current: list[list[int]] = [[] for _ in range(lanes)]
    for number, batch in enumerate(itertools.islice(stream, batches)):
        assert batch.window.mask.shape == (lanes, length)
        for lane in range(lanes):
            window = jax.tree.map(lambda x, lane=lane: x[lane], batch.window)
            tags = [int(tag) for tag in window.mu[window.mask][:, 0]]
            assert tags, "a window with nothing to learn"
            assert batch.resets[lane] == (tags[0] % 1000 == 0)
            if batch.resets[lane] or number == 0:
                current[lane] = []
                plays.append(current[lane])
            current[lane].extend(tags)
    unfinished = [play for play in current]
    whole = [play for play in plays[lanes:] if not any(play is other for other in unfinished)]
    for play in whole:
        episode = play[0] // 1000
        assert play == [1000 * episode + t for t in range(STEPS[episode])]
    # The first ones begin at a window inside their episode, and go to its end like the others.
    for play in plays[:lanes]:
        episode, row = divmod(play[0], 1000)
        assert row % length == 0
        if not any(play is other for other in unfinished):
            assert play == [1000 * episode + t for t in range(row, STEPS[episode])]
    # In the order in which they begin, each epoch has every episode once.
    order = [play[0] // 1000 for play in plays]
    epochs = [order[i : i + 5] for i in range(0, len(order) - 4, 5)]
    assert len(epochs) >= 4
    assert all(sorted(epoch) == [0, 1, 2, 3, 4] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1  # shuffled anew


def test_lanes_begin_in_different_parts() -> None:
    first = next(lane_schedule([1000] * 64, 64, 100, seed=0))
    assert sorted(episode for episode, _ in first) == list(range(64))
    assert {row for _, row in first} == set(range(0, 1000, 100))


def test_a_resumed_schedule_equals_an_uninterrupted_one() -> None:
    whole = list(itertools.islice(lane_schedule(STEPS, 3, 4, seed=5), 40))
    resumed = list(itertools.islice(lane_schedule(STEPS, 3, 4, seed=5), 17, 40))
    assert resumed == whole[17:]
    assert whole != list(itertools.islice(lane_schedule(STEPS, 3, 4, seed=6), 40))
    # And the batches of the rest are those that the whole would have given.
    read = {e: tagged_episode(e, steps) for e, steps in enumerate(STEPS)}.__getitem__
    one = list(itertools.islice(window_batches(read, iter(whole), 4), 39))
    rest = list(itertools.islice(window_batches(read, iter(resumed), 4), 22))
    jax.tree.map(np.testing.assert_array_equal, one[17:], rest)


def test_an_episode_is_read_once_while_a_lane_is_in_it() -> None:
    read: list[int] = []

    def count(episode: int) -> LatentEpisode:
        read.append(episode)
        return tagged_episode(episode, STEPS[episode])

    places = [[(1, 0), (1, 4)], [(1, 4), (1, 8)], [(1, 8), (0, 0)], [(3, 0), (0, 4)], [(1, 0)] * 2]
    ahead = [places[-1]] * 2  # batches that are begun, but not asked for
    assert len(list(window_batches(count, iter(places + ahead), 4))) == len(places)
    assert sorted(read) == [0, 1, 1, 3]  # several threads read, in any order


def windows(read: Callable[[int], LatentEpisode]) -> Iterator[Batch]:
    return window_batches(read, itertools.cycle([[(0, 0)], [(1, 0)]]), 4)


@pytest.mark.parametrize("begin", [lambda read: read_ahead(read, [0, 1]), windows])
def test_an_unfinished_reader_is_closed_without_a_wait(
    begin: Callable[[Callable[[int], LatentEpisode]], Generator],
) -> None:
    waiting, release = threading.Event(), threading.Event()

    def read(item: int) -> LatentEpisode:
        if item == 1:
            waiting.set()
            release.wait(30)
        return tagged_episode(item, 4)

    reads = begin(read)
    next(reads)
    assert waiting.wait(30)
    closing = threading.Thread(target=reads.close, daemon=True)
    closing.start()
    closing.join(10)
    closed = not closing.is_alive()
    release.set()
    assert closed


def test_latent_files_are_read_as_they_were_written(tmp_path: Path) -> None:
    steps, rng = 6, np.random.default_rng(0)
    for seed, lap_finished in ((12, False), (13, True)):
        episode = blank_episode(seed, steps, lap_finished)
        episode.rewards[-1] = 3.3 if lap_finished else -100
        episode.actions[:] = rng.uniform(0, 1, episode.actions.shape)
        latents = noise_latents(steps, LATENT, seed)
        write_arrays(tmp_path / "random" / f"{seed}.npz", {**latents, **step_arrays(episode)})
    left, finished = scan_files(tmp_path, latent_schema(LATENT))
    read = read_latent_episode(finished, LATENT, smoothing=1)
    np.testing.assert_array_equal(read.mu, latents["mu"])
    np.testing.assert_array_equal(read.logvar, latents["logvar"])
    np.testing.assert_array_equal(read.actions, episode.actions)
    mirrored = read_latent_episode(finished, LATENT, 1, mirrored=True)
    np.testing.assert_array_equal(mirrored.mu, latents["mirror_mu"])
    np.testing.assert_array_equal(mirrored.logvar, latents["mirror_logvar"])
    np.testing.assert_array_equal(mirrored.actions, episode.actions * np.float32([-1, 1, 1]))
    np.testing.assert_array_equal(mirrored.rewards, read.rewards)
    rewards = np.maximum(episode.rewards, np.float32(-0.1))
    np.testing.assert_allclose(read.rewards, rewards, rtol=1e-6)
    # A finished lap also ends the episode, but is no failure.
    assert not read.failed.any()
    np.testing.assert_array_equal(
        read_latent_episode(left, LATENT, 1).failed, [False] * (steps - 1) + [True]
    )
    # The −100 for leaving the playfield is not in the rewards that M learns.
    np.testing.assert_allclose(read_latent_episode(left, LATENT, 1).rewards[-1], -0.1, rtol=1e-6)
    smoothed = read_latent_episode(finished, LATENT, smoothing=3).rewards
    np.testing.assert_allclose(smoothed, smooth_rewards(rewards, 3))


@pytest.mark.parametrize("mirror", [True, False])
def test_m_learns_from_the_mirror_image_of_each_episode(tmp_path: Path, mirror: bool) -> None:
    kinds = ("mu", "mirror_mu") if mirror else ("mu",)
    expected = {}
    for seed in (2, 3):
        episode, latents = blank_episode(seed, 5, False), noise_latents(5, LATENT, seed)
        episode.actions[:, 0] = seed / 10
        write_arrays(tmp_path / "random" / f"{seed}.npz", {**latents, **step_arrays(episode)})
        for kind in kinds:
            steer = -seed / 10 if kind == "mirror_mu" else seed / 10
            expected[latents[kind][:5].tobytes()] = np.float32(steer)
    entries = scan_files(tmp_path, latent_schema(LATENT))
    settings = train_rnn.Settings(lanes=2, window=5, mirror=mirror)
    found = {}
    for batch in itertools.islice(train_rnn.make_batches(entries, LATENT, settings, 0), 20):
        for mu, actions in zip(batch.window.mu, batch.window.actions, strict=True):
            found[mu.tobytes()] = actions[0, 0]
    assert found == expected


TILE = 3.3


@pytest.mark.parametrize(
    "function",
    [f for _, f in inspect.getmembers(targets, inspect.isfunction)],
    ids=lambda function: function.__name__,  # not repr: an address differs between xdist's workers
)
def test_the_examples_in_the_docstrings_of_targets_hold(function: Callable) -> None:
    (examples,) = doctest.DocTestFinder(recurse=False).find(function)
    assert examples.examples
    assert not doctest.DocTestRunner().run(examples).failed


def drive_of(steps: int, tiles: list[int]) -> np.ndarray:
    rewards = np.full(steps, -0.1, np.float32)
    rewards[tiles] += TILE
    return rewards


def test_a_drive_has_failed_where_no_tile_comes_in_time() -> None:
    nobody_left = np.zeros(300, bool)
    # Tiles up to step 40 and at 150: failed from 41 until 75 steps before the next tile.
    lost = failed_steps(drive_of(300, [0, 40, 150]), nobody_left)
    expected = np.zeros(300, bool)
    expected[41 : 150 - NO_TILE_STEPS] = True
    expected[151:] = True  # no tile within 75 steps
    np.testing.assert_array_equal(lost, expected)
    # A tile after exactly NO_TILE_STEPS steps is in time.
    lost = failed_steps(
        drive_of(NO_TILE_STEPS + 2, [0, NO_TILE_STEPS + 1]), np.zeros(NO_TILE_STEPS + 2, bool)
    )
    np.testing.assert_array_equal(lost, [False, *[False] * (NO_TILE_STEPS + 1)])
    # Cut off too early to tell; no tile at all; left the playfield.
    assert not failed_steps(drive_of(110, [60]), np.zeros(110, bool)).any()
    assert failed_steps(drive_of(110, []), np.zeros(110, bool)).all()
    left = np.arange(110) == 109
    np.testing.assert_array_equal(failed_steps(drive_of(110, [60]), left), left)


def test_steps_after_a_whole_lap_are_left_out() -> None:
    tiles = np.arange(0, 900, 3)  # 300 tiles of 1000 / 300 points
    rewards = np.full(1000, -0.1, np.float32)
    rewards[tiles] += 1000 / 300
    assert lap_steps(rewards) == 898
    missed = rewards.copy()
    missed[tiles[100:119]] = -0.1  # nineteen of them missed: still a lap
    assert lap_steps(missed) == 898
    missed[tiles[200:210]] = -0.1  # ten more: no whole lap
    assert lap_steps(missed) == 1000
    rewards[950] = -100
    assert lap_steps(rewards) == 898


def blank_episode(seed: int, steps: int, lap_finished: bool = False) -> Episode:
    """An episode whose frames tell seed and row: in their first two pixels' levels."""
    frames = np.zeros((steps + 1, 64, 64, 3), np.uint8)
    frames[:, 0, 0, 0], frames[:, 0, 0, 1] = seed, np.arange(steps + 1)
    terminated = np.zeros(steps, bool)
    terminated[-1] = True
    rng = np.random.default_rng(seed)
    return Episode(
        frames=frames,
        actions=rng.uniform(0, 1, (steps, 3)).astype(np.float32),
        rewards=rng.uniform(-1, 1, steps).astype(np.float32),
        terminated=terminated,
        truncated=np.zeros(steps, bool),
        lap_finished=lap_finished,
        seed=seed,
        provenance={},
    )


FRAME_STEPS = {2: 5, 3: 9, 4: 1, 5: 7, 6: 12, 7: 3}  # by seed; 43 frames in all


@pytest.fixture(scope="module")
def entries(tmp_path_factory: pytest.TempPathFactory) -> list[EpisodeFile]:
    folder = tmp_path_factory.mktemp("rollouts")
    for seed, steps in FRAME_STEPS.items():
        write_episode(folder / "random" / f"{seed}.npz", blank_episode(seed, steps))
    return scan_files(folder, EPISODE_SCHEMA)


def tags_of(frames: Iterable[np.ndarray]) -> list[tuple[int, int]]:
    """Seed and row of every frame."""
    return [(int(frame[0, 0, 0]), int(frame[0, 0, 1])) for frame in frames]


def tags_in(batch: np.ndarray) -> list[tuple[int, int]]:
    """The same for a batch of V, in which every second frame is mirrored."""
    return tags_of([frame[:, ::-1] if n % 2 else frame for n, frame in enumerate(batch)])


ALL_FRAMES = {(seed, row) for seed, steps in FRAME_STEPS.items() for row in range(steps + 1)}


def test_an_epoch_of_shards_is_every_episode_once(
    entries: list[EpisodeFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(utils.data.frames, "SHARD_FRAMES", 15)
    shards, orders = shuffled_shards(entries, seed=0), []
    for _ in range(3):
        epoch: list[int] = []
        while len(epoch) < len(entries):
            shard = next(shards)
            frames = sum(entry.steps + 1 for entry in shard)
            # Full, and only just; or the rest of the epoch.
            assert frames >= 15 or len(epoch) + len(shard) == len(entries)
            assert frames - (shard[-1].steps + 1) < 15
            assert sorted(tags_of(read_shard(shard, CorruptFileLog(1, "left out")))) == sorted(
                (seed, row) for seed, row in ALL_FRAMES if seed in {e.seed for e in shard}
            )
            epoch += [entry.seed for entry in shard]
        assert sorted(epoch) == sorted(FRAME_STEPS)
        orders.append(epoch)
    assert orders[0] != orders[1]


@pytest.mark.parametrize("shard_frames", [15, 20_000])
def test_no_frame_is_seen_twice_in_an_epoch(
    entries: list[EpisodeFile], monkeypatch: pytest.MonkeyPatch, shard_frames: int
) -> None:
    monkeypatch.setattr(utils.data.frames, "SHARD_FRAMES", shard_frames)
    size, stream = 4, frame_batches(entries, 4, seed=0, start=0)
    orders = []
    shards = shuffled_shards(entries, seed=0)
    for _ in range(2):
        seen: list[tuple[int, int]] = []
        left = len(entries)
        while left:
            shard = next(shards)
            left -= len(shard)
            own = {entry.seed for entry in shard}
            for _ in range(sum(entry.steps + 1 for entry in shard) // size):
                batch = next(stream)
                assert batch.shape == (size, 64, 64, 3) and batch.dtype == np.uint8
                assert {seed for seed, _ in tags_in(batch)} <= own
                seen += tags_in(batch)
        assert len(seen) == len(set(seen)) and set(seen) <= ALL_FRAMES
        assert len(seen) > len(ALL_FRAMES) - 3 * size
        orders.append(seen)
    assert orders[0] != orders[1]
    assert orders[0] != sorted(orders[0])


@pytest.mark.parametrize("shard_frames", [15, 20_000])
def test_resumed_frames_are_the_uninterrupted_ones(
    entries: list[EpisodeFile], monkeypatch: pytest.MonkeyPatch, shard_frames: int
) -> None:
    monkeypatch.setattr(utils.data.frames, "SHARD_FRAMES", shard_frames)
    whole = [tags_in(batch) for batch in itertools.islice(frame_batches(entries, 4, 0, 0), 30)]
    for start in (1, 4, 9, 10, 11, 23):
        resumed = itertools.islice(frame_batches(entries, 4, 0, start), 30 - start)
        assert [tags_in(batch) for batch in resumed] == whole[start:], start
    other = [tags_in(batch) for batch in itertools.islice(frame_batches(entries, 4, 1, 0), 30)]
    assert other != whole


def test_fewer_frames_than_a_batch_are_used_again(entries: list[EpisodeFile]) -> None:
    few = [entry for entry in entries if entry.seed == 7]
    for batch in itertools.islice(frame_batches(few, 10, seed=0, start=0), 3):
        counts = [tags_in(batch).count((7, row)) for row in range(4)]
        assert sum(counts) == 10 and min(counts) == 2 and max(counts) == 3


def test_a_file_damaged_since_the_scan_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed, steps in FRAME_STEPS.items():
        write_episode(tmp_path / "random" / f"{seed}.npz", blank_episode(seed, steps))
    damaged = scan_files(tmp_path, EPISODE_SCHEMA)
    victim = damaged[-2].path
    victim.write_bytes(victim.read_bytes()[:-40])
    batches = list(itertools.islice(frame_batches(damaged, 6, seed=0, start=0), 6))
    seen = {tag for batch in batches for tag in tags_in(batch)}
    assert seen <= {tag for tag in ALL_FRAMES if tag[0] != damaged[-2].seed}
    said = capsys.readouterr().err
    assert str(victim) in said and f"1 of {len(damaged)} files left out" in said
    # Read again in every epoch, named once.
    assert said.count(str(victim)) == 1


def test_other_episodes_replace_a_shard_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(utils.data.frames, "SHARD_FRAMES", 1)  # an episode a shard
    for seed, steps in FRAME_STEPS.items():
        write_episode(tmp_path / "random" / f"{seed}.npz", blank_episode(seed, steps))
    damaged = scan_files(tmp_path, EPISODE_SCHEMA)
    victim = damaged[0].path
    victim.write_bytes(victim.read_bytes()[:-40])
    batches = itertools.islice(frame_batches(damaged, 4, seed=0, start=0), 30)
    seen = {seed for batch in batches for seed, _ in tags_in(batch)}
    assert seen == set(FRAME_STEPS) - {damaged[0].seed}
    victim.unlink()
    with pytest.raises(UserError, match="no episode can be read"):
        next(frame_batches(damaged[:1], 4, seed=0, start=0))


def test_evenly_spaced_frames_come_from_all_episodes(entries: list[EpisodeFile]) -> None:
    tags = tags_of(evenly_spaced_frames(entries, 12))
    assert len(tags) == len(set(tags)) == 12
    assert {seed for seed, _ in tags} == set(FRAME_STEPS)
    # Two of each: the first frame and the last.
    assert set(tags) == {(s, row) for s, steps in FRAME_STEPS.items() for row in (0, steps)}
    assert len(evenly_spaced_frames(entries, 3)) == 3
    assert evenly_spaced_frames([], 3).shape == (0, 64, 64, 3)
