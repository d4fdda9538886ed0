"""A Dask cluster drives, and what it consists of is killed: same files as from our own workers."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from faults.references import assert_same, files_in, scratch
from faults.stages import ROOT, finish, processes_of, start
from faults.trials import NotTried, Suite, Trial

EPISODES = ("--episodes", "8")  # so many that some are still to be driven when the first is done
# A cluster in a process of its own: it says where its scheduler and its workers are.
CLUSTER = """
import distributed, json, os, sys
how = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
with distributed.LocalCluster(**how) as cluster:
    with distributed.Client(cluster) as client:
        workers = list(client.run(os.getpid).values())
    print(json.dumps([cluster.scheduler_address, workers]), flush=True)
    sys.stdin.read()
"""


def trials(suite: Suite) -> Iterator[Trial]:
    """Collecting is what a cluster can do."""
    for number in range(4):
        yield Trial("a Dask worker killed", "collect", f"kill {number}", worker_killed, (number,))
    yield Trial("a Dask cluster killed", "collect", "while it drives", cluster_killed)


@dataclass(frozen=True)
class Cluster:
    """Where it answers, and its processes."""

    address: str
    workers: list[int]
    group: int


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """A scheduler and two workers; nothing of them is left."""
    try:
        import distributed  # noqa: F401
    except ImportError:
        raise NotTried("Dask is not installed: requirements/dask.txt") from None
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


def worker_killed(suite: Suite, rng: np.random.Generator, number: int) -> dict[str, int]:
    """kill −9 for one of two workers while it drives: the other, or a new one, drives again."""
    with scratch(suite) as folder, scratch(suite) as ours:
        with cluster(folder.parent) as dask:
            victim = dask.workers[number % 2]
            running = start("collect", folder, *EPISODES, "--dask", dask.address)
            running.wait_until(lambda: running.beats > number // 2)
            idle = cpu_seconds_of(victim)
            running.wait_until(lambda: cpu_seconds_of(victim) > idle + 0.05)  # it is at work
            os.kill(victim, signal.SIGKILL)
            ended = running.wait()
            ended.succeeded()
            assert ended.beats == 8, f"{ended.beats} of 8 episodes counted"
        finish("collect", ours, *EPISODES).succeeded()
        assert_same(files_in(folder), files_in(ours))
    return {"kills": 1}


def cluster_killed(suite: Suite, rng: np.random.Generator) -> dict[str, int]:
    """kill −9 for all of the cluster: that is said, and our own workers drive the rest."""
    with scratch(suite) as folder, scratch(suite) as ours:
        with cluster(folder.parent) as dask:
            running = start("collect", folder, *EPISODES, "--dask", dask.address)
            running.wait_until(lambda: running.beats > 0)
            os.killpg(dask.group, signal.SIGKILL)
            running.wait().failed("the Dask cluster at", "is gone")
        finish("collect", folder, *EPISODES).succeeded()
        finish("collect", ours, *EPISODES).succeeded()
        assert_same(files_in(folder), files_in(ours))
    return {"kills": 1}


def cpu_seconds_of(pid: int) -> float:
    """Processor time of one process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
