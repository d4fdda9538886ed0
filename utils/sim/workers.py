"""Worker processes with one thread each. A worker that dies or hangs is replaced.

On this machine the workers are Pebble's; on a Dask cluster they are Dask's.
"""

import contextlib
import itertools
import logging
import multiprocessing
import multiprocessing.connection
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, TimeoutError, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, NamedTuple, TypeVar

from pebble import ProcessExpired, ProcessPool

from utils.errors import UserError

TaskT = TypeVar("TaskT")
ResultT = TypeVar("ResultT")

MAX_ATTEMPTS = 3  # after so many dead workers a task is an error
TASK_TIMEOUT = 600.0  # seconds; an episode with Gymnasium's own renderer takes about 20
CONNECT_TIMEOUT = 10  # seconds, of a Dask scheduler

# One thread per worker: by default XLA and BLAS start a thread per core in every worker. The
# accelerator is left to the parent process.
WORKER_ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "CUDA_VISIBLE_DEVICES": "",
    "JAX_ENABLE_X64": "0",
    "NPROC": "1",
    "OMP_NUM_THREADS": "1",
    "SDL_VIDEODRIVER": "dummy",
}


def _begin_worker() -> None:
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    """Exit when the parent process has ended, even by kill −9."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)


class Pool(NamedTuple):
    """Workers on this machine or on a cluster."""

    submit: Callable[[Callable[[Any], Any], Any], "Future[Any]"]
    size: int  # number of workers
    worker_errors: tuple[type[BaseException], ...]  # raised if the worker died or hung
    attempts: int  # of a task, before such an error is final


@contextlib.contextmanager
def local_pool(workers: int, timeout: float) -> Iterator[Pool]:
    """A pool of `workers` new processes on this machine, which end with the block."""
    before = {name: os.environ.get(name) for name in WORKER_ENVIRONMENT}
    os.environ.update(WORKER_ENVIRONMENT)  # inherited by the workers; restored below
    pool = ProcessPool(
        max_workers=workers,
        initializer=_begin_worker,
        context=multiprocessing.get_context("spawn"),
    )

    def submit(function: Callable[[TaskT], ResultT], task: TaskT) -> "Future[ResultT]":
        try:
            return pool.schedule(function, args=(task,), timeout=timeout)
        except BrokenProcessPool as error:  # no process could be started; raise the cause
            raise error.__cause__ or error from None

    try:
        yield Pool(submit, workers, (ProcessExpired, TimeoutError), MAX_ATTEMPTS)
        pool.close()
    finally:
        pool.stop()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        # In a thread, because a signal must not interrupt the join: the workers ignore Ctrl-C, and
        # this process cannot exit before they do.
        ending = threading.Thread(target=pool.join)
        ending.start()
        ending.join()


@contextlib.contextmanager
def dask_pool(address: str, timeout: float) -> Iterator[Pool]:
    """The workers of a Dask cluster, which must be processes with one thread each.

    Dask itself gives the task of a dead worker to another, by default up to MAX_ATTEMPTS times.
    A worker that hangs kills itself after `timeout` seconds. When this process ends, Dask cancels
    the tasks that have not begun.
    """
    try:
        import distributed
    except ImportError:
        raise UserError("--dask needs Dask: pip install -r requirements/dask.txt") from None
    # Dask logs a traceback when a cluster disappears; run_tasks raises a UserError instead.
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)
    try:
        client: Any = distributed.Client(address, timeout=CONNECT_TIMEOUT, set_as_default=False)
    except (OSError, ValueError) as error:
        raise UserError(f"no Dask scheduler answers at {address}: {error}") from None
    with client:
        threads = client.nthreads().values()
        if not threads or max(threads) > 1:
            found = "no workers" if not threads else "workers of several threads"
            raise UserError(f"{address} has {found}: start them with `dask worker --nthreads 1`")
        executor = client.get_executor(pure=False)

        def submit(function: Callable[[TaskT], ResultT], task: TaskT) -> "Future[ResultT]":
            return executor.submit(_do_on_cluster, function, task, timeout)

        yield Pool(submit, len(threads), (distributed.KilledWorker,), attempts=1)


def _do_on_cluster(function: Callable[[TaskT], ResultT], task: TaskT, timeout: float) -> ResultT:
    os.environ.update(WORKER_ENVIRONMENT)  # before the task imports JAX
    # Dask cannot stop a task that hangs, but it replaces a worker that dies.
    clock = threading.Timer(timeout, os._exit, (1,))
    clock.daemon = True
    clock.start()
    try:
        return function(task)
    finally:
        clock.cancel()


def run_tasks(
    function: Callable[[TaskT], ResultT],
    tasks: Iterable[TaskT],
    workers: int,
    timeout: float = TASK_TIMEOUT,
    cluster: str | None = None,
) -> Iterator[tuple[TaskT, ResultT]]:
    """Run `function` on every task in worker processes. Yields (task, result) as they finish.

    Args:
        function: a function that can be pickled. An exception that it raises is raised here.
        tasks: read lazily.
        workers: number of new processes on this machine.
        timeout: seconds after which a task counts as hung.
        cluster: address of a Dask scheduler, whose workers are used instead.

    A task whose worker died or hung is given to another worker. After MAX_ATTEMPTS such attempts it
    raises UserError.
    """
    waiting = iter(tasks)
    running: dict[Future, tuple[TaskT, int]] = {}
    where = local_pool(workers, timeout) if cluster is None else dask_pool(cluster, timeout)
    with where as pool:

        def start(task: TaskT, attempt: int) -> None:
            running[pool.submit(function, task)] = (task, attempt)

        # A bounded queue, so that the first task need not wait until all are pickled.
        for task in itertools.islice(waiting, 2 * pool.size):
            start(task, 1)
        while running:
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                task, attempt = running.pop(future)
                if future.cancelled():
                    raise UserError(f"{task}: the Dask cluster at {cluster} is gone")
                failure = future.exception()
                if isinstance(failure, pool.worker_errors):
                    if attempt == pool.attempts:
                        raise UserError(
                            f"{task}: its worker died or hung {MAX_ATTEMPTS} times: {failure}"
                        )
                    start(task, attempt + 1)
                    continue
                result = future.result()
                for following in itertools.islice(waiting, 1):
                    start(following, 1)
                yield task, result
