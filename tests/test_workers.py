"""Worker processes that die, hang, raise or lose their parent, with real processes."""

import contextlib
import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from pebble import ProcessPool

from utils.cpus import default_workers
from utils.errors import UserError
from utils.sim.workers import MAX_ATTEMPTS, WORKER_ENVIRONMENT, kept_workers, run_tasks

ROOT = Path(__file__).parents[1]
Task = tuple[int, str]  # a number, and a file or folder that workers leave their traces in


def note(folder: str, number: int) -> int:
    """Leave a trace of this attempt at task `number`; returns which attempt it is."""
    path = Path(folder) / f"attempts-{number}"
    with open(path, "a") as file:
        file.write(f"{os.getpid()}\n")
    return len(path.read_text().splitlines())


def attempts(folder: Path, number: int) -> list[int]:
    """The processes that tried task `number`."""
    path = folder / f"attempts-{number}"
    return [int(line) for line in path.read_text().splitlines()] if path.exists() else []


def square(task: Task) -> int:
    note(task[1], task[0])
    return task[0] ** 2


def die_once(task: Task) -> int:
    if task[0] == 1 and note(task[1], 1) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return task[0] ** 2


def die_always(task: Task) -> int:
    if task[0] == 1:
        note(task[1], 1)
        os.kill(os.getpid(), signal.SIGKILL)
    return task[0] ** 2


def hang_once(task: Task) -> int:
    if note(task[1], task[0]) == 1:
        time.sleep(3600)
    return task[0] ** 2


def complain(task: Task) -> int:
    raise UserError(f"task {task[0]} cannot be done")


def surroundings(task: Task) -> dict[str, str | None]:
    return {name: os.environ.get(name) for name in WORKER_ENVIRONMENT}


def die_once_then_surroundings(task: Task) -> dict[str, str | None]:
    if note(task[1], task[0]) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return surroundings(task)


def meet(task: Task) -> int:
    """The worker's process, once as many workers as the task's number have come."""
    number, folder = task
    (Path(folder) / f"{os.getpid()}").touch()
    wait_for(lambda: len(list(Path(folder).iterdir())) >= number)
    return os.getpid()


def processes(workers: int) -> set[int]:
    """The processes of as many workers, each of which does one task."""
    with tempfile.TemporaryDirectory() as folder:
        tasks = [(workers, folder)] * workers
        return {result for _, result in run_tasks(meet, tasks, workers)}


def sleep_long(task: Task) -> None:
    note(task[1], task[0])
    time.sleep(3600)


def is_running(process: int) -> bool:
    """Whether the process is there and no zombie."""
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_for(condition: Callable[[], bool], seconds: float = 180.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def test_every_task_is_done_once_and_the_queue_is_bounded(tmp_path: Path) -> None:
    taken = []

    def tasks() -> Iterator[Task]:
        for number in range(20):
            taken.append(number)
            yield number, str(tmp_path)

    results = {}
    for (number, _), result in run_tasks(square, tasks(), workers=2):
        if not results:
            assert len(taken) <= 2 * 2 + 2  # ten thousand tasks are not all pickled at once
        results[number] = result
    assert results == {number: number**2 for number in range(20)}
    assert all(len(attempts(tmp_path, number)) == 1 for number in range(20))
    # Other processes than ours, and no more than were asked for.
    processes = {attempts(tmp_path, number)[0] for number in range(20)}
    assert os.getpid() not in processes and len(processes) <= 2
    assert not any(is_running(process) for process in processes)


def test_a_worker_that_dies_is_replaced_and_its_task_redone(tmp_path: Path) -> None:
    tasks = [(number, str(tmp_path)) for number in range(4)]
    results = {task[0]: result for task, result in run_tasks(die_once, tasks, workers=1)}
    assert results == {0: 0, 1: 1, 2: 4, 3: 9}
    first, second = attempts(tmp_path, 1)
    assert first != second


def test_a_task_whose_worker_always_dies_is_reported_by_name(tmp_path: Path) -> None:
    tasks = [(number, str(tmp_path)) for number in range(2)]
    with pytest.raises(UserError, match=r"\(1, .*worker died or hung 3 times"):
        list(run_tasks(die_always, tasks, workers=1))
    assert len(attempts(tmp_path, 1)) == MAX_ATTEMPTS == 3


def test_a_worker_that_hangs_is_replaced_and_its_task_redone(tmp_path: Path) -> None:
    tasks = [(3, str(tmp_path))]
    assert list(run_tasks(hang_once, tasks, workers=1, timeout=1.0)) == [(tasks[0], 9)]
    first, second = attempts(tmp_path, 3)
    assert first != second
    assert not is_running(first)


def test_what_a_task_raises_is_raised_here_and_not_tried_again(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="task 5 cannot be done"):
        list(run_tasks(complain, [(5, "")], workers=1))


def test_a_machine_without_semaphores_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container whose /dev/shm belongs to another user."""

    def refused(*arguments: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr("_multiprocessing.SemLock", refused)
    with pytest.raises(UserError, match=r"worker processes \(Permission denied\).* /dev/shm"):
        list(run_tasks(square, [(1, "")], 1))


def test_workers_have_one_thread_and_no_accelerator(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("JAX_PLATFORMS", "mine")
    monkeypatch.delenv("NPROC", raising=False)
    before = dict(os.environ)
    tasks = [(number, "") for number in range(3)]
    for _, seen in run_tasks(surroundings, tasks, workers=1):
        assert seen == WORKER_ENVIRONMENT
    assert dict(os.environ) == before


def test_workers_end_and_the_environment_is_restored_when_the_loop_is_left(tmp_path: Path) -> None:
    before = dict(os.environ)
    results = run_tasks(square, ((n, str(tmp_path)) for n in range(100)), workers=1)
    next(results)
    results.close()  # as an exception in the consuming loop does
    assert dict(os.environ) == before
    assert not is_running(attempts(tmp_path, 0)[0])
    assert not attempts(tmp_path, 99)


def test_workers_are_kept_until_the_end_of_the_outermost_block() -> None:
    before = dict(os.environ)
    with kept_workers():
        first = processes(2)
        with kept_workers():
            assert processes(2) == first >= processes(1)
        assert len(first) == 2 and all(map(is_running, first))
        assert dict(os.environ) == before
        more = processes(3)  # more workers than are there: all are new
        assert len(more) == 3 and not more & first
        assert not any(map(is_running, first))
    assert not any(map(is_running, more))
    assert not processes(1) & more


@pytest.mark.parametrize("noticed", [True, False], ids=["noticed", "not noticed"])
@pytest.mark.parametrize("killed", [1, 2], ids="{} of 2 killed".format)
def test_kept_workers_that_die_between_two_calls_are_replaced(killed: int, noticed: bool) -> None:
    with kept_workers():
        first = processes(2)
        victims = list(first)[:killed]
        for worker in victims:
            os.kill(worker, signal.SIGKILL)
        if noticed:  # the pool looks every tenth of a second
            time.sleep(1.0)
        second = processes(2)
        assert len(second) == 2 and not second & set(victims)
    assert not any(map(is_running, first | second))


def test_a_worker_that_replaces_another_has_one_thread_too(tmp_path: Path) -> None:
    before = dict(os.environ)
    with kept_workers():
        processes(1)
        tasks = [(0, str(tmp_path))]
        [(_, seen)] = run_tasks(die_once_then_surroundings, tasks, workers=1)
        assert len(attempts(tmp_path, 0)) == 2
    assert seen == WORKER_ENVIRONMENT
    assert dict(os.environ) == before


def test_no_worker_is_kept_after_a_failure_or_when_the_loop_is_left(tmp_path: Path) -> None:
    with kept_workers():
        first = processes(1)
        with pytest.raises(UserError, match="task 5 cannot be done"):
            list(run_tasks(complain, [(5, "")], workers=1))
        assert not any(map(is_running, first))
        results = run_tasks(square, ((n, str(tmp_path)) for n in range(100)), workers=1)
        next(results)
        results.close()
        assert not is_running(attempts(tmp_path, 0)[0])
        assert not attempts(tmp_path, 99)
        assert [result for _, result in run_tasks(square, [(7, str(tmp_path))], workers=1)] == [49]


@pytest.mark.parametrize("kept", [False, True], ids=["one call", "kept"])
def test_ctrl_c_while_workers_are_being_ended_leaves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: bool
) -> None:
    join = ProcessPool.join

    def interrupted(pool: ProcessPool) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)  # where the main thread joins, it is interrupted here
        join(pool)

    monkeypatch.setattr(ProcessPool, "join", interrupted)
    with pytest.raises(KeyboardInterrupt), kept_workers() if kept else contextlib.nullcontext():
        list(run_tasks(square, [(0, str(tmp_path))], workers=1))
        assert kept, "a worker was left when the call returned"
    wait_for(lambda: not multiprocessing.active_children())
    assert not is_running(attempts(tmp_path, 0)[0])


@pytest.mark.parametrize("function", ["sleep_long", "square"], ids=["at work", "idle"])
def test_no_worker_outlives_a_killed_parent(tmp_path: Path, function: str) -> None:
    program = textwrap.dedent(
        f"""
        import sys
        from test_workers import {function}, sleep_long
        from utils.sim.workers import kept_workers, run_tasks
        if __name__ == "__main__":
            with kept_workers():
                list(run_tasks({function}, [(0, sys.argv[1]), (1, sys.argv[1])], workers=2))
                sleep_long((2, sys.argv[1]))
        """
    )
    script = tmp_path / "parent.py"
    script.write_text(program)
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    parent = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path)], env={**os.environ, "PYTHONPATH": paths}
    )
    traces = 2 if function == "sleep_long" else 3  # the last is the parent's own
    wait_for(lambda: all(attempts(tmp_path, number) for number in range(traces)))
    workers = [attempts(tmp_path, number)[0] for number in range(2)]
    assert all(is_running(worker) for worker in workers)
    parent.kill()
    parent.wait()
    wait_for(lambda: not any(is_running(worker) for worker in workers), seconds=20.0)


def test_default_workers_is_what_this_process_may_use() -> None:
    assert 1 <= default_workers() <= (os.cpu_count() or 1)
