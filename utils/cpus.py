"""How many CPUs this process may use, the quota of a container or service included."""

import math
import os
from pathlib import Path, PurePosixPath


def cgroup_quota(root: Path = Path("/")) -> float:
    """CPUs' worth of time that the cgroups (v1 and v2) of this process allow; inf: no limit.

    Docker's --cpus, Kubernetes' limits and systemd's CPUQuota set it. `root` is the folder that
    holds proc/ and sys/. The limit of each parent group applies too. Inside a container the path
    of the group may be the host's, which does not exist there; the mounted root is then the group.
    """
    mount, quotas = root / "sys/fs/cgroup", [math.inf]
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, group = line.split(":", 2)
        path = PurePosixPath(group.lstrip("/"))
        for level in (path, *path.parents):
            if controllers == "":  # version 2: "QUOTA PERIOD", or "max PERIOD"
                quota, _, period = _read(mount / level / "cpu.max").partition(" ")
            elif "cpu" in controllers.split(","):  # version 1; a quota of -1: no limit
                folder = mount / "cpu" / level
                quota, period = (_read(folder / f"cpu.cfs_{k}_us") for k in ("quota", "period"))
            else:
                break
            if quota.isdecimal() and period.isdecimal() and int(period):
                quotas.append(int(quota) / int(period))
    return min(quotas)


def default_workers(root: Path = Path("/")) -> int:
    """CPUs for this process: the least of affinity, cgroup quota and PYTHON_CPU_COUNT.

    At least 1; a quota is rounded up. `root` is the folder that holds proc/ and sys/.
    """
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    count = len(affinity(0)) if affinity else os.cpu_count() or 1
    # Python 3.13 reads this variable itself, and accepts "default" too; older ones do not.
    wanted = os.environ.get("PYTHON_CPU_COUNT", "")
    limit = int(wanted) if wanted.isdecimal() else count
    return max(1, math.ceil(min(count, limit, cgroup_quota(root))))


def _read(path: Path) -> str:
    """The text of one of the kernel's files; empty where there is none, as on macOS."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""
