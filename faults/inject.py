"""What goes wrong inside a script: each function returns an `inject(script)` for `stages.start`.

Nothing here is known to the scripts. What must go wrong in a worker reaches it by its environment
and by `drive`, which takes the place of the script's `run_drive`.
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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import utils.files
import utils.workers
from utils.driving import Drive, Outcome, run_drive

Inject = Callable[[Any], object]
WORKER_ORDERS = "FAULTS_WORKER"  # environment variable: what a worker is to do, and with which file


def at_renames(action: Callable[[int, str], None]) -> None:
    """Call `action(count, "before" | "after")` around every rename that utils.files does."""
    replace, count = os.replace, itertools.count(1)

    def replacing(source: Any, target: Any) -> None:
        if sys._getframe(1).f_code.co_filename != utils.files.__file__:
            return replace(source, target)
        number = next(count)
        action(number, "before")
        replace(source, target)
        action(number, "after")

    os.replace = replacing


def at_writes(action: Callable[[int, Any], Any]) -> None:
    """`action(count, path)` may name another file for each that utils.files opens to fill."""
    count = itertools.count(1)

    def opening(path: Any, *arguments: Any, **how: Any) -> Any:
        if sys._getframe(1).f_code.co_name in ("write_atomically", "append"):
            path = action(next(count), path)
        return builtins.open(path, *arguments, **how)

    utils.files.open = opening


def orders_to_workers(script: Any, orders: str) -> None:
    """Have the script's workers call `drive` with these orders."""
    os.environ[WORKER_ORDERS] = orders
    if hasattr(script, "run_drive"):
        script.run_drive = drive


def drive(task: Drive) -> Outcome:
    """What a worker does in place of `run_drive`."""
    order, number, path = os.environ[WORKER_ORDERS].split(" ", 2)
    if order == "count":
        at_renames(lambda _, moment: moment == "before" and note(path, "worker"))
    elif order in ("before", "after"):
        # Renames of all workers are numbered through, by the lines of a file.
        at_renames(lambda _, moment: die_with_all(order, moment, int(number), path))
    elif order == "die" or (order == "die-once" and note(path, "died") == 1):
        os.kill(os.getpid(), signal.SIGKILL)
    elif order == "hang" and note(path, "hung") == 1:
        time.sleep(3600)
    return run_drive(task)


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
        at_renames(lambda _, moment: moment == "before" and note(str(path), "rename"))
        at_writes(lambda _, name: (note(str(path), f"write {name}"), name)[1])
        orders_to_workers(script, f"count 0 {path}")

    return inject


def dying_at_rename(number: int, moment: str) -> Inject:
    """kill −9 for the script just before or after its rename `number`."""

    def die(count: int, when: str) -> None:
        if (count, when) == (number, moment):
            os.kill(os.getpid(), signal.SIGKILL)

    return lambda script: at_renames(die)


def worker_orders(order: str, number: int, path: Path, seconds: float | None = None) -> Inject:
    """Have workers die or hang; `seconds` after which one counts as hanging."""

    def inject(script: Any) -> None:
        orders_to_workers(script, f"{order} {number} {path}")
        if seconds is not None:
            utils.workers.run_tasks.__defaults__ = (seconds,)

    return inject


def full_disk_at(number: int) -> Inject:
    """The file opened for writing as the `number`-th is on a full disk, really."""
    return lambda script: at_writes(lambda count, path: "/dev/full" if count == number else path)


def largest_file(size: int) -> Inject:
    """No process of the script can make a file larger than `size` bytes."""
    return lambda script: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def read_only(*folders: Path) -> Inject:
    """These folders cannot be written to, not even by root."""
    from faults.trials import NotTried

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


def peak_memory(path: Path, then: Inject | None = None) -> Inject:
    """Write the process's largest resident size, in bytes, to a file as its main ends."""

    def inject(script: Any) -> None:
        if then is not None:
            then(script)
        main = script.main

        def measured(settings: Any) -> None:
            main(settings)
            status = Path("/proc/self/status").read_text()
            line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
            path.write_text(str(int(line.split()[1]) * 1024))

        script.main = measured

    return inject


def idle_steps(real_steps: int) -> Inject:
    """After some real gradient steps all others do nothing: only their data is read."""

    def inject(script: Any) -> None:
        make_step = script.make_step

        def make(*arguments: Any) -> Any:
            step, count, last = make_step(*arguments), itertools.count(1), {}

            def idle(key: Any, state: Any, batch: Any) -> Any:
                if next(count) <= real_steps:
                    last["value"] = step(key, state, batch)[1]
                    jax.block_until_ready(last["value"])
                return state, last["value"]

            return idle

        script.make_step = make

    return inject


# --- numbers --------------------------------------------------------------------------------------


def bad_loss(value: float, at: int) -> Inject:
    """The loss of gradient step `at` is multiplied by NaN or infinity."""

    def inject(script: Any) -> None:
        name = "vae_loss" if hasattr(script, "vae_loss") else "rnn_loss"
        loss = getattr(script, name)

        def poisoned(*arguments: Any) -> Any:
            result = loss(*arguments)
            if name == "vae_loss":
                return result._replace(total=result.total * value)
            return result[0]._replace(total=result[0].total * value), result[1]

        _use_once(script, at, lambda: mock.patch.object(script, name, poisoned))

    return inject


def bad_gradient(value: float, at: int) -> Inject:
    """One entry of the gradient of step `at` is NaN or infinite."""

    def poison(gradients: Any) -> Any:
        leaves, tree = jax.tree.flatten(gradients)
        leaves[0] = leaves[0].at[(0,) * leaves[0].ndim].set(value)
        return jax.tree.unflatten(tree, leaves)

    def inject(script: Any) -> None:
        _use_once(
            script,
            at,
            contextlib.nullcontext,
            lambda optimiser: optax.GradientTransformation(
                optimiser.init, lambda g, s, p=None: optimiser.update(poison(g), s, p)
            ),
        )

    return inject


def _use_once(
    script: Any,
    at: int,
    context: Callable[[], Any],
    change: Callable[[Any], Any] = lambda optimiser: optimiser,
) -> None:
    """Gradient step `at` is one that was made with another optimiser or inside a context."""
    make_step = script.make_step

    def make(settings: Any, optimiser: Any) -> Any:
        good, bad = (make_step(settings, o) for o in (optimiser, change(optimiser)))
        count = itertools.count(1)

        def step(*arguments: Any) -> Any:
            if next(count) != at:
                return good(*arguments)
            with context():
                return bad(*arguments)

        return step

    script.make_step = make


def bad_fitness(value: float, candidates: int, at: int) -> Inject:
    """Dreams of the first `candidates` of generation `at` return NaN or infinity."""

    def inject(script: Any) -> None:
        evolve, returns = script.evolve, script.dream_returns
        poisoned_evolve, count = eqx.filter_jit(evolve.__wrapped__), itertools.count(1)

        def poisoned_returns(*arguments: Any) -> Any:
            found = returns(*arguments)
            bad = (jnp.arange(found.shape[0]) < candidates)[:, None]
            return jnp.where(bad, jnp.float32(value), found)

        def choose(*arguments: Any) -> Any:
            if next(count) != at:
                return evolve(*arguments)
            with mock.patch.object(script, "dream_returns", poisoned_returns):
                return poisoned_evolve(*arguments)

        script.evolve = choose

    return inject


def bad_judge(value: float) -> Inject:
    """The fixed dreams of the last mean return no number."""

    def inject(script: Any) -> None:
        judge, count = script.judge, itertools.count(1)
        script.judge = lambda *a: judge(*a) if next(count) == 1 else np.float32(value)

    return inject


# --- where a script writes ------------------------------------------------------------------------

WRITING = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate"}


def watched(record: Path, *allowed: Path) -> Inject:
    """Note in `record` every path outside of `allowed` that the script writes to."""
    roots = [str(path.resolve()) for path in allowed]

    def is_inside(path: Any) -> bool:
        real = os.path.join(os.path.realpath(os.path.dirname(path) or "."), os.path.basename(path))
        return any(real == root or real.startswith(root + "/") for root in roots)

    def written(event: str, arguments: tuple[Any, ...]) -> Iterator[Any]:
        if event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
            flags = arguments[2] or 0
            if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                yield arguments[0]
        elif event in WRITING:
            yield from arguments[: 2 if event in ("os.rename", "os.link") else 1]

    busy = False

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal busy
        if busy or (event != "open" and event not in WRITING):
            return
        busy = True
        try:
            for path in written(event, arguments):
                if not isinstance(path, int) and not is_inside(os.fspath(path)):
                    note(str(record), f"{event} {path!r}")
        finally:
            busy = False

    return lambda script: sys.addaudithook(hook)
