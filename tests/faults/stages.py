"""The six scripts, tiny, each in a forked child that has imported everything already.

A child is the leader of a process group of its own, works in a folder of its own, and reports its
progress bar through a pipe: that is how a trial knows that it was at work when the fault struck.
"""

import contextlib
import functools
import importlib
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

from faults.trials import FORK, NotTried
from utils import runtime
from utils.settings import parse

ROOT = Path(__file__).parents[2]
# A script that does nothing for so long hangs, and so does one that works for so long: seconds of
# the clock, and of the processor, since other work may keep a script waiting. A stage takes some 5.
IDLE, BUSY = 120.0, 300.0
LOOK_SECONDS = 0.1  # between searches for the processes of a script
SCRIPTS = {
    "collect": "collect_data",
    "see": "run_vae_training",
    "encode": "process_data",
    "predict": "train_rnn",
    "dream": "train_dream",
    "drive": "test_agent",
    "round": "tools.iterate",
    "report": "tools.report.__main__",
    "ship": "tools.export_weights",
    "study": "tools.analysis.__main__",
    "page": "tools.export_web",
    "minari": "tools.export_minari",
}
FLAGS = {
    "collect": "--mode recovery --episodes 3 --max-steps 30 --workers 1",
    "see": "--steps 4 --continue-steps 4 --batch 4 --evaluate-every 2 --save-seconds 0",
    "encode": "--batch 16",
    "predict": "--steps 6 --continue-steps 4 --lanes 2 --window 8 --evaluate-every 3 "
    "--save-seconds 0",
    "dream": "--generations 4 --continue-generations 2 --candidates 4 --dreams 2 --horizon 5 "
    "--validate-every 4 --validation-tracks 1 --workers 1 --save-every 1",
    "drive": "--episodes 2 --workers 1",
    "round": "--rounds 1 --on-policy-episodes 1 --iterative-episodes 1 --score-tracks 1 "
    "--workers 1",
}
TRAININGS = {"see": "vae", "predict": "rnn", "dream": "controller"}  # what they make
# Never a state saved but by the signal that stops the training.
SAVE_NEVER = {
    "see": ("--save-seconds", "1e9"),
    "predict": ("--save-seconds", "1e9"),
    "dream": ("--save-every", "1000"),
}
SIX = tuple(stage for stage in FLAGS if stage != "round")
# A Sim2Real2Sim round on top of a finished run, by hand.
ROUND = {
    "collect": "--mode on-policy --episodes 2 --max-steps 30 --workers 1",
    "encode": FLAGS["encode"],
    "predict": FLAGS["predict"],
    "dream": FLAGS["dream"],
    "drive": "--split validation --episodes 2 --workers 1",
}
# The stages that learn, each with a file whose absence gives it less to learn from.
ABSENT = {
    "see": "data/rollouts/recovery/20000002.npz",
    "predict": "data/latents/recovery/20000002.npz",
    "dream": "data/latents/recovery/20000002.npz",
}
CHAINS = {
    "run": SIX,
    "other": SIX,
    "round": tuple(ROUND),
    "iterate": ("round",),
    "absent": tuple(ABSENT),
}
# Constants of modules that only make things large.
TINY = {
    "run_vae_training": {"HELD_OUT_FRAMES": 8, "SHOWN_FRAMES": 4},
    "train_dream": {"MAX_STEPS": 30, "SCORE_DREAMS": 4},
    "test_agent": {"MAX_STEPS": 30},
    "utils.data.start_states": {"MOMENTS": 4},
}


def import_scripts() -> None:
    """Import all that a script needs, but let no thread begin: it would not survive a fork."""
    # evosax makes a JAX array as it is imported, which would start the backend.
    with mock.patch.object(jax.numpy, "asarray", np.asarray):
        for script in SCRIPTS.values():
            importlib.import_module(script)
    for module in ("utils.sim.agent", "fast_car_racing.env", "matplotlib.backends.backend_agg"):
        importlib.import_module(module)
    from jax._src import xla_bridge

    assert not xla_bridge._backends, "an import started JAX's backend: children could hang"


@dataclass
class Ended:
    """A script that ended: how, and what it said."""

    code: int  # negative: killed by that signal
    output: str
    errors: str
    beats: int

    @property
    def lines(self) -> list[str]:
        """What it said on stderr, without progress bars."""
        lines = self.errors.replace("\r", "\n").splitlines()
        return [line for line in lines if line.strip() and "it/s" not in line and "%|" not in line]

    def failed(self, *parts: str) -> str:
        """Assert that it ended with one plain line that contains `parts`; returns the line."""
        assert self.code == 1, f"exit code {self.code}: {self.errors[-500:]}"
        self.is_plain()
        last = self.lines[-1]
        for part in parts:
            assert part in last, f"'{part}' is not in '{last}'"
        return last

    def succeeded(self) -> None:
        """Assert that it exited 0 without a traceback."""
        assert self.code == 0, f"exit code {self.code}: {self.errors[-500:]}"
        self.is_plain()

    def is_plain(self) -> None:
        """Assert that nobody sees a traceback."""
        assert "Traceback" not in self.errors, self.errors[-1500:]
        assert "Exception ignored" not in self.errors, self.errors[-1500:]


class Running:
    """A script at work in a forked child."""

    def __init__(
        self,
        stage: str,
        folder: Path,
        arguments: list[str],
        inject: Callable[[Any], object] | None,
    ):
        name = f".{uuid.uuid4().hex}"
        self.said = {end: folder.parent / f"{name}.{end}" for end in ("out", "err")}
        self.pipe, writer = os.pipe()
        os.set_blocking(self.pipe, False)
        self.process = FORK.Process(
            target=_child, args=(stage, folder, arguments, inject, writer, self.said)
        )
        self.process.start()
        os.close(writer)
        assert self.process.pid is not None
        self.group, self._progress = self.process.pid, b""
        self._worked = 0.0, time.monotonic()  # processor time, and when it was last seen to grow
        self._members: list[Path] = []  # its processes, looked for
        self._looked = 0.0  # at this time

    def progress(self) -> bytes:
        """`M` once main is entered, then a dot for each update of its bar."""
        with contextlib.suppress(BlockingIOError):
            self._progress += os.read(self.pipe, 10_000)
        return self._progress

    @property
    def beats(self) -> int:
        """Updates of its bar so far."""
        return self.progress().count(b".")

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait for `condition`; NotTried if the script ends before."""
        while not condition():
            if not self.process.is_alive():
                self.wait()
                raise NotTried("it ended before the fault could strike")
            if self.hangs():
                self.wait()
            time.sleep(0.002)

    def cpu_seconds(self) -> float:
        """Processor time of the whole group so far: asked for often, so without a search."""
        if time.monotonic() > self._looked + LOOK_SECONDS:
            self._members = [Path(row["path"]) for row in processes_of(self.group)]
            self._looked = time.monotonic()
        return sum(row["cpu"] for row in map(status_of, self._members) if row)

    def signal(self, number: int, whole_group: bool = True) -> None:
        """Send a signal to the group, or to its leader alone."""
        (os.killpg if whole_group else os.kill)(self.group, number)

    def hangs(self) -> bool:
        """Whether it has done nothing for IDLE seconds, or too much."""
        cpu, now = self.cpu_seconds(), time.monotonic()
        if cpu > self._worked[0] + 0.05:
            self._worked = cpu, now
        return now > self._worked[1] + IDLE or cpu > BUSY

    def wait(self) -> Ended:
        """Wait for its end, and for that of all its processes."""
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
            beats = self.beats
            os.close(self.pipe)
            texts = {end: path.read_text(errors="replace") for end, path in self.said.items()}
            for path in self.said.values():
                path.unlink()
        assert not hangs, f"hangs: {texts['err'][-500:]}"
        assert self.process.exitcode is not None
        return Ended(self.process.exitcode, texts["out"], texts["err"], beats)

    def _wait_for_group(self) -> None:
        end = time.monotonic() + 30.0
        while left := processes_of(self.group):
            if time.monotonic() > end:
                os.killpg(self.group, signal.SIGKILL)
                raise AssertionError(f"orphans: {left}")
            time.sleep(0.02)


def processes_of(group: int) -> list[dict[str, Any]]:
    """The living processes of a group, with the processor time that each has had."""
    rows = map(status_of, Path("/proc").glob("[0-9]*/stat"))
    return [row for row in rows if row and row["group"] == group]


def status_of(path: Path) -> dict[str, Any] | None:
    """A living process as /proc/<pid>/stat has it."""
    with contextlib.suppress(OSError):
        name, rest = path.read_text().rsplit(")", 1)
        fields = rest.split()
        cpu = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
        if fields[0] != "Z":
            return {"process": name + ")", "group": int(fields[2]), "cpu": cpu, "path": str(path)}
    return None


def _child(
    stage: str,
    folder: Path,
    arguments: list[str],
    inject: Callable[[Any], object] | None,
    pipe: int,
    said: Mapping[str, Path],
) -> None:
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, target in ((0, os.devnull), (1, said["out"]), (2, said["err"])):
        flags = os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT
        os.dup2(os.open(target, flags), number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
    os.chdir(folder)
    script = importlib.import_module(SCRIPTS[stage])
    sys.modules["__main__"] = script  # its workers import it, as they do when a shell runs it
    for module, constants in TINY.items():
        for constant, value in constants.items():
            setattr(sys.modules[module], constant, value)
    if stage == "round":  # it makes the settings of the stages itself
        collect = sys.modules["collect_data"]
        collect.Settings = functools.partial(collect.Settings, max_steps=30)
    update = tqdm.tqdm.update

    def beat(self: Any, n: float | None = 1) -> Any:
        os.write(pipe, b".")
        return update(self, n)

    tqdm.tqdm.update = beat
    sys.argv = [f"{SCRIPTS[stage]}.py", *arguments]
    presets = getattr(script, "PRESETS", {})
    settings = parse(script.Settings, script.__doc__, presets)
    if inject is not None:
        inject(script)
    os.write(pipe, b"M")
    runtime.run(script.main, settings)


def start(
    stage: str,
    folder: Path,
    *flags: str,
    base: Mapping[str, str] = FLAGS,
    inject: Callable[[Any], object] | None = None,
    data: str = "data",
    run: str = "run",
) -> Running:
    """Start a stage in `folder`; `inject(script)` is called in the child just before its main."""
    folders = ["--data-dir", data, "--run-dir", run]
    return Running(stage, folder, [*folders, *base[stage].split(), *flags], inject)


def finish(stage: str, folder: Path, *flags: str, **how: Any) -> Ended:
    """Run a stage to its end, whatever that is."""
    return start(stage, folder, *flags, **how).wait()
