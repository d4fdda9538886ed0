"""Read files ahead in threads. Decompression releases Python's global interpreter lock."""

import collections
import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from utils.cpus import default_workers

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

READER_THREADS = min(16, default_workers())  # each may hold an episode of 12 MB


class Threads(ThreadPoolExecutor):
    """Threads of a generator. Its end cancels reads that have not begun, and waits for none.

    An error keeps the frames of its traceback alive, and with them an unfinished generator.
    Python's garbage collector closes it later, perhaps while another thread starts and holds the
    lock that a wait for threads needs. Neither would then go on.
    """

    def __exit__(self, *error: object) -> None:
        self.shutdown(wait=False, cancel_futures=True)


def read_ahead(
    read: Callable[[ItemT], ResultT], items: Iterable[ItemT]
) -> Iterator[Future[ResultT]]:
    """`read(item)` for every item, in order. READER_THREADS calls run at the same time."""
    waiting = iter(items)
    with Threads(READER_THREADS) as readers:
        first = itertools.islice(waiting, READER_THREADS)
        pending = collections.deque(readers.submit(read, item) for item in first)
        while pending:
            done = pending.popleft()
            pending.extend(readers.submit(read, item) for item in itertools.islice(waiting, 1))
            yield done
