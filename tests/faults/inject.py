"""Faults inside a script: most functions return an `inject(module)` for `processes.start`.

The scripts know nothing of this module. A fault reaches a worker process through an environment
variable and `faulty_drives`, which replaces `utils.sim.rollouts.run_batch`.
"""

import builtins
import contextlib
import ctypes
import itertools
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import utils.io.files
import utils.sim.rollouts
import utils.sim.workers
from faults.processes import Inject
from utils.sim.rollouts import run_batch
from utils.sim.tasks import DriveBatch, DriveResult

# Environment variable "ORDER NUMBER PATH": what a worker does, at which rename, and its notes.
WORKER_ORDERS = "FAULTS_WORKER"


def at_renames(action: Callable[[int, str, Any], None]) -> None:
    """Call `action(count, "before" | "after", target)` around each rename by utils.io.files."""
    replace, count = os.replace, itertools.count(1)

    def replacing(source: Any, target: Any) -> None:
        if sys._getframe(1).f_code.co_filename != utils.io.files.__file__:
            return replace(source, target)
        number = next(count)
        action(number, "before", target)
        replace(source, target)
        action(number, "after", target)

    os.replace = replacing


def at_writes(action: Callable[[int, Any], Any]) -> None:
    """Have utils.io.files write to the path that `action(count, path)` returns."""
    count = itertools.count(1)

    def opening(path: Any, *arguments: Any, **how: Any) -> Any:
        if sys._getframe(1).f_code.co_name in ("write_atomically", "append_text"):
            path = action(next(count), path)
        return builtins.open(path, *arguments, **how)

    utils.io.files.open = opening


def orders_to_workers(orders: str) -> None:
    """Have the workers call `faulty_drives` with these orders."""
    os.environ[WORKER_ORDERS] = orders
    utils.sim.rollouts.run_batch = faulty_drives


def faulty_drives(group: DriveBatch) -> list[DriveResult]:
    """Follow the orders, then drive as `run_batch` does."""
    order, number, path = os.environ[WORKER_ORDERS].split(" ", 2)
    if order == "count":
        at_renames(lambda _, moment, target: moment == "before" and note(path, f"worker {target}"))
    elif order in ("before", "after"):
        # The renames of all workers are counted together, by the lines of a file.
        at_renames(lambda _, moment, target: die_with_all(order, moment, int(number), path))
    elif order == "die" or (order == "die-once" and note(path, "died") == 1):
        os.kill(os.getpid(), signal.SIGKILL)
    elif order == "hang" and note(path, "hung") == 1:
        time.sleep(3600)
    return run_batch(group)


def note(path: str, text: str) -> int:
    """Append a line to a file; returns its number of lines."""
    with open(path, "a") as file:
        file.write(f"{text}\n")
    return len(Path(path).read_text().splitlines())


def die_with_all(order: str, moment: str, number: int, path: str) -> None:
    """Kill the whole process group at its rename `number`."""
    done = Path(path).read_text().count("before") if Path(path).exists() else 0
    if moment == order and done == number - (order == "before"):
        os.killpg(os.getpgrp(), signal.SIGKILL)
    if moment == "before":
        note(path, "before")


def counting(path: Path) -> Inject:
    """Note each rename and write of the script and its workers as a line of a file."""

    def inject(module: Any) -> None:
        at_renames(
            lambda _, moment, target: moment == "before" and note(str(path), f"rename {target}")
        )
        at_writes(lambda _, name: (note(str(path), f"write {name}"), name)[1])
        orders_to_workers(f"count 0 {path}")

    return inject


def dying_at_rename(number: int, moment: str) -> Inject:
    """Kill the script just before or after its rename `number`."""

    def die(count: int, when: str, target: Any) -> None:
        if (count, when) == (number, moment):
            os.kill(os.getpid(), signal.SIGKILL)

    return lambda module: at_renames(die)


def worker_orders(order: str, number: int, path: Path, seconds: float | None = None) -> Inject:
    """Have workers die or hang; `seconds` is the time after which a worker counts as hanging."""

    def inject(module: Any) -> None:
        orders_to_workers(f"{order} {number} {path}")
        if seconds is not None:
            utils.sim.workers.run_tasks.__defaults__ = (seconds, None)

    return inject


def full_disk_at(number: int) -> Inject:
    """The `number`-th file opened for writing is /dev/full, where every write fails."""
    return lambda module: at_writes(lambda count, path: "/dev/full" if count == number else path)


def largest_file(size: int) -> Inject:
    """No process of the script can write a file larger than `size` bytes."""
    return lambda module: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def read_only(*folders: Path) -> Inject:
    """Make folders read-only, for root too. Skips the case if root may not mount."""
    if os.geteuid() == 0 and not can_mount():
        pytest.skip("needs permission to mount")

    def inject(module: Any) -> None:
        for folder in folders:
            if os.geteuid() == 0:
                mount_read_only(folder)
            else:
                for path in (folder, *folder.rglob("*")):
                    path.chmod(path.stat().st_mode & ~0o222)

    return inject


LIBC = ctypes.CDLL(None, use_errno=True)
NEW_NAMESPACE, READ_ONLY, REMOUNT, BIND, RECURSIVE, PRIVATE = 0x20000, 1, 32, 4096, 16384, 1 << 18


def mount(source: Path | str, target: Path | str, kind: str, flags: int, options: str = "") -> None:
    """mount(2) in the namespace of this process."""
    texts = (str(text).encode() for text in (source, target, kind))
    if LIBC.mount(*texts, flags, options.encode()) != 0:
        raise OSError(ctypes.get_errno(), f"mount {target}")


def mount_read_only(folder: Path) -> None:
    """Mount a folder onto itself, read-only, for this process and its children."""
    own_namespace()
    mount(folder, folder, "none", BIND)
    mount("none", folder, "none", BIND | REMOUNT | READ_ONLY)


def own_namespace() -> None:
    """Enter a mount namespace that only this process and its children see."""
    if LIBC.unshare(NEW_NAMESPACE) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    mount("none", "/", "none", PRIVATE | RECURSIVE)


def can_mount() -> bool:
    """Whether this process may mount. A child process tries."""
    child = os.fork()
    if child == 0:
        with contextlib.suppress(OSError):
            own_namespace()
            mount("none", "/mnt", "tmpfs", 0, "size=64k")
            os._exit(0)
        os._exit(1)
    return os.waitpid(child, 0)[1] == 0


def clock_jump(seconds: float, after: float) -> Inject:
    """The wall clock jumps by `seconds`, `after` some seconds of work."""
    real, begun = time.time, time.monotonic()

    def jumping() -> float:
        return real() + (seconds if time.monotonic() - begun > after else 0.0)

    def inject(module: Any) -> None:
        time.time = jumping

    return inject
