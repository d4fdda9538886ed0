"""The ledger: one record for each case, kept across runs, and the summary for the report.

A record holds as long as the pipeline, the suite's shared modules and the case's own module stay
unchanged. A rerun skips the cases that have a record.
"""

import collections
import datetime
import functools
import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from faults import page
from faults.pipeline import ROOT


def pipeline_sources() -> set[Path]:
    """The modules that a case may run: the scripts, and every module of every package."""
    packages = ("models", "utils", "envs", "tools", "fast_car_racing")
    nested = {path for name in packages for path in (ROOT / name).rglob("*.py")}
    return {*ROOT.glob("*.py"), *nested}


@functools.cache
def sources_sha256(test_module: Path | None = None) -> str:
    """Hex sha256 of the pipeline, the suite's shared modules and one module of cases."""
    here = Path(__file__).parent
    shared = {path for path in here.glob("*.py") if not path.name.startswith("test_")}
    files = pipeline_sources() | shared | {here.parent / "hostile_files.py"}
    files |= {test_module} if test_module else set()
    texts = [f"{path.relative_to(ROOT)}\n{path.read_text()}" for path in sorted(files)]
    return hashlib.sha256("".join(texts).encode()).hexdigest()


class Ledger:
    """Reads and writes the records of a folder as JSON lines; a pytest plugin."""

    def __init__(self, folder: Path, seed: int, report_folder: Path | None):
        self.path, self.seed, self.report_folder = folder / "records.jsonl", seed, report_folder
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        self.records = {record["case"]: record for record in map(json.loads, lines)}
        self.reported: list[str] = []  # the cases of this session
        self.summary: dict[str, Any] = {}

    def holds(self, case: str, sources: str) -> bool:
        """Whether the case passed with these sources, this seed and this machine."""
        record = self.records.get(case, {})
        about = {"sources": sources, "seed": self.seed, "machine": machine()}
        return record.get("outcome") == "passed" and about.items() <= record.items()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Append the record of a case that was run."""
        facts = dict(report.user_properties)
        if "fault" not in facts or (report.when != "call" and report.passed):
            return
        self.reported.append(report.nodeid)
        if facts.pop("recorded", False):
            return
        record = {
            "case": report.nodeid,
            "outcome": report.outcome,
            "seconds": round(report.duration, 2),
            "seed": self.seed,
            "machine": machine(),
            **facts,
        }
        self.records[report.nodeid] = record
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a") as file:
            file.write(json.dumps(record) + "\n")

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Summarise the session's cases; write the report if it was asked for."""
        stopped = session.shouldstop or session.shouldfail
        if not self.reported or stopped or exitstatus == pytest.ExitCode.INTERRUPTED:
            return
        records = [self.records[case] for case in dict.fromkeys(self.reported)]
        at_a_time = session.config.getoption("numprocesses", None) or 1
        self.summary = {**run_facts(self.seed), **summarise(records, at_a_time)}
        if self.report_folder is not None:
            page.write(self.summary, self.report_folder)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say what was tried, and where the report is."""
        if self.summary:
            text = "{cases} cases of faults, {survived} survived".format(**self.summary)
            written = f"; wrote {self.report_folder}/reliability.md" if self.report_folder else ""
            terminalreporter.write_line(text + written)


def summarise(records: Sequence[Mapping[str, Any]], at_a_time: int) -> dict[str, Any]:
    """What the report is made from. `at_a_time` is the number of cases that run in parallel."""
    tried = [record for record in records if record["outcome"] != "skipped"]
    cells: dict[tuple[str, str], list[bool]] = collections.defaultdict(list)
    reads: collections.Counter[str] = collections.Counter()
    for record in tried:
        cells[record["fault"], record["script"]].append(record["outcome"] == "passed")
        if "reads" in record:
            reads[record["fault"]] += record["reads"]
    return {
        "minutes": sum(record["seconds"] for record in records) / 60 / at_a_time,
        "cpu_minutes": sum(record.get("cpu", 0.0) for record in records) / 60,
        "cases": len(tried),
        "survived": sum(map(sum, cells.values())),
        "kills": sum(record.get("kills", 0) for record in tried),
        "cells": [
            {"fault": fault, "script": script, "cases": len(passed), "survived": sum(passed)}
            for (fault, script), passed in sorted(cells.items())
        ],
        "reads": dict(sorted(reads.items())),
        "memory": {record["script"]: record["memory"] for record in tried if "memory" in record},
        "failed": problems(records, "failed"),
        "not_tried": problems(records, "skipped"),
    }


def problems(records: Iterable[Mapping[str, Any]], outcome: str) -> list[str]:
    """The cases with that outcome and why, one line each."""
    return sorted(
        f"{record['case']}: {record.get('problem', 'see the log of the run')}"
        for record in records
        if record["outcome"] == outcome
    )


def run_facts(seed: int) -> dict[str, Any]:
    """Commit, seed, machine and date of a run."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return {
        "commit": done.stdout.strip() or "unknown",
        "seed": seed,
        "machine": machine(),
        "date": datetime.date.today().isoformat(),
    }


@functools.cache
def machine() -> str:
    """Processor, cores, operating system and Python."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = (line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return (
        f"{next(names, platform.processor())}, {len(os.sched_getaffinity(0))} cores, "
        f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    )
