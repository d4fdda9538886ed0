"""What goes wrong inside a script: each function returns an `inject(script)` for `stages.start`.

Nothing here is known to the scripts. What must go wrong in a worker reaches it by its environment
and by `drive`, which takes the place of `utils.sim.rollouts.run_batch`.
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

import utils.io.files
import utils.sim.rollouts
import utils.sim.workers
from faults.trials import NotTried
from utils.sim.rollouts import run_batch
from utils.sim.tasks import DriveBatch, DriveResult

Inject = Callable[[Any], object]
WORKER_ORDERS = "FAULTS_WORKER"  # environment variable: what a worker is to do, and with which file


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
    """`action(count, path)` may name another file for each that utils.io.files opens to fill."""
    count = itertools.count(1)

    def opening(path: Any, *arguments: Any, **how: Any) -> Any:
        if sys._getframe(1).f_code.co_name in ("write_atomically", "append_text"):
            path = action(next(count), path)
        return builtins.open(path, *arguments, **how)

    utils.io.files.open = opening


def orders_to_workers(orders: str) -> None:
    """Have the workers call `drive` with these orders."""
    os.environ[WORKER_ORDERS] = orders
    utils.sim.rollouts.run_batch = drive


def drive(group: DriveBatch) -> list[DriveResult]:
    """What a worker does in place of `run_batch`."""
    order, number, path = os.environ[WORKER_ORDERS].split(" ", 2)
    if order == "count":
        at_renames(lambda _, moment, target: moment == "before" and note(path, f"worker {target}"))
    elif order in ("before", "after"):
        # Renames of all workers are numbered through, by the lines of a file.
        at_renames(lambda _, moment, target: die_with_all(order, moment, int(number), path))
    elif order == "die" or (order == "die-once" and note(path, "died") == 1):
        os.kill(os.getpid(), signal.SIGKILL)
    elif order == "hang" and note(path, "hung") == 1:
        time.sleep(3600)
    return run_batch(group)


def note(path: str, text: str) -> int:
    """Append a line to a file; returns how many it has now."""
    with open(path, "a") as file:
        file.write(f"{text}\n")
    return len(Path(path).read_text().splitlines())


def die_with_all(order: str, moment: str, number: int, path: str) -> None:
    """kill −9 for the whole process group at its rename `number`."""
    done = Path(path).read_text().count("before") if Path(path).exists() else 0
    if moment == order and done == number - (order == "before"):
        os.killpg(os.getpgrp(), signal.SIGKILL)
    if moment == "before":
        note(path, "before")


def counting(path: Path) -> Inject:
    """Count renames and writes, of the script and its workers, as lines of a file."""

    def inject(script: Any) -> None:
        at_renames(
            lambda _, moment, target: moment == "before" and note(str(path), f"rename {target}")
        )
        at_writes(lambda _, name: (note(str(path), f"write {name}"), name)[1])
        orders_to_workers(f"count 0 {path}")

    return inject


def dying_at_rename(number: int, moment: str) -> Inject:
    """kill −9 for the script just before or after its rename `number`."""

    def die(count: int, when: str, target: Any) -> None:
        if (count, when) == (number, moment):
            os.kill(os.getpid(), signal.SIGKILL)

    return lambda script: at_renames(die)


def worker_orders(order: str, number: int, path: Path, seconds: float | None = None) -> Inject:
    """Have workers die or hang; `seconds` after which one counts as hanging."""

    def inject(script: Any) -> None:
        orders_to_workers(f"{order} {number} {path}")
        if seconds is not None:
            utils.sim.workers.run_tasks.__defaults__ = (seconds, None)

    return inject


def full_disk_at(number: int) -> Inject:
    """The file opened for writing as the `number`-th is on a full disk, really."""
    return lambda script: at_writes(lambda count, path: "/dev/full" if count == number else path)


def largest_file(size: int) -> Inject:
    """No process of the script can make a file larger than `size` bytes."""
    return lambda script: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def read_only(*folders: Path) -> Inject:
    """These folders cannot be written to, not even by root."""
    if os.geteuid() == 0 and not can_mount():
        raise NotTried("root, but may not mount")

    def inject(script: Any) -> None:
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
    """mount(2), in this process's own namespace."""
    texts = (str(text).encode() for text in (source, target, kind))
    if LIBC.mount(*texts, flags, options.encode()) != 0:
        raise OSError(ctypes.get_errno(), f"mount {target}")


def mount_read_only(folder: Path) -> None:
    """Bind a folder onto itself, read-only, for this process and its children."""
    own_namespace()
    mount(folder, folder, "none", BIND)
    mount("none", folder, "none", BIND | REMOUNT | READ_ONLY)


def own_namespace() -> None:
    """From here on, mounts are this process's and its children's alone."""
    if LIBC.unshare(NEW_NAMESPACE) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    mount("none", "/", "none", PRIVATE | RECURSIVE)


def can_mount() -> bool:
    """Whether this machine lets us mount: asked in a child."""
    child = os.fork()
    if child == 0:
        with contextlib.suppress(OSError):
            own_namespace()
            mount("none", "/mnt", "tmpfs", 0, "size=64k")
            os._exit(0)
        os._exit(1)
    return os.waitpid(child, 0)[1] == 0


def clock_jump(seconds: float, after: float) -> Inject:
    """The wall clock jumps `after` some seconds of work."""
    real, begun = time.time, time.monotonic()

    def jumping() -> float:
        return real() + (seconds if time.monotonic() - begun > after else 0.0)

    def inject(script: Any) -> None:
        time.time = jumping

    return inject
