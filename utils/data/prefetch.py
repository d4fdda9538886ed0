"""Read files ahead in threads. Decompression releases Python's global interpreter lock."""

import collections
import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from utils.runtime import default_workers

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

READER_THREADS = min(16, default_workers())  # each may hold an episode of 12 MB


def read_ahead(
    read: Callable[[ItemT], ResultT], items: Iterable[ItemT]
) -> Iterator[Future[ResultT]]:
    """`read(item)` for every item, in order. READER_THREADS calls run at the same time."""
    waiting = iter(items)
    with ThreadPoolExecutor(READER_THREADS) as readers:
        first = itertools.islice(waiting, READER_THREADS)
        pending = collections.deque(readers.submit(read, item) for item in first)
        while pending:
            done = pending.popleft()
            pending.extend(readers.submit(read, item) for item in itertools.islice(waiting, 1))
            yield done
