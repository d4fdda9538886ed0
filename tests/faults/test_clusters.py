"""A Dask cluster drives and its processes are killed: the files are those of our own workers."""

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from faults.pipeline import ROOT
from faults.processes import finish, processes_of, start
from faults.references import Record, Suite, assert_same, files_in, scratch

EPISODES = ("--episodes", "8")  # some are still to be driven when the first is done
# Starts a cluster and prints the addresses of its scheduler and the process ids of its workers.
CLUSTER = """
import distributed, json, os, sys
options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
with distributed.LocalCluster(**options) as cluster:
    with distributed.Client(cluster) as client:
        workers = list(client.run(os.getpid).values())
    print(json.dumps([cluster.scheduler_address, workers]), flush=True)
    sys.stdin.read()
"""


@dataclass(frozen=True)
class Cluster:
    """The address of a cluster, and its processes."""

    address: str
    workers: list[int]
    group: int


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """A scheduler and two workers in a process group that is killed in the end."""
    if importlib.util.find_spec("distributed") is None:
        pytest.skip("needs Dask: requirements/dask.txt")
    with (
        open(folder / "cluster.log", "wb") as log,
        subprocess.Popen(
            [sys.executable, "-c", CLUSTER],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        ) as process,
    ):
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            assert line, (folder / "cluster.log").read_text()[-1000:]
            yield Cluster(*json.loads(line), process.pid)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            while processes_of(process.pid):
                time.sleep(0.02)


@pytest.mark.faults("a Dask worker killed", script="collect_data")
@pytest.mark.parametrize("number", range(4), ids=lambda number: f"kill {number}")
def test_dask_worker_killed(suite: Suite, record_property: Record, number: int) -> None:
    """kill −9 for one of two workers while it drives: another drives the episode again."""
    with scratch(suite) as folder, scratch(suite) as ours:
        with cluster(folder.parent) as dask:
            victim = dask.workers[number % 2]
            running = start("collect_data", folder, *EPISODES, "--dask", dask.address)
            running.wait_until(lambda: running.updates > number // 2)
            idle = cpu_seconds_of(victim)
            running.wait_until(lambda: cpu_seconds_of(victim) > idle + 0.05)  # it is at work
            os.kill(victim, signal.SIGKILL)
            ended = running.wait()
            ended.assert_succeeded()
            assert ended.updates == 8, f"{ended.updates} of 8 episodes counted"
        finish("collect_data", ours, *EPISODES).assert_succeeded()
        assert_same(files_in(folder), files_in(ours))
    record_property("kills", 1)


@pytest.mark.faults("a Dask cluster killed", script="collect_data")
def test_dask_cluster_killed(suite: Suite, record_property: Record) -> None:
    """kill −9 for the whole cluster: the script says so, and our own workers drive the rest."""
    with scratch(suite) as folder, scratch(suite) as ours:
        with cluster(folder.parent) as dask:
            running = start("collect_data", folder, *EPISODES, "--dask", dask.address)
            running.wait_until(lambda: running.updates > 0)
            os.killpg(dask.group, signal.SIGKILL)
            running.wait().assert_failed("the Dask cluster at", "is gone")
        finish("collect_data", folder, *EPISODES).assert_succeeded()
        finish("collect_data", ours, *EPISODES).assert_succeeded()
        assert_same(files_in(folder), files_in(ours))
    record_property("kills", 1)


def cpu_seconds_of(pid: int) -> float:
    """Processor time of one process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
