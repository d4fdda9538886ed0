"""Draw the rounds of Sim2Real2Sim of several runs in one figure.

    python -m tools.rounds --run-dir runs

Reads the rounds.metrics.jsonl of each folder in --run-dir, as tools.iterate and tools.reproduce
write it. A run of tools.reproduce that is finished has a last point, its 100 test tracks. Writes
rounds.png to --run-dir.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from utils import runtime
from utils.errors import UserError
from utils.io.records import read_metrics
from utils.settings import CommonSettings, parse, setting
from utils.viz.figures import save_figure

METRICS_NAME = "rounds.metrics.jsonl"
# Title and metric of each panel.
PANELS = (
    ("real score, mean and 95% interval", "mean"),
    ("return in the dream of that round", "dream_score"),
    ("steps of a finished lap", "lap_steps"),
    ("lost drives, %", "lost_percent"),
)
TEST = "test"  # stands in for the number of a round


@dataclass(frozen=True)
class Settings(CommonSettings):
    """The flags of this script."""

    run_dir: Path = setting(Path("runs"), "folder of the run folders")


def main(settings: Settings) -> None:
    """Draw all runs in the folder."""
    folders = sorted(path.parent for path in settings.run_dir.glob(f"*/{METRICS_NAME}"))
    if not folders:
        raise UserError(f"no folder in {settings.run_dir} has {METRICS_NAME}: run tools.iterate")
    path = settings.run_dir / "rounds.png"
    plot_rounds(path, {folder.name: rounds_of(folder) for folder in folders})
    print(path)


def plot_run(run_dir: Path) -> None:
    """Draw the rounds of one run to its rounds.png."""
    plot_rounds(run_dir / "rounds.png", {run_dir.name: rounds_of(run_dir)})


def rounds_of(run_dir: Path) -> list[dict[str, Any]]:
    """The records of a run's rounds, and of its test if tools.reproduce has finished."""
    records = [point(record, record["step"]) for record in read_metrics(run_dir / METRICS_NAME)]
    report_path = run_dir / "reproduce" / "report.json"
    if report_path.exists():
        report = json.loads(report_path.read_text())
        low, high = report["evaluation"]["interval"]
        tested = {**report["evaluation"], "low": low, "high": high}
        tested |= {"lap_steps": report["lap_steps"], "lost": sum(tested["lost"])}
        records.append(point(tested, TEST))
    return records


def point(record: Mapping[str, Any], step: int | str) -> dict[str, Any]:
    """A record with the percentage of lost drives, at a round's number or TEST."""
    return {**record, "step": step, "lost_percent": 100 * record["lost"] / len(record["scores"])}


def plot_rounds(path: Path, runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Plot the records of runs, name -> the result of `rounds_of`, as PNG."""
    figure = Figure(figsize=(4.2 * len(PANELS), 3.4), layout="constrained")
    numbers = sorted({r["step"] for records in runs.values() for r in records} - {TEST})
    places = {step: place for place, step in enumerate([*numbers, TEST])}
    tested = any(record["step"] == TEST for records in runs.values() for record in records)
    for axes, (title, metric) in zip(figure.subplots(1, len(PANELS)), PANELS, strict=True):
        for colour, (name, records) in enumerate(runs.items()):
            shown = [r for r in records if r.get(metric) is not None]
            rounds = [r for r in shown if r["step"] != TEST]
            style: dict[str, Any] = {"color": f"C{colour}"}
            axes.plot(
                [places[r["step"]] for r in rounds],
                [r[metric] for r in rounds],
                **style, marker="o", markersize=3, label=name,
            )  # fmt: skip
            for r in shown:
                at = places[r["step"]]
                if r["step"] == TEST:
                    # Beside each other, so that runs with the same result are all seen.
                    at += 0.16 * (colour - (len(runs) - 1) / 2)
                    axes.plot(at, r[metric], **style, marker="*", markersize=9)
                if metric == "mean" and r.get("low") is not None:
                    axes.vlines(at, r["low"], r["high"], **style, alpha=0.5)
        ticks = [*numbers, TEST] if tested else numbers
        axes.set(title=title, xlabel="round")
        axes.set_xticks([places[step] for step in ticks], [str(step) for step in ticks])
        axes.grid(alpha=0.3)
        if len(runs) > 1 and metric == "mean":
            axes.legend(fontsize=8)
    save_figure(figure, path)


if __name__ == "__main__":
    runtime.run(main, parse(Settings, __doc__, {}))
