"""Worker processes, one thread each; one that dies or hangs is replaced and its task redone."""

import itertools
import multiprocessing
import multiprocessing.connection
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, TimeoutError, wait
from typing import TypeVar

from pebble import ProcessExpired, ProcessPool

from utils.commandline import Failure

TaskT = TypeVar("TaskT")
ResultT = TypeVar("ResultT")

ATTEMPTS = 3  # a task whose worker dies this often is reported, not tried again
TASK_TIMEOUT = 600.0  # seconds; the slowest episode (Gymnasium's drawing) takes about 20

# XLA and BLAS would start a thread per core in every worker, and the workers would fight.
# Workers never touch an accelerator: it belongs to the parent.
WORKER_ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "NPROC": "1",
    "OMP_NUM_THREADS": "1",
    "SDL_VIDEODRIVER": "dummy",
}


def _begin_worker() -> None:
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    """End this worker when its parent has ended, even by kill −9: no orphans."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)


def run_tasks(
    function: Callable[[TaskT], ResultT],
    tasks: Iterable[TaskT],
    workers: int,
    timeout: float = TASK_TIMEOUT,
) -> Iterator[tuple[TaskT, ResultT]]:
    """Yield (task, function(task)) as they end, from `workers` fresh processes.

    A task whose worker died or did not answer for `timeout` seconds is given to another; after
    ATTEMPTS it raises Failure. What `function` itself raises is raised here.
    """
    waiting = iter(tasks)
    running: dict[Future, tuple[TaskT, int]] = {}
    before = {name: os.environ.get(name) for name in WORKER_ENVIRONMENT}
    os.environ.update(WORKER_ENVIRONMENT)  # the children inherit it; ours is restored below
    pool = ProcessPool(
        max_workers=workers,
        initializer=_begin_worker,
        context=multiprocessing.get_context("spawn"),
    )

    def start(task: TaskT, attempt: int) -> None:
        running[pool.schedule(function, args=(task,), timeout=timeout)] = (task, attempt)

    try:
        # A bounded queue: ten thousand tasks need not be pickled before the first has run.
        for task in itertools.islice(waiting, 2 * workers):
            start(task, 1)
        while running:
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                task, attempt = running.pop(future)
                failure = future.exception()
                if isinstance(failure, (ProcessExpired, TimeoutError)):
                    if attempt == ATTEMPTS:
                        raise Failure(
                            f"{task}: its worker died or hung {ATTEMPTS} times: {failure}"
                        )
                    start(task, attempt + 1)
                    continue
                result = future.result()
                for following in itertools.islice(waiting, 1):
                    start(following, 1)
                yield task, result
        pool.close()
    finally:
        pool.stop()
        pool.join()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def default_workers() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
