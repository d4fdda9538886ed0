"""Runs a script, tiny, in a forked child process that has already imported everything.

The child leads a process group of its own and works in a folder of its own. It reports each update
of its progress bar through a pipe, so that a case knows whether the script was at work when the
fault struck.
"""

import contextlib
import functools
import importlib
import multiprocessing
import os
import signal
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import jax.numpy
import numpy as np
import tqdm

from faults.pipeline import FLAGS, ITERATE, OTHERS, REPRODUCE, TINY, module_of
from utils import runtime
from utils.settings import parse

FORK = multiprocessing.get_context("fork")
# A script hangs if it uses no processor time for IDLE seconds, or more than BUSY seconds of it.
# A script needs about 5; the limits are large because other work may keep it waiting.
IDLE, BUSY = 120.0, 300.0
SEARCH_SECONDS = 0.1  # between searches for the processes of a script
Inject = Callable[[Any], object]  # changes a script's module, in the child, before main is called


class FaultMissed(Exception):
    """The script ended before the fault could strike; the case is tried again."""


def import_scripts() -> None:
    """Import what the scripts need, without starting a thread: threads do not survive a fork."""
    # evosax creates a JAX array when it is imported, which would start the backend.
    with mock.patch.object(jax.numpy, "asarray", np.asarray):
        for script in (*FLAGS, *OTHERS):
            importlib.import_module(module_of(script))
    for module in ("utils.sim.agent", "fast_car_racing.env", "matplotlib.backends.backend_agg"):
        importlib.import_module(module)
    from jax._src import xla_bridge

    assert not xla_bridge._backends, "JAX has started its backend: forked children could hang"


@dataclass
class Ended:
    """How a script ended, and what it printed."""

    code: int  # negative: killed by that signal
    output: str
    errors: str
    updates: int

    @property
    def lines(self) -> list[str]:
        """The lines on stderr, without progress bars."""
        lines = self.errors.replace("\r", "\n").splitlines()
        return [line for line in lines if line.strip() and "it/s" not in line and "%|" not in line]

    def assert_failed(self, *parts: str) -> str:
        """Assert exit code 1 and a last line that contains `parts`; returns that line."""
        assert self.code == 1, f"exit code {self.code}: {self.errors[-500:]}"
        self.assert_no_traceback()
        last = self.lines[-1]
        for part in parts:
            assert part in last, f"'{part}' is not in '{last}'"
        return last

    def assert_succeeded(self) -> None:
        """Assert that it exited 0 without a traceback."""
        assert self.code == 0, f"exit code {self.code}: {self.errors[-500:]}"
        self.assert_no_traceback()

    def assert_no_traceback(self) -> None:
        """Assert that no traceback was printed."""
        assert "Traceback" not in self.errors, self.errors[-1500:]
        assert "Exception ignored" not in self.errors, self.errors[-1500:]


class Running:
    """A script that runs in a forked child."""

    def __init__(
        self,
        script: str,
        folder: Path,
        arguments: list[str],
        inject: Inject | None,
    ):
        name = f".{uuid.uuid4().hex}"
        self.streams = {end: folder.parent / f"{name}.{end}" for end in ("out", "err")}
        self.pipe, writer = os.pipe()
        os.set_blocking(self.pipe, False)
        self.process = FORK.Process(
            target=_child, args=(script, folder, arguments, inject, writer, self.streams)
        )
        self.process.start()
        os.close(writer)
        assert self.process.pid is not None
        self.group, self._progress = self.process.pid, b""
        self._last_work = 0.0, time.monotonic()  # processor time, and when it last grew
        self._members: list[Path] = []  # /proc/PID/stat of its processes, as of `_searched`
        self._searched = 0.0

    def progress(self) -> bytes:
        """`M` when main is called, then a dot for each update of the progress bar."""
        with contextlib.suppress(BlockingIOError):
            self._progress += os.read(self.pipe, 10_000)
        return self._progress

    @property
    def updates(self) -> int:
        """Updates of the progress bar so far."""
        return self.progress().count(b".")

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait for `condition`; FaultMissed if the script ends first."""
        while not condition():
            if not self.process.is_alive():
                self.wait()
                raise FaultMissed("it ended before the fault could strike")
            if self.hangs():
                self.wait()
            time.sleep(0.002)

    def cpu_seconds(self) -> float:
        """Processor time of the whole group so far. Cheap: it searches only now and then."""
        if time.monotonic() > self._searched + SEARCH_SECONDS:
            self._members = [Path(row["path"]) for row in processes_of(self.group)]
            self._searched = time.monotonic()
        return sum(row["cpu"] for row in map(status_of, self._members) if row)

    def signal(self, number: int, whole_group: bool = True) -> None:
        """Send a signal to the group, or to its leader alone."""
        (os.killpg if whole_group else os.kill)(self.group, number)

    def hangs(self) -> bool:
        """Whether it used no processor time for IDLE seconds, or more than BUSY seconds."""
        cpu, now = self.cpu_seconds(), time.monotonic()
        if cpu > self._last_work[0] + 0.05:
            self._last_work = cpu, now
        return now > self._last_work[1] + IDLE or cpu > BUSY

    def wait(self) -> Ended:
        """Wait until the script and all its processes have ended."""
        hangs = False
        while self.process.is_alive() and not hangs:
            self.process.join(0.5)
            hangs = self.hangs()
        if hangs:
            self.signal(signal.SIGKILL)
            self.process.join()
        try:
            self._wait_for_group()
        finally:
            updates = self.updates
            os.close(self.pipe)
            texts = {end: path.read_text(errors="replace") for end, path in self.streams.items()}
            for path in self.streams.values():
                path.unlink()
        assert not hangs, f"hangs: {texts['err'][-500:]}"
        assert self.process.exitcode is not None
        return Ended(self.process.exitcode, texts["out"], texts["err"], updates)

    def _wait_for_group(self) -> None:
        end = time.monotonic() + 30.0
        while left := processes_of(self.group):
            if time.monotonic() > end:
                os.killpg(self.group, signal.SIGKILL)
                raise AssertionError(f"orphans: {left}")
            time.sleep(0.02)


def processes_of(group: int) -> list[dict[str, Any]]:
    """The living processes of a group, each with its processor time in seconds."""
    rows = map(status_of, Path("/proc").glob("[0-9]*/stat"))
    return [row for row in rows if row and row["group"] == group]


def status_of(path: Path) -> dict[str, Any] | None:
    """A living process, read from /proc/PID/stat; None if it has ended."""
    with contextlib.suppress(OSError):
        name, rest = path.read_text().rsplit(")", 1)
        fields = rest.split()
        cpu = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
        if fields[0] != "Z":
            return {"process": name + ")", "group": int(fields[2]), "cpu": cpu, "path": str(path)}
    return None


def _child(
    name: str,
    folder: Path,
    arguments: list[str],
    inject: Inject | None,
    pipe: int,
    streams: Mapping[str, Path],
) -> None:
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, target in ((0, os.devnull), (1, streams["out"]), (2, streams["err"])):
        flags = os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT
        os.dup2(os.open(target, flags), number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
    os.chdir(folder)
    script = importlib.import_module(module_of(name))
    sys.modules["__main__"] = script  # workers import it, as they do when a shell runs the script
    for module, constants in TINY.items():
        for constant, value in constants.items():
            setattr(sys.modules[module], constant, value)
    if name in (ITERATE, REPRODUCE):  # they make the settings of the scripts themselves
        collect = sys.modules["collect_data"]
        collect.Settings = functools.partial(collect.Settings, max_steps=30)
    update = tqdm.tqdm.update

    def count_update(self: Any, n: float | None = 1) -> Any:
        os.write(pipe, b".")
        return update(self, n)

    tqdm.tqdm.update = count_update
    sys.argv = [str(script.__file__), *arguments]
    presets = getattr(script, "PRESETS", {})
    settings = parse(script.Settings, script.__doc__, presets)
    if inject is not None:
        inject(script)
    os.write(pipe, b"M")
    runtime.run(script.main, settings)


def start(
    script: str,
    folder: Path,
    *flags: str,
    base: Mapping[str, str] = FLAGS,
    inject: Inject | None = None,
    data: str = "data",
    run: str = "run",
) -> Running:
    """Start a script in `folder`; the child calls `inject(module)` just before its main."""
    folders = ["--data-dir", data, "--run-dir", run]
    return Running(script, folder, [*folders, *base[script].split(), *flags], inject)


def finish(script: str, folder: Path, *flags: str, **options: Any) -> Ended:
    """Run a script until it ends, in success or failure."""
    return start(script, folder, *flags, **options).wait()
