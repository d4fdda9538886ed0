"""The quick share of `make faults`: kills, a full disk, links and hostile files."""

import os
import subprocess
import sys
from pathlib import Path

from scripts import ROOT, TIMEOUT


def test_the_quick_share_of_the_faults_is_survived(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "faults", "--quick", "--work-dir", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for part in ("kill −9 at a rename", "disk full", "paths: links inside", "damage: corpus"):
        assert f"survived {part}" in done.stdout
