"""A few cases of `make faults`: kills, a full disk, links and hostile files; and its ledger."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from scripts import ROOT, TIMEOUT

from faults import page
from faults.ledger import Ledger, machine, pipeline_sources, summarise

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


def record(case: str, outcome: str = "passed", **facts: Any) -> dict[str, Any]:
    about = {"fault": "damage", "script": "loaders", "seconds": 30.0, "cpu": 6.0}
    return {"case": case, "outcome": outcome, **about, **facts}


def test_summary_counts_cases_not_reads() -> None:
    records = [
        record("a", reads=1000),
        record("b", reads=10, script="train_rnn", kills=2),
        record("c", "failed", problem="it hangs"),
        record("d", "skipped", problem="needs atheris"),
    ]
    found = summarise(records, at_a_time=2)
    assert (found["cases"], found["survived"], found["kills"]) == (3, 2, 2)
    assert found["cells"] == [
        {"fault": "damage", "script": "loaders", "cases": 2, "survived": 1},
        {"fault": "damage", "script": "train_rnn", "cases": 1, "survived": 1},
    ]
    assert found["reads"] == {"damage": 1010}
    assert (found["failed"], found["not_tried"]) == (["c: it hangs"], ["d: needs atheris"])
    assert (found["minutes"], round(found["cpu_minutes"], 6)) == (1.0, 0.4)


def test_record_holds_only_for_a_pass_with_the_same_sources(tmp_path: Path) -> None:
    about = {"sources": "1234", "seed": 0, "machine": machine()}
    lines = [record("a", **about), record("b", "failed", **about), record("c", "skipped", **about)]
    (tmp_path / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    ledger = Ledger(tmp_path, seed=0, report_folder=None)
    assert [case for case in "abcd" if ledger.holds(case, "1234")] == ["a"]
    assert not ledger.holds("a", "5678")
    assert not Ledger(tmp_path, seed=1, report_folder=None).holds("a", "1234")


def test_sources_include_modules_in_nested_folders() -> None:
    names = {str(path.relative_to(ROOT)) for path in pipeline_sources()}
    nested = {"utils/io/files.py", "models/layers/lstm.py", "tools/report/__main__.py"}
    assert nested | {"train_rnn.py", "envs/dream.py", "fast_car_racing/env.py"} <= names


def test_reliability_page_is_made_from_its_json_file() -> None:
    summary = json.loads((ROOT / "docs" / "reliability.json").read_text())
    assert (ROOT / "docs" / "reliability.md").read_text() == page.as_markdown(summary)
    assert sum(cell["cases"] for cell in summary["cells"]) == summary["cases"]
