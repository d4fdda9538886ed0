"""Batches of frames for V, from more episodes than fit in memory.

Episodes are shuffled and read in shards, and the frames of a shard are shuffled again. The frames
in batch n depend only on the seed, so a resumed run sees the same batches as an uninterrupted one.
At most two shards are in memory, one in use and one being read.
"""

import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import Future

import numpy as np

from utils.data.episodes import EPISODE_SCHEMA, FRAME_SHAPE, EpisodeFile
from utils.data.mirror import mirror_frames
from utils.data.prefetch import Threads, read_ahead
from utils.errors import UserError
from utils.io.npz import CorruptFileLog

SHARD_FRAMES = 20_000  # 250 MB, about twenty episodes, which mixes frames well enough for V


def shuffled_shards(entries: Sequence[EpisodeFile], seed: int) -> Iterator[list[EpisodeFile]]:
    """Endless shards. Each epoch has every episode once, in a new order."""
    for epoch in itertools.count():
        order = np.random.default_rng([seed, epoch]).permutation(len(entries))
        shard: list[EpisodeFile] = []
        frames = 0
        for index in order:
            shard.append(entries[index])
            frames += entries[index].steps + 1
            if frames >= SHARD_FRAMES:
                yield shard
                shard, frames = [], 0
        if shard:
            yield shard


def count_frames(shard: Sequence[EpisodeFile]) -> int:
    """Number of frames in the episodes of a shard."""
    return sum(entry.steps + 1 for entry in shard)


def read_frames(entry: EpisodeFile) -> np.ndarray:
    """The frames of an episode, uint8 (T+1, 64, 64, 3). Raises CorruptFileError."""
    return entry.read(EPISODE_SCHEMA, ("frames",))["frames"]


def read_shard(shard: Sequence[EpisodeFile], corrupt: CorruptFileLog) -> np.ndarray:
    """All frames of a shard, uint8 (n, 64, 64, 3), without those of corrupt files."""
    frames = np.empty((count_frames(shard), *FRAME_SHAPE), np.uint8)
    reads, count = read_ahead(read_frames, shard), 0

    def read(_: EpisodeFile) -> None:
        nonlocal count
        part = next(reads).result()
        frames[count : count + len(part)] = part
        count += len(part)

    corrupt.read_all(shard, read)
    return frames[:count]


def frame_batches(
    entries: Sequence[EpisodeFile], batch: int, seed: int, start: int
) -> Iterator[np.ndarray]:
    """Endless batches, uint8 (batch, 64, 64, 3), beginning with batch number `start`.

    Every second frame is mirrored.
    The first shard is read from the call on, while the caller compiles its step.
    """

    def batches_in(shard: list[EpisodeFile]) -> int:
        return max(1, count_frames(shard) // batch)

    corrupt = CorruptFileLog(len(entries), "left out")

    def read(shard: list[EpisodeFile]) -> np.ndarray:
        frames = read_shard(shard, corrupt)
        # The last shard of an epoch may be a single corrupt episode. Others then replace it.
        if not len(frames):
            frames = evenly_spaced_frames(entries, count_frames(shard), corrupt)
        if not len(frames):
            raise UserError("no episode can be read")
        return frames

    numbered = enumerate(shuffled_shards(entries, seed))
    number, shard = next(numbered)
    while start >= batches_in(shard):
        start -= batches_in(shard)
        number, shard = next(numbered)
    reader = Threads(1)
    first = reader.submit(read, shard)

    def batches(
        number: int, shard: list[EpisodeFile], pending: Future[np.ndarray], start: int
    ) -> Iterator[np.ndarray]:
        with reader:
            while True:
                frames, count, total = pending.result(), batches_in(shard), count_frames(shard)
                order = np.random.default_rng([seed, number, len(shard)]).permutation(total)
                number, shard = next(numbered)
                pending = reader.submit(read, shard)
                for position in range(start, count):
                    # The modulo repeats frames if there are fewer than a batch needs, or fewer
                    # than expected because a file is corrupt.
                    rows = np.arange(position * batch, (position + 1) * batch) % len(order)
                    chosen = frames[order[rows] % len(frames)]
                    chosen[1::2] = mirror_frames(chosen[1::2])
                    yield chosen
                start = 0

    return batches(number, shard, first, start)


def evenly_spaced_frames(
    entries: Sequence[EpisodeFile], count: int, corrupt: CorruptFileLog | None = None
) -> np.ndarray:
    """Up to `count` frames spread evenly over the episodes, uint8 (n, 64, 64, 3)."""
    corrupt = corrupt or CorruptFileLog(len(entries), "left out")
    each = -(-count // max(1, len(entries)))

    def pick(entry: EpisodeFile) -> np.ndarray:
        frames = read_frames(entry)
        return frames[np.linspace(0, len(frames) - 1, min(each, len(frames))).astype(int)]

    reads = read_ahead(pick, entries[:count])
    picked = corrupt.read_all(entries[:count], lambda _: next(reads).result())
    return np.concatenate(picked)[:count] if picked else np.empty((0, *FRAME_SHAPE), np.uint8)
