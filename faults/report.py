"""docs/reliability.json and docs/reliability.md, from the ledger of a run and nothing else."""

import collections
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from faults.trials import STAGES

HEADS = {
    "collect": "1 collect",
    "see": "2 V",
    "encode": "3 encode",
    "predict": "4 M",
    "dream": "5 C",
    "drive": "6 drive",
    "round": "round",
    "loader": "loaders",
}
INTRODUCTION = """# Reliability

Made by `make faults`; every number is from [reliability.json](reliability.json), which that run
wrote. {trials:,} trials, {survived:,} survived, in {minutes:.0f} minutes on {machine}, of
which {cpu_minutes:.0f} minutes of one core were worked; commit `{commit}`, seed {seed}, {date}.

A trial is survived when the stage says what is wrong in one plain line (or goes on, where the
fault is one to be borne), no file is half-written or lost, no process is left, and **the same
command run again ends with the bytes of a run that nothing had happened to**. `faults/` holds the
trials, one module for each kind of fault; `python -m faults --list` names them all.
"""
NOTES = """
A process counts as killed at work only if the signal ended it; at random means after a random
share of its processor time. In `loaders` a trial is one file read: the corpus, every length, bits
of every region, hypothesis, and atheris, which is guided by the loaders' own branches. Sizes are
tiny (a stage takes seconds); the code is the one that users run, the environment the real one.
"""


def summarise(records: Iterable[Mapping[str, Any]], about: Mapping[str, Any]) -> dict[str, Any]:
    """What the report is made of."""
    cells: dict[tuple[str, str], list[int]] = collections.defaultdict(lambda: [0, 0])
    left, problems, facts, kills = [], [], {}, 0
    for record in records:
        if record["survived"] is None:
            left.append(f"{record['key']}: {record['problem']}")
            continue
        cell = cells[record["fault"], record["stage"]]
        cell[0] += record["trials"]
        cell[1] += record["trials"] if record["survived"] else 0
        kills += record.get("kills", 0)
        if not record["survived"]:
            problems.append(f"{record['key']}: {record['problem']}")
        if record["fault"] == "ten times the data":
            facts[record["stage"]] = {k: v for k, v in record.items() if "MB" in k or k == "growth"}
    return {
        **about,
        "trials": sum(cell[0] for cell in cells.values()),
        "survived": sum(cell[1] for cell in cells.values()),
        "kills": kills,
        "cells": [
            {"fault": fault, "stage": stage, "trials": trials, "survived": survived}
            for (fault, stage), (trials, survived) in sorted(cells.items())
        ],
        "memory": facts,
        "broken": sorted(problems),
        "not tried": sorted(left),
    }


def write(summary: Mapping[str, Any], folder: Path) -> None:
    """Write both files."""
    (folder / "reliability.json").write_text(json.dumps(summary, indent=1) + "\n")
    (folder / "reliability.md").write_text(as_text(summary))


def as_text(summary: Mapping[str, Any]) -> str:
    """The page."""
    parts = [INTRODUCTION.format(**summary), table(summary["cells"]), NOTES]
    parts.append(f"\n## kill −9\n\n{summary['kills']} kills, counted by process.\n")
    if summary["memory"]:
        parts.append("\n## Ten times the data\n\nPeak resident memory of the stage's process.\n\n")
        parts.append("| stage | with | with ten times as much | growth |\n|---|---:|---:|---:|\n")
        for stage, facts in summary["memory"].items():
            few, many = (f"{v} {k}" for k, v in facts.items() if k != "growth")
            parts.append(f"| {HEADS[stage]} | {few} | {many} | {facts['growth']} |\n")
    for title, lines in (("Broken", summary["broken"]), ("Not tried", summary["not tried"])):
        if lines:
            parts.append(f"\n## {title}\n\n" + "".join(f"- {line}\n" for line in lines))
    return "".join(parts)


def table(cells: Iterable[Mapping[str, Any]]) -> str:
    """Faults by stages: how many trials were survived, of how many."""
    found = {(cell["fault"], cell["stage"]): cell for cell in cells}
    lines = ["| fault | " + " | ".join(HEADS.values()) + " |", "|---|" + "---:|" * len(HEADS)]
    for fault in sorted({fault for fault, _ in found}):
        row = []
        for stage in STAGES:
            cell = found.get((fault, stage))
            row.append(f"{cell['survived']:,}/{cell['trials']:,}" if cell else "")
        lines.append(f"| {fault} | " + " | ".join(row) + " |")
    return "\n".join(lines) + "\n"
