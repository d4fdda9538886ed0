"""Every tool starts as `python -m tools.NAME`, says so in its help, and takes quoted paths."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOOLS = sorted(
    path.stem
    for path in (ROOT / "tools").iterdir()
    if (path.suffix == ".py" and path.stem != "__init__") or (path / "__main__.py").exists()
)


def test_the_tools_are_found() -> None:
    assert {"iterate", "ablate", "report", "analysis"} <= set(TOOLS)


@pytest.mark.parametrize("name", TOOLS)
def test_help_names_the_command_that_runs_it(name: str, tmp_path: Path) -> None:
    shown = subprocess.run(
        [sys.executable, "-m", f"tools.{name}", "--help"],
        cwd=tmp_path,  # any working directory will do, with the clone on PYTHONPATH
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.startswith(f"usage: python -m tools.{name} [-h]")
    assert f"\n    python -m tools.{name}" in shown.stdout  # an example to copy
    assert "__main__" not in shown.stdout
