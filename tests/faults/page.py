"""docs/reliability.md, its JSON file and its figure, from the summary of the ledger."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from faults.pipeline import COLUMNS

FUZZING = "damage: fuzzing"  # the row whose files the fuzzer wrote
FIGURE = "reliability-memory.svg"
INTRODUCTION = """# Reliability

{cases:,} cases of faults were tried against the scripts of the pipeline and the readers of its
files; {survived:,} survived. {kills:,} processes were killed with kill −9.

A case is survived if the script says what is wrong in one plain line, or continues where it can;
if no file is half-written or lost and no process is left; and if **the same command, run again,
ends with the bytes of a run without a fault**. Sizes are tiny, so that a script takes seconds. The
code is the one that users run, and the environment is the real one.

{note}Every number is from [reliability.json](reliability.json). The run took {minutes:.0f} minutes,
{cpu_minutes:.0f} minutes of processor time, on {machine}.
Commit `{commit}`, seed {seed}, {date}.

## Cases

`make faults` runs the cases and writes this page. They are the tests of `tests/faults/`, one module
for each kind of fault. A cell says how many cases were tried; all survived unless it says "15 of
16".

"""
READS = """
A process counts as killed only if the signal ended it while it was at work. "At random" means after
a random share of its processor time. Some of these cases of tools.iterate kill each script of a
round that is run by hand.

## Files read

Each case in the last column lets a file reader read many files. These reads are not cases; they are
counted here. Apart from them, the fuzzer (atheris) wrote {fuzzed:,} files and had them read.

| files | reads |
|---|---:|
"""
MEMORY = """
## Ten times the data

Peak resident memory of the script's process, with some episodes of 1,000 steps and with ten times
as many.

![peak memory of the scripts that read data](reliability-memory.svg)

| script | episodes | peak, MB | growth |
|---|---:|---:|---:|
"""


def write(summary: Mapping[str, Any], folder: Path) -> None:
    """Write reliability.json, reliability.md and the figure."""
    folder.mkdir(parents=True, exist_ok=True)
    if summary["memory"]:
        draw_memory(summary["memory"], folder / FIGURE)
    (folder / "reliability.json").write_text(json.dumps(summary, indent=1) + "\n")
    (folder / "reliability.md").write_text(as_markdown(summary))


def as_markdown(summary: Mapping[str, Any]) -> str:
    """The text of reliability.md."""
    note = f"{summary['note']}\n\n" if "note" in summary else ""
    parts = [INTRODUCTION.format(**{**summary, "note": note}), table(summary["cells"])]
    if reads := dict(summary["reads"]):
        parts.append(READS.format(fuzzed=reads.pop(FUZZING, 0)))
        parts += [f"| {name} | {count:,} |\n" for name, count in reads.items()]
    if summary["memory"]:
        parts.append(MEMORY)
        parts += [memory_row(script, found) for script, found in summary["memory"].items()]
    for title, key in (("Failed", "failed"), ("Not tried", "not_tried")):
        if lines := summary[key]:
            parts.append(f"\n## {title}\n\n" + "".join(f"- {line}\n" for line in lines))
    return "".join(parts)


def table(cells: Iterable[Mapping[str, Any]]) -> str:
    """Faults by scripts: how many cases were tried, and how many survived if some did not."""
    found = {(cell["fault"], cell["script"]): cell for cell in cells}
    lines = ["| fault | " + " | ".join(COLUMNS) + " |", "|---|" + "---:|" * len(COLUMNS)]
    for fault in sorted({fault for fault, _ in found}):
        texts = (cell_text(found.get((fault, script))) for script in COLUMNS)
        lines.append(f"| {fault} | " + " | ".join(texts) + " |")
    return "\n".join(lines) + "\n"


def cell_text(cell: Mapping[str, Any] | None) -> str:
    """A cell of the table."""
    if cell is None:
        return ""
    all_survived = cell["survived"] == cell["cases"]
    return f"{cell['cases']}" if all_survived else f"{cell['survived']} of {cell['cases']}"


def memory_row(script: str, found: Mapping[str, Any]) -> str:
    """A row of the table of peak memory."""
    ranges = (" → ".join(f"{value:,}" for value in found[name]) for name in ("episodes", "MB"))
    growth = f"{100 * found['growth']:+.1f} %"
    return f"| {' | '.join([script, *ranges, growth])} |\n"


def draw_memory(found: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Draw peak memory over the amount of data, one line for each script."""
    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axes = figure.subplots()
    for script in sorted(found, key=COLUMNS.index):
        episodes, peaks = found[script]["episodes"], found[script]["MB"]
        axes.plot([n / episodes[0] for n in episodes], peaks, "o-", label=script)
    axes.set(xlabel="times the data", ylabel="peak memory, MB", xscale="log", ylim=0)
    axes.set_xticks([1, 10], ["1", "10"])
    axes.legend(fontsize=8)
    with rc_context({"svg.hashsalt": "reliability"}):
        figure.savefig(path, metadata={"Date": None})
