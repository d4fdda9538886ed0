"""The default number of workers: affinity, CPU quotas of cgroups, PYTHON_CPU_COUNT."""

import math
import os
from pathlib import Path

import pytest

from utils.cpus import cgroup_quota, default_workers


def machine(root: Path, groups: str, **files: str) -> Path:
    """A root folder with /proc/self/cgroup and files below /sys/fs/cgroup."""
    texts = {"proc/self/cgroup": groups}
    texts |= {"sys/fs/cgroup/" + name: text for name, text in files.items()}
    for name, text in texts.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    return root


V1 = "9:name=systemd:/\n4:cpu,cpuacct:/docker/ab\n0::/"


@pytest.mark.parametrize(
    "groups, files, expected",
    [
        # Version 2, in a container: its own group is the root.
        ("0::/", {"cpu.max": "200000 100000"}, 2.0),
        ("0::/", {"cpu.max": "max 100000"}, math.inf),
        ("0::/", {"cpu.max": "50000 100000"}, 0.5),
        # A systemd service: a parent's limit counts too, the smallest applies.
        (
            "0::/user.slice/run.service",
            {
                "user.slice/cpu.max": "300000 100000",
                "user.slice/run.service/cpu.max": "400000 100000",
            },
            3.0,
        ),
        # Version 1: the group as the host names it, mounted as the root, or with its whole path.
        (V1, {"cpu/cpu.cfs_quota_us": "150000", "cpu/cpu.cfs_period_us": "100000"}, 1.5),
        (
            V1,
            {
                "cpu/docker/ab/cpu.cfs_quota_us": "250000",
                "cpu/docker/ab/cpu.cfs_period_us": "100000",
                "cpu/cpu.cfs_quota_us": "-1",
                "cpu/cpu.cfs_period_us": "100000",
            },
            2.5,
        ),
        (V1, {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, math.inf),
        # Groups of other controllers, no files, and files that say nothing.
        ("4:cpuset,memory:/\n0::/", {"cpu.max": ""}, math.inf),
        (V1, {"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "0"}, math.inf),
    ],
)
def test_quota_of_the_cgroups(
    tmp_path: Path, groups: str, files: dict[str, str], expected: float
) -> None:
    assert cgroup_quota(machine(tmp_path, groups, **files)) == expected


def test_without_cgroups_there_is_no_quota(tmp_path: Path) -> None:
    assert cgroup_quota(tmp_path) == math.inf


@pytest.mark.parametrize(
    "cores, quota, variable, expected",
    [
        (64, "200000 100000", None, 2),
        (64, "250000 100000", None, 3),  # half a CPU more is of use to a third worker
        (64, "10000 100000", None, 1),
        (4, "max 100000", None, 4),
        (4, "800000 100000", None, 4),
        (64, "800000 100000", "3", 3),
        (64, "200000 100000", "3", 2),
        (4, "max 100000", "16", 4),
        (4, "max 100000", "0", 1),
        (4, "max 100000", "default", 4),
        (4, "max 100000", "", 4),
    ],
)
def test_workers_are_the_least_of_affinity_quota_and_variable(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cores: int,
    quota: str,
    variable: str | None,
    expected: int,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)), raising=False)
    monkeypatch.delenv("PYTHON_CPU_COUNT", raising=False)
    if variable is not None:
        monkeypatch.setenv("PYTHON_CPU_COUNT", variable)
    assert default_workers(machine(tmp_path, "0::/", **{"cpu.max": quota})) == expected
