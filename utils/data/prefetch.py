"""Files read ahead in threads, side by side: unpacking them lets go of Python's lock."""

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
    """`read(item)` of every item, in order; THREADS of them are always under way."""
    waiting = iter(items)
    with ThreadPoolExecutor(READER_THREADS) as readers:
        first = itertools.islice(waiting, READER_THREADS)
        reading = collections.deque(readers.submit(read, item) for item in first)
        while reading:
            done = reading.popleft()
            reading.extend(readers.submit(read, item) for item in itertools.islice(waiting, 1))
            yield done
