"""Workers of a Dask cluster, which also die and hang."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from scripts import Workshop
from test_workers import (
    attempts,
    die_always,
    die_once,
    hang_once,
    is_running,
    square,
    surroundings,
    wait_for,
)

import utils.sim.workers
from tools import reproduce
from utils.errors import UserError
from utils.io.files import remove_orphans
from utils.sim.rollouts import drive_all
from utils.sim.tasks import DriveTask
from utils.sim.workers import WORKER_ENVIRONMENT, kept_workers, run_tasks

distributed = pytest.importorskip("distributed")


@pytest.fixture(scope="module")
def cluster() -> Iterator["distributed.LocalCluster"]:
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None
    ) as cluster:
        yield cluster


@pytest.fixture
def address(cluster: "distributed.LocalCluster") -> str:
    """Where its scheduler answers, once both workers are there: they are started anew by deaths."""
    wait_for(lambda: len(cluster.scheduler.workers) == 2)
    return cluster.scheduler_address


def test_a_killed_worker_is_replaced_and_its_task_redone(tmp_path: Path, address: str) -> None:
    tasks = [(number, str(tmp_path)) for number in range(6)]
    results = {task[0]: result for task, result in run_tasks(die_once, tasks, address)}
    assert results == {number: number**2 for number in range(6)}
    first, second = attempts(tmp_path, 1)
    assert first != second


def test_a_worker_that_hangs_is_replaced_and_its_task_redone(tmp_path: Path, address: str) -> None:
    tasks = [(3, str(tmp_path))]
    assert list(run_tasks(hang_once, tasks, address, timeout=1.0)) == [(tasks[0], 9)]
    first, second = attempts(tmp_path, 3)
    assert first != second


def test_a_task_whose_worker_always_dies_is_reported_by_name(tmp_path: Path, address: str) -> None:
    with pytest.raises(UserError, match=r"\(1, .*worker died or hung"):
        list(run_tasks(die_always, [(1, str(tmp_path))], address))
    assert len(attempts(tmp_path, 1)) >= 3


def test_workers_have_one_thread_and_no_accelerator(address: str) -> None:
    [(_, seen)] = run_tasks(surroundings, [(0, "")], address)
    assert seen == WORKER_ENVIRONMENT


def test_a_block_of_calls_is_one_client(
    tmp_path: Path, cluster: "distributed.LocalCluster", address: str
) -> None:
    def clients() -> set[str]:
        return {name for name in cluster.scheduler.clients if name.startswith("Client-")}

    before = clients()  # the cluster's own
    with kept_workers():
        during = []
        for number in range(2):
            task = number, str(tmp_path)
            assert list(run_tasks(square, [task], address)) == [(task, number**2)]
            during.append(clients() - before)
        assert during[0] == during[1] and len(during[0]) == 1
        assert list(run_tasks(square, [(3, str(tmp_path))], 1)) == [((3, str(tmp_path)), 9)]
    wait_for(lambda: clients() == before)


def test_episodes_are_the_bytes_of_our_own_workers_though_one_is_killed(
    tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def drives(folder: str) -> list[DriveTask]:
        """With relative paths: the cluster's workers are in another folder."""
        return [
            DriveTask(track, "recovery", max_steps=200, output=Path(folder) / f"{track}.npz")
            for track in range(5)
        ]

    monkeypatch.chdir(tmp_path)
    with distributed.Client(address, set_as_default=False) as client:
        worker = next(iter(client.run(os.getpid).values()))
    on_cluster = {}
    for task, outcome in drive_all(drives("dask"), workers=address):
        if not on_cluster:  # both workers have a task now, and more are waiting
            os.kill(worker, signal.SIGKILL)
        on_cluster[task.track] = outcome
    assert not is_running(worker)
    here = {task.track: outcome for task, outcome in drive_all(drives("here"), workers=2)}
    assert on_cluster == here and len(here) == 5
    for path in sorted(Path("here").iterdir()):
        assert (Path("dask") / path.name).read_bytes() == path.read_bytes()
    # As the next run does: the worker may have been killed while it wrote.
    remove_orphans(Path("dask"))
    assert not list(Path("dask").glob(".*"))


def test_the_scripts_drive_on_a_cluster_with_the_same_results(
    workshop: Workshop, tmp_path: Path, address: str
) -> None:
    other = workshop.copy(tmp_path, "data", "run")
    for name in ("controller.eqx", "evaluation.json"):
        (other.run_dir / name).unlink()
    other.succeed("train_dream.py", "--dask", address)
    other.succeed("test_agent.py", "--episodes", "2", "--baseline", "random", "--dask", address)
    for pattern in ("run/*.eqx", "run/evaluation.json"):
        assert other.files(pattern) == workshop.files(pattern) != {}


@pytest.mark.parametrize("drivers", ["scripted", "own"])
def test_the_recipe_drives_on_the_cluster_in_every_stage(
    drivers: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: dict[str, list[str | None]] = {}

    def record(_: Any, script: ModuleType, **flags: Any) -> None:
        found.setdefault(script.__name__, []).append(flags.get("dask"))

    monkeypatch.setattr(reproduce, "run_script", record)
    folders = {"data_dir": tmp_path / "data", "run_dir": tmp_path / "run"}
    settings = reproduce.Settings(drivers=drivers, dask="tcp://host:1", **folders)
    for stage in reproduce.stages(settings):
        if stage.name != "choice":  # it calls no script
            stage.run()
    for name in ("collect_data", "train_dream", "tools.iterate", "test_agent"):
        assert set(found[name]) == {"tcp://host:1"}


def test_no_scheduler_and_workers_of_several_threads_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(utils.sim.workers, "CONNECT_TIMEOUT", 1)
    with pytest.raises(UserError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9:"):
        list(run_tasks(surroundings, [(0, "")], "tcp://127.0.0.1:9"))
    with (
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=2, processes=False, dashboard_address=":0"
        ) as wide,
        pytest.raises(UserError, match="--nthreads 1"),
    ):
        list(run_tasks(surroundings, [(0, "")], wide.scheduler_address))
