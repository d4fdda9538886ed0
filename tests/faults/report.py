"""docs/reliability.json and docs/reliability.md, from the ledger of a run and nothing else."""

import collections
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from faults.trials import STAGES

HEADS = {
    "collect": "1 collect",
    "see": "2 V",
    "encode": "3 encode",
    "predict": "4 M",
    "dream": "5 C",
    "drive": "6 drive",
    "round": "round",
    "other": "other scripts",
    "loader": "loaders",
}
INTRODUCTION = """# Reliability

Made by `make faults`; every number is from [reliability.json](reliability.json), which that run
wrote. {trials:,} trials, {survived:,} survived. It took {minutes:.0f} minutes, and
{cpu_minutes:.0f} minutes of processor time of one core, on {machine}; commit `{commit}`, seed
{seed}, {date}.

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

MEMORY = """
## Ten times the data

Peak resident memory of the stage's process, with some episodes of 1,000 steps and with ten times
as many.

"""
FIGURE = "reliability-memory.svg"


def summarise(
    records: Sequence[Mapping[str, Any]], planned: int, about: Mapping[str, Any]
) -> dict[str, Any]:
    """What the report is made of."""
    cells: dict[tuple[str, str], list[int]] = collections.defaultdict(lambda: [0, 0])
    left, problems, memory, kills = [], [], {}, 0
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
        if "memory" in record:
            memory[record["stage"]] = record["memory"]
    return {
        **about,
        "run": len(records),
        "planned": planned,
        "trials": sum(cell[0] for cell in cells.values()),
        "survived": sum(cell[1] for cell in cells.values()),
        "kills": kills,
        "cells": [
            {"fault": fault, "stage": stage, "trials": trials, "survived": survived}
            for (fault, stage), (trials, survived) in sorted(cells.items())
        ],
        "memory": memory,
        "broken": sorted(problems),
        "not tried": sorted(left),
    }


def write(summary: Mapping[str, Any], folder: Path) -> None:
    """Write both files, and the figure beside them."""
    if summary["memory"]:
        draw_memory(summary["memory"], folder / FIGURE)
    (folder / "reliability.json").write_text(json.dumps(summary, indent=1) + "\n")
    (folder / "reliability.md").write_text(as_text(summary))


def draw_memory(found: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Peak memory over the amount of data, a line for each stage."""
    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axes = figure.subplots()
    for stage in sorted(found, key=STAGES.index):
        episodes, peaks = found[stage]["episodes"], found[stage]["MB"]
        axes.plot([n / episodes[0] for n in episodes], peaks, "o-", label=HEADS[stage])
    axes.set(xlabel="times the data", ylabel="peak memory, MB", xscale="log", ylim=0)
    axes.set_xticks([1, 10], ["1", "10"])
    axes.legend(fontsize=8)
    with rc_context({"svg.hashsalt": "reliability"}):
        figure.savefig(path, metadata={"Date": None})


def as_text(summary: Mapping[str, Any]) -> str:
    """The page."""
    run, planned = summary["run"], summary["planned"]
    short = "" if run == planned else f"**Not all of it: {run} of {planned} attempts.**\n\n"
    parts = [INTRODUCTION.format(**summary), short, table(summary["cells"]), NOTES]
    parts.append(f"\n## kill −9\n\n{summary['kills']} kills, counted by process.\n")
    if summary["memory"]:
        parts.append(f"{MEMORY}![peak memory of stages 2 to 5]({FIGURE})\n\n")
        parts.append("| stage | episodes | peak, MB | growth |\n|---|---:|---:|---:|\n")
        for stage, facts in summary["memory"].items():
            row = (" → ".join(f"{x:,}" for x in facts[name]) for name in ("episodes", "MB"))
            cells = [HEADS[stage], *row, f"{100 * facts['growth']:+.1f} %"]
            parts.append(f"| {' | '.join(cells)} |\n")
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
