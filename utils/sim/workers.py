"""Worker processes, one thread each; one that dies or hangs is replaced and its task redone.

On this machine they are Pebble's, on others a Dask cluster's.
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

MAX_ATTEMPTS = 3  # a task whose worker dies this often is reported, not tried again
TASK_TIMEOUT = 600.0  # seconds; the slowest episode (Gymnasium's drawing) takes about 20

CONNECT_TIMEOUT = 10  # in which a Dask scheduler has to answer

# XLA and BLAS would start a thread per core in every worker, and the workers would fight.
# Workers never touch an accelerator: it belongs to the parent.
WORKER_ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "CUDA_VISIBLE_DEVICES": "",
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


class Pool(NamedTuple):
    """Where tasks are done: on this machine or on a cluster."""

    submit: Callable[[Callable[[Any], Any], Any], "Future[Any]"]
    size: int  # tasks done at a time
    deaths: tuple[type[BaseException], ...]  # what a future raises whose worker died or hung
    attempts: int  # so many of these, and the task is given up


@contextlib.contextmanager
def local_pool(workers: int, timeout: float) -> Iterator[Pool]:
    """`workers` fresh processes on this machine; nothing of them is left behind."""
    before = {name: os.environ.get(name) for name in WORKER_ENVIRONMENT}
    os.environ.update(WORKER_ENVIRONMENT)  # the children inherit it; ours is restored below
    pool = ProcessPool(
        max_workers=workers,
        initializer=_begin_worker,
        context=multiprocessing.get_context("spawn"),
    )

    def submit(function: Callable[[TaskT], ResultT], task: TaskT) -> "Future[ResultT]":
        try:
            return pool.schedule(function, args=(task,), timeout=timeout)
        except BrokenProcessPool as error:  # no process could be started: let that be said
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
        # In a thread of its own, which no signal interrupts: workers that were left would not
        # end by Ctrl-C, and this process not without them.
        ending = threading.Thread(target=pool.join)
        ending.start()
        ending.join()


@contextlib.contextmanager
def dask_pool(address: str, timeout: float) -> Iterator[Pool]:
    """The workers of a Dask cluster, which are processes of one thread each.

    Dask itself gives the task of a worker that died to another, up to MAX_ATTEMPTS times unless it
    is configured otherwise; one that hangs is made to die. When this process ends, Dask forgets the
    tasks that it has not begun.
    """
    try:
        import distributed
    except ImportError:
        raise UserError("--dask needs Dask: pip install -r requirements/dask.txt") from None
    # Of a cluster that is gone it would print a traceback; what there is to say, we say.
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
    # Dask cannot stop a task that hangs; a worker that dies is replaced.
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
    """Yield (task, function(task)) as they end, from `workers` fresh processes.

    `cluster` is the address of a Dask scheduler, whose workers are then used instead. A task
    whose worker died or did not answer for `timeout` seconds is given to another; after
    MAX_ATTEMPTS it raises UserError. What `function` itself raises is raised here.
    """
    waiting = iter(tasks)
    running: dict[Future, tuple[TaskT, int]] = {}
    where = local_pool(workers, timeout) if cluster is None else dask_pool(cluster, timeout)
    with where as pool:

        def start(task: TaskT, attempt: int) -> None:
            running[pool.submit(function, task)] = (task, attempt)

        # A bounded queue: ten thousand tasks need not be pickled before the first has run.
        for task in itertools.islice(waiting, 2 * pool.size):
            start(task, 1)
        while running:
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                task, attempt = running.pop(future)
                if future.cancelled():
                    raise UserError(f"{task}: the Dask cluster at {cluster} is gone")
                failure = future.exception()
                if isinstance(failure, pool.deaths):
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
