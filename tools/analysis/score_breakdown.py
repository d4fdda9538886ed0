"""Where on the track points are lost, and whether a drive goes on after a push: numbers, figures.

Everything is counted from traces (tools/analysis/trace.py), by the curvature of the centre line.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import binomtest

from tools.analysis.trace import UNITS, WINDOW, Push, Trace
from utils.data.targets import NO_TILE_STEPS
from utils.sim.policies import Centerline
from utils.viz.figures import save_figure

# From which curvature on, in 1/unit. The sharpest turn that a track can have is 0.0886: a radius of
# 11 units on a road that is 13 wide.
BINS = {"straight": 0.0, "wide bend": 0.01, "bend": 0.025, "sharp turn": 0.045, "hairpin": 0.07}
NEAR = 8  # tiles, 28 units to either side: a car slides on for so long before it is off the road
SETTLE = 50  # steps after a push that prove nothing: the car may only be sliding along the road
# Why a tile was missed: driven past, or never reached since the car had crashed or was too slow.
MISSES = ("passed_by", "after_loss", "out_of_time")


def last_new_tile(trace: Trace) -> int:
    """The tile that was visited last, the foremost of several."""
    return int(np.flatnonzero(trace.visited == trace.visited.max())[-1])


def is_lap_driven(trace: Trace) -> bool:
    """Whether the drive came round: what lies ahead of its last new tile is visited already."""
    ahead = (last_new_tile(trace) + 1 + np.arange(10)) % len(trace.visited)
    return trace.outcome.lap_finished or bool((trace.visited[ahead] >= 0).mean() >= 0.5)


def lost_at(trace: Trace) -> int | None:
    """The tile where the drive was lost for good, None if it was not.

    It is the last new one, if the car left the playfield or had NO_TILE_STEPS steps for more.
    """
    quiet = trace.outcome.steps - trace.visited.max()
    ended = trace.outcome.left_playfield or quiet > NO_TILE_STEPS
    return last_new_tile(trace) if ended and not is_lap_driven(trace) else None


def misses(trace: Trace) -> dict[str, np.ndarray]:
    """For each of MISSES, bool (N): the tiles that were missed so."""
    missed = trace.visited < 0
    is_lap = is_lap_driven(trace)
    reached = is_lap | (np.arange(len(missed)) <= last_new_tile(trace))
    lost = lost_at(trace) is not None
    return {
        "passed_by": missed & reached,
        "after_loss": missed & ~reached & lost,
        "out_of_time": missed & ~reached & (not lost),
    }


def points_lost(trace: Trace) -> dict[str, float]:
    """What a drive's score lacks to 1000, in points by cause; they sum to 1000 − score."""
    outcome, count = trace.outcome, len(trace.visited)
    lost = {name: 1000 / count * float(tiles.sum()) for name, tiles in misses(trace).items()}
    # The step that leaves the playfield costs 100, and neither its time nor its tiles count.
    last = trace.visited == outcome.steps
    left = 100 + 1000 / count * last.sum() if outcome.left_playfield else 0.0
    time = 0.1 * (outcome.steps - outcome.left_playfield)
    return {**lost, "playfield_left": float(left), "time": time}


def by_curvature(traces: Sequence[Trace]) -> list[dict[str, Any]]:
    """For each of BINS: tiles, how many were missed why, and the speed where they were visited.

    `drives_lost` counts by the sharpest curvature near: the last new tile is often behind the turn.
    """
    curvature = np.concatenate([trace.curvature for trace in traces])
    kinds = np.digitize(curvature, list(BINS.values())) - 1
    found = [misses(trace) for trace in traces]
    missed = {name: np.concatenate([one[name] for one in found]) for name in MISSES}
    speed = np.concatenate([_speed_at_tiles(trace) for trace in traces])
    lost_here = np.array([row["sharpest_near"] for row in losses(traces)])
    rows = []
    for kind, (name, low) in enumerate(BINS.items()):
        here = kinds == kind
        visited = here & np.isfinite(speed)
        rows.append(
            {
                "name": name,
                "from_curvature": low,
                "tiles": int(here.sum()),
                **{cause: int((tiles & here).sum()) for cause, tiles in missed.items()},
                "mean_speed": float(speed[visited].mean()) if visited.any() else None,
                "drives_lost": int((np.digitize(lost_here, list(BINS.values())) - 1 == kind).sum()),
            }
        )
    return rows


def _speed_at_tiles(trace: Trace) -> np.ndarray:
    """The speed at which each tile was visited, float (N), units/s; NaN where there is none."""
    speed = np.append(trace.speed, np.nan)  # for −1, never, and for 0, before the first step
    return speed[np.where(trace.visited > 0, trace.visited - 1, -1)]


def losses(traces: Sequence[Trace]) -> list[dict[str, Any]]:
    """Each drive that was lost for good: where, when, how fast, and how the road goes on there."""
    rows = []
    for trace in traces:
        tile = lost_at(trace)
        if tile is None:
            continue
        near = (tile + np.arange(-NEAR, NEAR + 1)) % len(trace.curvature)
        step = int(trace.visited[tile])
        rows.append(
            {
                "track": trace.outcome.track,
                "tile": tile,
                "step": step,
                "speed": float(trace.speed[max(step, 1) - 1]),
                "curvature": float(trace.curvature[tile]),
                "sharpest_near": float(trace.curvature[near].max()),
                "left_playfield": trace.outcome.left_playfield,
            }
        )
    return rows


def after_pushes(traces: Sequence[Trace], push: Push) -> dict[str, Any]:
    """What followed the pushes of one kind and strength.

    `returned` are those after which new tiles came between SETTLE and WINDOW steps later;
    `left_road` those after which all four wheels were on the grass at once at some step before
    WINDOW. `interval` is Wilson's for the share returned.
    """
    left, back = [], []
    for trace in traces:
        for step in trace.pushes:
            new = (trace.visited > step + SETTLE) & (trace.visited <= step + WINDOW)
            finished = trace.outcome.lap_finished and trace.outcome.steps <= step + SETTLE
            left.append(bool((trace.wheels[step : step + WINDOW] == 0).any()))
            back.append(bool(new.any() or finished))
    off = np.array(left, bool)
    returned = np.array(back, bool)
    return {
        "kind": push.kind,
        "strength": push.strength,
        "pushes": len(returned),
        "returned": int(returned.sum()),
        "interval": wilson(int(returned.sum()), len(returned)),
        "left_road": int(off.sum()),
        "returned_from_grass": int((off & returned).sum()),
    }


def wilson(successes: int, count: int) -> list[float] | None:
    """95% interval of a share, [low, high]; None of nothing (Wilson 1927)."""
    if count == 0:
        return None
    interval = binomtest(successes, count).proportion_ci(0.95, method="wilson")
    return [float(interval.low), float(interval.high)]


def draw_curvature(path: Path, study: Mapping[str, Any]) -> None:
    """Three panels: tiles missed, speed, and where drives were lost, by curvature, as PNG."""
    figure = Figure(figsize=(13, 4.2), layout="constrained")
    missed, speed, lost = figure.subplots(1, 3)
    agent = study["agent"]["curvature"]
    places = np.arange(len(agent))
    below = np.zeros(len(agent))
    labels = ("driven past", "after the drive was lost", "no time left")
    for name, label in zip(MISSES, labels, strict=True):
        share = 100 * np.array([row[name] / max(row["tiles"], 1) for row in agent])
        missed.bar(places, share, bottom=below, label=label)
        below = below + share
    missed.set(ylabel="tiles missed (%)", title="What share of the tiles is missed")
    for driver, marker in (("agent", "o-"), ("baseline", "s--")):
        if study.get(driver):
            speeds = [row["mean_speed"] or np.nan for row in study[driver]["curvature"]]
            speed.plot(places, speeds, marker, label=study[driver]["driver"])
    speed.set(ylabel="mean speed (units/s)", title="How fast the tiles are driven")
    speed.set_ylim(0, 1.1 * speed.dataLim.y1)
    missed.set_ylim(0, 1.3 * max(below.max(), 1))  # room for the legend
    names = [row["name"].replace(" ", "\n") for row in agent]
    for axes in (missed, speed):
        axes.set_xticks(places, names)
        axes.legend(fontsize=8)
    _draw_losses(lost, study["agent"])
    for axes in (missed, speed, lost):
        axes.grid(alpha=0.3)
    save_figure(figure, path)


def _draw_losses(axes: Axes, agent: Mapping[str, Any]) -> None:
    """Speed against the sharpest curvature near where each drive was lost for good."""
    rows = agent["lost"]
    axes.scatter([row["sharpest_near"] for row in rows], [row["speed"] for row in rows], s=22)
    turns = np.linspace(0.001, 0.09, 200)
    limit = np.minimum(Centerline.TOP_SPEED, np.sqrt(Centerline.GRIP / turns))
    axes.plot(turns, limit, "k--", lw=1, label="what the tyres bear")
    axes.set(
        xlabel=f"sharpest curvature within {NEAR} tiles (1/unit)",
        ylabel="speed at the last new tile (units/s)",
        title=f"Where {len(rows)} of {len(agent['scores'])} drives were lost for good",
        xlim=(0, 0.092),
        ylim=(0, None),
    )
    axes.legend(fontsize=8)


def draw_pushes(path: Path, study: Mapping[str, Any]) -> None:
    """Share of pushes after which the drive went on, by kind and strength, as PNG."""
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    panels = figure.subplots(1, len(UNITS), sharey=True)
    for axes, (kind, unit) in zip(panels, UNITS.items(), strict=True):
        for number, driver in enumerate(("agent", "baseline")):
            if study.get(driver):
                rows = [r for r in study[driver]["pushes"] if r["kind"] in (kind, "none")]
                _draw_shares(axes, rows, number, study[driver]["driver"])
        axes.set(xlabel=f"{kind}: jump of velocity ({unit})", ylim=(0, 105))
        axes.grid(alpha=0.3)
    panels[0].set(ylabel="drives that go on (%)")
    panels[0].legend(fontsize=8, loc="lower left")
    figure.suptitle(f"How often new tiles come again within {WINDOW} steps after a push")
    save_figure(figure, path)


def _draw_shares(axes: Axes, rows: Sequence[Mapping[str, Any]], number: int, label: str) -> None:
    rows = [row for row in rows if row["pushes"]]
    share = np.array([row["returned"] / row["pushes"] for row in rows])
    bounds = np.array([row["interval"] for row in rows]).reshape(-1, 2)
    errors = 100 * np.abs(bounds - share[:, None]).T
    places = [row["strength"] for row in rows]
    axes.errorbar(places, 100 * share, errors, fmt=("o-", "s--")[number], capsize=3, label=label)
    for place, row in zip(places, rows, strict=True) if number == 0 else ():
        off = 100 * row["left_road"] / row["pushes"]
        note = f"{off:.0f}% off\nthe road"
        axes.annotate(note, (place, 4), ha="center", fontsize=8, color="tab:blue")
