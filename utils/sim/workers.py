"""Worker processes with one thread each. A worker that dies or hangs is replaced.

On this machine the workers are Pebble's; on a Dask cluster they are Dask's.
"""

import contextlib
import itertools
import logging
import multiprocessing
import multiprocessing.connection
import multiprocessing.context
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, TimeoutError, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Protocol, TypeVar

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
_starting = threading.Lock()  # held while the environment is that of a worker


class _WorkerProcess(multiprocessing.context.SpawnProcess):
    """A process that inherits WORKER_ENVIRONMENT, which the parent has for no longer than needed.

    The variables must be there before the process imports anything.
    """

    def start(self) -> None:
        """Start the process."""
        with _starting:
            before = {name: os.environ.get(name) for name in WORKER_ENVIRONMENT}
            os.environ.update(WORKER_ENVIRONMENT)
            try:
                super().start()
            finally:
                for name, value in before.items():
                    if value is None:
                        os.environ.pop(name, None)
                    else:
                        os.environ[name] = value


class _WorkerContext(multiprocessing.context.SpawnContext):
    Process = _WorkerProcess


def _begin_worker() -> None:
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    """Exit when the parent process has ended, even by kill −9."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)


class Pool(Protocol):
    """Workers on this machine or on a cluster."""

    size: int  # number of workers
    cluster: str | None  # address of the Dask scheduler
    worker_errors: tuple[type[BaseException], ...]  # raised if the worker died or hung
    attempts: int  # of a task, before such an error is final

    def submit(
        self, function: Callable[[TaskT], ResultT], task: TaskT, timeout: float
    ) -> "Future[ResultT]":
        """Give a task to a worker. It counts as hung after `timeout` seconds."""
        ...

    def end(self) -> None:
        """End the workers, or leave the cluster."""


class LocalPool:
    """`size` processes on this machine, which begin with the first task."""

    cluster: str | None = None
    worker_errors: tuple[type[BaseException], ...] = (
        ProcessExpired,
        TimeoutError,
        BrokenProcessPool,
    )
    attempts = MAX_ATTEMPTS

    def __init__(self, size: int):
        self.size = size
        self._processes = self._new_processes()

    def _new_processes(self) -> ProcessPool:
        return ProcessPool(self.size, initializer=_begin_worker, context=_WorkerContext())

    def submit(
        self, function: Callable[[TaskT], ResultT], task: TaskT, timeout: float
    ) -> "Future[ResultT]":
        """See `Pool`."""
        try:
            if not self._processes.active:  # Pebble gives up if a worker dies while all are idle
                self.end()
                self._processes = self._new_processes()
            return self._processes.schedule(function, args=(task,), timeout=timeout)
        except BrokenProcessPool as error:  # no process could be started; raise the cause
            raise error.__cause__ or error from None
        except OSError as error:
            raise UserError(
                f"cannot start worker processes ({error.strerror}); on Linux they need a writable "
                "/dev/shm"
            ) from error

    def end(self) -> None:
        """End the processes, at work or not."""
        self._processes.stop()
        # In a thread, because a signal must not interrupt the join: the workers ignore Ctrl-C, and
        # this process cannot exit before they do.
        ending = threading.Thread(target=self._processes.join)
        ending.start()
        ending.join()


class DaskPool:
    """The workers of a Dask cluster, which must be processes with one thread each.

    Dask itself gives the task of a dead worker to another, by default up to MAX_ATTEMPTS times.
    A worker that hangs kills itself. When this process ends, Dask cancels the tasks that have not
    begun.
    """

    attempts = 1

    def __init__(self, cluster: str):
        try:
            import distributed
        except ImportError:
            raise UserError("--dask needs Dask: pip install -r requirements/dask.txt") from None
        # Dask logs a traceback when a cluster disappears; run_tasks raises a UserError instead.
        logging.getLogger("distributed.client").setLevel(logging.CRITICAL)
        try:
            client: Any = distributed.Client(cluster, timeout=CONNECT_TIMEOUT, set_as_default=False)
        except (OSError, ValueError) as error:
            raise UserError(f"no Dask scheduler answers at {cluster}: {error}") from None
        threads = client.nthreads().values()
        if not threads or max(threads) > 1:
            client.close()
            found = "no workers" if not threads else "workers of several threads"
            raise UserError(f"{cluster} has {found}: start them with `dask worker --nthreads 1`")
        self.cluster: str | None = cluster
        self.size = len(threads)
        self.worker_errors: tuple[type[BaseException], ...] = (distributed.KilledWorker,)
        self._client, self._executor = client, client.get_executor(pure=False)

    def submit(
        self, function: Callable[[TaskT], ResultT], task: TaskT, timeout: float
    ) -> "Future[ResultT]":
        """See `Pool`."""
        return self._executor.submit(_do_on_cluster, function, task, timeout)

    def end(self) -> None:
        """Leave the cluster."""
        self._client.close()


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


_idle: list[Pool] | None = None  # pools for the next call of run_tasks; None: none are kept


@contextlib.contextmanager
def kept_workers() -> Iterator[None]:
    """Within this block `run_tasks` keeps its workers for its next call. They end with the block.

    So they import and compile once. A block inside another one keeps nothing of its own.
    """
    global _idle
    if _idle is not None:
        yield
        return
    _idle = []
    try:
        yield
    finally:
        pools, _idle = _idle, None
        for pool in pools:
            pool.end()


def _kept_pool(workers: int | str) -> Pool | None:
    while _idle:
        pool = _idle.pop()
        if pool.cluster == workers or (
            pool.cluster is None and isinstance(workers, int) and pool.size >= workers
        ):
            return pool
        pool.end()
    return None


@contextlib.contextmanager
def _borrowed_pool(workers: int | str) -> Iterator[Pool]:
    """A kept pool of at least `workers` workers, or else a new one. A failure ends the pool."""
    pool = _kept_pool(workers)
    pool = pool or (LocalPool(workers) if isinstance(workers, int) else DaskPool(workers))
    try:
        yield pool
    except BaseException:  # GeneratorExit, too: its workers are still at work
        pool.end()
        raise
    if _idle is None:
        pool.end()
    else:
        _idle.append(pool)


def run_tasks(
    function: Callable[[TaskT], ResultT],
    tasks: Iterable[TaskT],
    workers: int | str,
    timeout: float = TASK_TIMEOUT,
) -> Iterator[tuple[TaskT, ResultT]]:
    """Run `function` on every task in worker processes. Yields (task, result) as they finish.

    Args:
        function: a function that can be pickled. An exception that it raises is raised here.
        tasks: read lazily.
        workers: number of processes on this machine, or address of a Dask scheduler, whose
            workers are used; see `kept_workers`.
        timeout: seconds after which a task counts as hung.

    A task whose worker died or hung is given to another worker. After MAX_ATTEMPTS such attempts it
    raises UserError.
    """
    waiting = iter(tasks)
    running: dict[Future, tuple[TaskT, int]] = {}
    with _borrowed_pool(workers) as pool:

        def start(task: TaskT, attempt: int) -> None:
            running[pool.submit(function, task, timeout)] = (task, attempt)

        # A bounded queue, so that the first task need not wait until all are pickled.
        for task in itertools.islice(waiting, 2 * pool.size):
            start(task, 1)
        while running:
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                task, attempt = running.pop(future)
                if future.cancelled():
                    raise UserError(f"{task}: the Dask cluster at {workers} is gone")
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
