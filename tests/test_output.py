"""Standard output that is closed, full, cut off or ASCII only never decides how a run ends."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fast_car_racing import compilation
from utils.io.npz import CorruptFileError, CorruptFileLog
from utils.runtime import progress
from utils.sim.workers import run_tasks

ROOT = Path(__file__).parents[1]

# It prints, works on, and prints again: a file says that its work was done.
WORK = r"""
import sys
from pathlib import Path
from utils import runtime
from utils.settings import CommonSettings, parse

def main(settings):
    for _ in range(2000):
        print("841 \xb1 30 \u2026")
    with runtime.progress(1, "step") as bar:
        bar.update()
    sys.stdout.flush()
    (settings.run_dir / "done").write_text("all")
    print("done")

runtime.run(main, parse(CommonSettings, "\xb1", {}))
"""


def work_in_shell(folder: Path, redirect: str, **environment: str) -> tuple[int, bytes, str]:
    """Exit code of WORK whose outputs a shell redirects, and what it wrote to both."""
    program = f'"{sys.executable}" -c "$WORK" --run-dir "{folder}"'
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {program} {redirect}"],
        capture_output=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(ROOT), "WORK": WORK, **environment},
    )
    return done.returncode, done.stdout, done.stderr.decode()


@pytest.mark.parametrize(
    "redirect, said",
    [
        (">&-", ""),
        ("2>&-", ""),
        (">&- 2>&- <&-", ""),
        (">/dev/full", "standard output cannot be written: No space left on device"),
        (">/dev/full 2>/dev/full", ""),
        ("2>/dev/full", ""),
        ("| head -n 1", ""),
        ("2>&1 | head -c 1", ""),
    ],
)
def test_printing_never_decides_how_a_run_ends(tmp_path: Path, redirect: str, said: str) -> None:
    code, _, errors = work_in_shell(tmp_path, redirect)
    assert code == 0, errors
    assert (tmp_path / "done").read_text() == "all"  # what is printed is in no other file either
    lines = [line for line in errors.replace("\r", "\n").splitlines() if line.strip()]
    assert [line for line in lines if "step" not in line] == [said] * bool(said)


def test_letters_that_an_encoding_lacks_are_written_as_escapes(tmp_path: Path) -> None:
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    code, output, errors = work_in_shell(tmp_path, "", **ascii_only)
    assert code == 0, errors
    assert output.splitlines()[0] == rb"841 \xb1 30 \u2026" and output.endswith(b"done\n")
    code, output, errors = work_in_shell(tmp_path, "--help", **ascii_only)
    assert code == 0 and rb"\xb1" in output, errors


def test_a_benchmark_prints_its_table_on_an_ascii_terminal() -> None:
    figures = ROOT / "docs" / "benchmarks.json"  # its stages have names such as "64 × 16"
    command = [sys.executable, "-m", "benchmarks.side_by_side", figures, figures]
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and r"\xd7" in done.stdout, done.stderr


def test_files_opened_later_never_get_the_number_of_a_closed_output(tmp_path: Path) -> None:
    code = """
import os, subprocess, sys
from utils.output import protect_output
protect_output()
file = open(sys.argv[1], "w")
assert file.fileno() > 2
os.system("echo from a child")
file.write("data")
"""
    command = f'"{sys.executable}" -c "$CODE" "{tmp_path / "file"}" >&- 2>&- <&-'
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CODE": code}
    assert subprocess.run(["bash", "-c", command], env=environment).returncode == 0
    assert (tmp_path / "file").read_text() == "data"


def test_a_message_has_a_line_of_its_own_beside_a_progress_bar(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def read(path: Path) -> None:
        raise CorruptFileError(path, "truncated")

    with progress(10, "file"):
        CorruptFileLog(30, "left out").read_all([Path("a.npz")], read)
    lines = capsys.readouterr().err.replace("\r", "\n").splitlines()
    assert "left out: a.npz: truncated" in lines
    assert "1 of 30 files left out" in lines


def report_compiling(_: int) -> None:
    compilation._report("compiling")


def test_a_workers_message_has_a_line_of_its_own_beside_a_progress_bar(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with progress(10, "episode"):
        list(run_tasks(report_compiling, [1], workers=1))
    lines = capfd.readouterr().err.replace("\r", "\n").splitlines()
    assert "fast_car_racing: compiling" in lines
