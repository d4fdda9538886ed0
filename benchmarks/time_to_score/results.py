"""The curves as a table and a figure."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from utils.io.files import write_atomically
from utils.io.records import read_records

LEVELS = (500, 800, 900)  # scores
MINUTES = (10, 60, 180)
LATE = 60.0  # seconds after a minute of the table at which an evaluation still counts for it


class Point(NamedTuple):
    """One evaluation."""

    seconds: float
    frames: int  # real frames so far, those of validation drives included
    scores: list[float]

    @property
    def mean(self) -> float:
        """The mean score."""
        return float(np.mean(self.scores))


def read_curve(folder: Path) -> list[Point]:
    """The evaluations of a curve so far."""
    path = folder / "begin.json"
    begin = json.loads(path.read_text()) if path.exists() else {"seconds": 0.0, "frames": 0}
    return [
        Point(
            begin["seconds"] + record["seconds"],
            begin["frames"] + record["frames"],
            record["scores"],
        )
        for record in read_records(folder / "scores.jsonl")
    ]


def table(curves: dict[str, list[Point]], finished: Sequence[str]) -> str:
    """Minutes and frames to each of LEVELS, and the scores at MINUTES, as Markdown."""
    head = [f"to {level}" for level in LEVELS] + [f"at {m} min" for m in MINUTES]
    lines = [f"| | {' | '.join(head)} | last |", "|---" * (len(head) + 2) + "|"]
    for name, points in curves.items():
        cells = [name]
        for level in LEVELS:
            found = next((p for p in points if p.mean >= level), None)
            cells.append(f"{found.seconds / 60:.0f} min, {found.frames:,} frames" if found else "–")
        for minute in MINUTES:
            known = [p for p in points if p.seconds <= 60 * minute + LATE]
            over = bool(points) and points[-1].seconds < 60 * minute - LATE
            lasting = name in finished or not over  # a finished agent keeps its score
            cells.append(describe(known[-1]) if known and lasting else "–")
        cells.append(f"{describe(points[-1])}, {points[-1].seconds / 60:.0f} min")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def describe(point: Point) -> str:
    """Mean and standard deviation."""
    return f"{point.mean:.0f} ± {np.std(point.scores):.0f}"


def draw(curves: dict[str, list[Point]], path: Path) -> None:
    """Mean scores with their standard errors over minutes and over real frames, as SVG."""
    figure = Figure(figsize=(9.0, 3.6), layout="constrained")
    over_time, over_frames = figure.subplots(1, 2, sharey=True)
    for name, points in curves.items():
        scores = [point.mean for point in points]
        errors = [np.std(point.scores) / len(point.scores) ** 0.5 for point in points]
        for axes, x in (
            (over_time, [point.seconds / 60 for point in points]),
            (over_frames, [point.frames / 1e6 for point in points]),
        ):
            axes.errorbar(x, scores, errors, marker="o", markersize=3, capsize=2, label=name)
    over_time.set(xlabel="minutes", ylabel="score on real tracks", xscale="log")
    over_frames.set(xlabel="million real frames", xscale="log")
    for axes in (over_time, over_frames):
        axes.grid(alpha=0.3)
    over_time.legend(fontsize=8)
    write_atomically(path, lambda file: figure.savefig(file, format="svg"))
