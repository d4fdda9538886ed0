"""The six scripts as a shell runs them, tiny; and a pipeline run once for all tests that need it.

What a stopped and resumed stage must end with is what this one run, never interrupted, made.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[1]
TIMEOUT = 900.0  # seconds; the slowest script takes about 20 on 2 idle cores

# Sizes: enough steps to be stopped in the middle of, few enough to take a second or two.
FLAGS: dict[str, list[str]] = {
    "collect_data.py": ["--max-steps", "60", "--workers", "2"],
    "run_vae_training.py": [
        *("--steps", "12", "--continue-steps", "12", "--batch", "4"),
        *("--evaluate-every", "6"),
    ],
    "process_data.py": ["--batch", "16"],
    "train_rnn.py": [
        *("--steps", "24", "--continue-steps", "24", "--lanes", "4", "--window", "16"),
        *("--evaluate-every", "12", "--dream-rnn"),
    ],
    "train_dream.py": [
        *("--generations", "6", "--continue-generations", "2", "--candidates", "8"),
        *("--searches", "2", "--continue-searches", "1", "--principal-components", "40"),
        *("--dreams", "4", "--horizon", "20", "--save-mean-every", "6"),
        *("--validation-tracks", "1", "--workers", "1", "--dream-rnn"),
    ],
    "test_agent.py": ["--workers", "2"],
    "tools.analysis": [],
    "tools.ablate": ["--workers", "1"],
    "tools.report": [],
    "tools.export_minari": [],
    "tools.iterate": ["--workers", "2"],
}
COLLECTED = {"recovery": 3, "random": 2}


@dataclass
class Workshop:
    """A data folder and a run folder, and the scripts run on them."""

    folder: Path
    environment: dict[str, str]

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def run_dir(self) -> Path:
        return self.folder / "run"

    def command(self, script: str, *flags: str) -> list[str]:
        folders = ["--data-dir", str(self.data), "--run-dir", str(self.run_dir)]
        program = [str(ROOT / script)] if script.endswith(".py") else ["-m", script]
        return [sys.executable, *program, *folders, *FLAGS[script], *flags]

    def run(
        self, script: str, *flags: str, text: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a script to its end, with `text` as its standard input."""
        return subprocess.run(
            self.command(script, *flags),
            input=text or "",
            capture_output=True,
            text=True,
            env=self.environment,
            timeout=TIMEOUT,
        )

    def succeed(self, script: str, *flags: str) -> str:
        """Run a script that must exit 0; returns its standard output."""
        done = self.run(script, *flags)
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout

    def start(self, script: str, *flags: str) -> subprocess.Popen[str]:
        """Start a script as the leader of a process group of its own, as a shell does."""
        return subprocess.Popen(
            self.command(script, *flags),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment,
            start_new_session=True,
        )

    def stop_at_work(
        self,
        script: str,
        *flags: str,
        signal_number: int,
        is_at_work: Callable[[], bool],
        is_done: Callable[[], bool],
        started: Callable[[int], object] = lambda group: None,
    ) -> subprocess.CompletedProcess[str]:
        """Start a script, and signal its whole process group as soon as it is at work.

        `started` gets the number of that group.
        """
        process = self.start(script, *flags)
        started(process.pid)
        end = time.monotonic() + TIMEOUT
        while not is_at_work():
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < end, "the script never got to work"
            time.sleep(0.001)
        os.killpg(process.pid, signal_number)
        output, errors = process.communicate(timeout=TIMEOUT)
        assert not is_done(), "the script was done before it was stopped: give it more to do"
        return subprocess.CompletedProcess(process.args, process.returncode, output, errors)

    def copy(self, folder: Path, *names: str) -> "Workshop":
        """Another workshop with copies of these of our files and folders."""
        other = Workshop(folder, self.environment)
        for name in names:
            source, target = self.folder / name, folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if source.is_dir() else shutil.copy2)(source, target)
        return other

    def files(self, pattern: str) -> dict[str, bytes]:
        """Bytes of the files that match, by their paths in this folder."""
        paths = sorted(self.folder.glob(pattern))
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in paths}

    def leftovers(self) -> list[Path]:
        """Files that a finished run must not leave behind."""
        names = ("*.partial", "*.training.eqx")
        return [path for name in names for path in self.folder.rglob(name)]


def processes_of_group(group: int) -> list[str]:
    """The running processes of a process group, without zombies."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError, PermissionError):
            alive = process.status() != psutil.STATUS_ZOMBIE
            if os.getpgid(process.pid) == group and alive:
                found.append(f"{process.pid} {process.status()} {process.cmdline()}")
    return found


def wait_until_empty(group: int, seconds: float = 20.0) -> None:
    """Assert that no process of the group is left, at the latest after some seconds."""
    end = time.monotonic() + seconds
    while left := processes_of_group(group):
        assert time.monotonic() < end, f"left running: {left}"
        time.sleep(0.05)


KILL = signal.SIGKILL


def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The temporary folder of this session that all of pytest-xdist's processes share."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """All six scripts, run in order on the real environment."""
    folder = tmp_path_factory.mktemp("workshop")
    environment = {
        **os.environ,
        # Compiled once for all processes of this session; results do not depend on it.
        "JAX_COMPILATION_CACHE_DIR": str(shared_folder(tmp_path_factory) / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "PYTHONUNBUFFERED": "1",
    }
    made = Workshop(folder, environment)
    for mode, episodes in COLLECTED.items():
        made.succeed("collect_data.py", "--mode", mode, "--episodes", str(episodes))
    for script in ("run_vae_training.py", "process_data.py", "train_rnn.py", "train_dream.py"):
        made.succeed(script)
    log = ("--log", str(folder / "test_log.jsonl"))
    made.succeed("test_agent.py", "--episodes", "2", "--baseline", "random", *log)
    return made
