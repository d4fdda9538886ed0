"""A few cases of `make faults`: kills, a full disk, links and hostile files."""

import os
import subprocess
import sys
from pathlib import Path

from scripts import ROOT, TIMEOUT

# No model is trained; each takes seconds.
CASES = (
    "test_kills.py::test_killed_at_a_rename[collect_data-before rename 2 of the worker]",
    "test_kills.py::test_killed_at_random[collect_data-kill 0]",
    "test_disks.py::test_file_does_not_fit[collect_data-file 1 by size does not fit]",
    "test_paths.py::test_links_inside[collect_data]",
    "test_loaders.py::test_corpus_is_refused[latent]",
    "test_loaders.py::test_corpus_is_refused[checkpoint]",
    "test_loaders.py::test_truncation_is_refused",
)


def test_some_faults_are_survived(tmp_path: Path) -> None:
    """In a process of its own: the suite forks, so JAX must not have started."""
    cases = [f"tests/faults/{case}" for case in CASES]
    options = ["-m", "faults", "--quiet", "-p", "no:cacheprovider", "--fault-dir", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *cases],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "9 passed" in done.stdout
