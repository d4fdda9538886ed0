"""Where on the track an agent loses points, and how often it recovers from a push.

Both are computed from traces (tools/analysis/trace.py), by the curvature of the centre line.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import binomtest

from tools.analysis.trace import RECOVERY_STEPS, UNITS, Push, Trace
from utils.data.targets import NO_TILE_STEPS
from utils.sim.policies import Centerline
from utils.viz.figures import save_figure

# Name -> smallest curvature in 1/unit. The sharpest possible turn has 0.0886: a radius of 11 units,
# on a road 13 units wide.
CURVATURE_BINS = {
    "straight": 0.0,
    "wide bend": 0.01,
    "bend": 0.025,
    "sharp turn": 0.045,
    "hairpin": 0.07,
}
NEARBY_TILES = (
    8  # tiles to either side, 28 units: the distance that a car slides before it is off the road
)
SETTLE_STEPS = 50  # steps after a push that do not count: the car may slide along the road
# Why a tile was missed: the car drove past it, or failed or ran out of time before reaching it.
MISS_REASONS = ("passed_by", "after_failure", "out_of_time")


def last_new_tile(trace: Trace) -> int:
    """The tile that was visited last, the foremost one if there are several."""
    return int(np.flatnonzero(trace.visited == trace.visited.max())[-1])


def is_lap_complete(trace: Trace) -> bool:
    """Whether the car went all the way round: most tiles ahead of its last new one are visited."""
    ahead = (last_new_tile(trace) + 1 + np.arange(10)) % len(trace.visited)
    return trace.result.lap_finished or bool((trace.visited[ahead] >= 0).mean() >= 0.5)


def failed_at(trace: Trace) -> int | None:
    """The tile where the drive failed, or None.

    That is the last new tile if the car left the playfield after it, or did not reach another one
    within NO_TILE_STEPS steps.
    """
    quiet = trace.result.steps - trace.visited.max()
    ended = trace.result.left_playfield or quiet > NO_TILE_STEPS
    return last_new_tile(trace) if ended and not is_lap_complete(trace) else None


def missed_tiles(trace: Trace) -> dict[str, np.ndarray]:
    """The missed tiles by reason: for each of MISS_REASONS, bool (N)."""
    missed = trace.visited < 0
    is_lap = is_lap_complete(trace)
    reached = is_lap | (np.arange(len(missed)) <= last_new_tile(trace))
    failed = failed_at(trace) is not None
    return {
        "passed_by": missed & reached,
        "after_failure": missed & ~reached & failed,
        "out_of_time": missed & ~reached & (not failed),
    }


def points_lost(trace: Trace) -> dict[str, float]:
    """Points lost by cause; they sum to 1000 − score."""
    result, count = trace.result, len(trace.visited)
    lost = {name: 1000 / count * float(tiles.sum()) for name, tiles in missed_tiles(trace).items()}
    # The step that leaves the playfield costs 100; its time and tiles do not count.
    last = trace.visited == result.steps
    left = 100 + 1000 / count * last.sum() if result.left_playfield else 0.0
    time = 0.1 * (result.steps - result.left_playfield)
    return {**lost, "playfield_left": float(left), "time": time}


def by_curvature(traces: Sequence[Trace]) -> list[dict[str, Any]]:
    """For each of CURVATURE_BINS: its tiles, those missed by reason, and the mean speed on them.

    `drives_failed` uses the sharpest curvature nearby: the last new tile is often past the turn.
    """
    curvature = np.concatenate([trace.curvature for trace in traces])
    kinds = np.digitize(curvature, list(CURVATURE_BINS.values())) - 1
    found = [missed_tiles(trace) for trace in traces]
    missed = {name: np.concatenate([one[name] for one in found]) for name in MISS_REASONS}
    speed = np.concatenate([_speed_at_tiles(trace) for trace in traces])
    failed_here = np.array([row["sharpest_nearby"] for row in failed_drives(traces)])
    rows = []
    for kind, (name, low) in enumerate(CURVATURE_BINS.items()):
        here = kinds == kind
        visited = here & np.isfinite(speed)
        rows.append(
            {
                "name": name,
                "from_curvature": low,
                "tiles": int(here.sum()),
                **{cause: int((tiles & here).sum()) for cause, tiles in missed.items()},
                "mean_speed": float(speed[visited].mean()) if visited.any() else None,
                "drives_failed": int(
                    (np.digitize(failed_here, list(CURVATURE_BINS.values())) - 1 == kind).sum()
                ),
            }
        )
    return rows


def _speed_at_tiles(trace: Trace) -> np.ndarray:
    """The speed at each tile when it was visited, float (N), units/s; NaN if it was not."""
    speed = np.append(
        trace.speed, np.nan
    )  # the NaN is for −1 (not visited) and 0 (before the first step)
    return speed[np.where(trace.visited > 0, trace.visited - 1, -1)]


def failed_drives(traces: Sequence[Trace]) -> list[dict[str, Any]]:
    """For each failed drive: the tile, step and speed where it failed, and the curvature there."""
    rows = []
    for trace in traces:
        tile = failed_at(trace)
        if tile is None:
            continue
        near = (tile + np.arange(-NEARBY_TILES, NEARBY_TILES + 1)) % len(trace.curvature)
        step = int(trace.visited[tile])
        rows.append(
            {
                "track": trace.result.track,
                "tile": tile,
                "step": step,
                "speed": float(trace.speed[max(step, 1) - 1]),
                "curvature": float(trace.curvature[tile]),
                "sharpest_nearby": float(trace.curvature[near].max()),
                "left_playfield": trace.result.left_playfield,
            }
        )
    return rows


def push_recovery(traces: Sequence[Trace], push: Push) -> dict[str, Any]:
    """Counts for the pushes of one kind and strength.

    `recovered`: new tiles followed between SETTLE_STEPS and RECOVERY_STEPS steps after the push.
    `left_road`: all four wheels were on the grass at some step within RECOVERY_STEPS.
    `interval`: Wilson's 95% interval of the share that recovered.
    """
    left, back = [], []
    for trace in traces:
        for step in trace.pushes:
            new = (trace.visited > step + SETTLE_STEPS) & (trace.visited <= step + RECOVERY_STEPS)
            finished = trace.result.lap_finished and trace.result.steps <= step + SETTLE_STEPS
            left.append(bool((trace.wheels[step : step + RECOVERY_STEPS] == 0).any()))
            back.append(bool(new.any() or finished))
    off = np.array(left, bool)
    recovered = np.array(back, bool)
    return {
        "kind": push.kind,
        "strength": push.strength,
        "pushes": len(recovered),
        "recovered": int(recovered.sum()),
        "interval": wilson(int(recovered.sum()), len(recovered)),
        "left_road": int(off.sum()),
        "recovered_from_grass": int((off & recovered).sum()),
    }


def wilson(successes: int, count: int) -> list[float] | None:
    """95% interval of a share, [low, high], or None if `count` is 0 (Wilson 1927)."""
    if count == 0:
        return None
    interval = binomtest(successes, count).proportion_ci(0.95, method="wilson")
    return [float(interval.low), float(interval.high)]


def draw_curvature(path: Path, study: Mapping[str, Any]) -> None:
    """Draw missed tiles, speed and failed drives by curvature, as PNG."""
    figure = Figure(figsize=(13, 4.2), layout="constrained")
    missed, speed, failed = figure.subplots(1, 3)
    agent = study["agent"]["curvature"]
    places = np.arange(len(agent))
    below = np.zeros(len(agent))
    labels = ("driven past", "after the drive failed", "out of time")
    for name, label in zip(MISS_REASONS, labels, strict=True):
        share = 100 * np.array([row[name] / max(row["tiles"], 1) for row in agent])
        missed.bar(places, share, bottom=below, label=label)
        below = below + share
    missed.set(ylabel="tiles missed (%)", title="Tiles missed")
    for driver, marker in (("agent", "o-"), ("baseline", "s--")):
        if study.get(driver):
            speeds = [row["mean_speed"] or np.nan for row in study[driver]["curvature"]]
            speed.plot(places, speeds, marker, label=study[driver]["driver"])
    speed.set(ylabel="mean speed (units/s)", title="Speed")
    speed.set_ylim(0, 1.1 * speed.dataLim.y1)
    missed.set_ylim(0, 1.3 * max(below.max(), 1))  # room for the legend
    names = [row["name"].replace(" ", "\n") for row in agent]
    for axes in (missed, speed):
        axes.set_xticks(places, names)
        axes.legend(fontsize=8)
    _draw_failed_drives(failed, study["agent"])
    for axes in (missed, speed, failed):
        axes.grid(alpha=0.3)
    save_figure(figure, path)


def _draw_failed_drives(axes: Axes, agent: Mapping[str, Any]) -> None:
    """Speed against the sharpest curvature nearby, a dot for each failed drive."""
    rows = agent["failed_drives"]
    axes.scatter([row["sharpest_nearby"] for row in rows], [row["speed"] for row in rows], s=22)
    turns = np.linspace(0.001, 0.09, 200)
    limit = np.minimum(Centerline.TOP_SPEED, np.sqrt(Centerline.GRIP / turns))
    axes.plot(turns, limit, "k--", lw=1, label="limit of the tyres")
    axes.set(
        xlabel=f"sharpest curvature within {NEARBY_TILES} tiles (1/unit)",
        ylabel="speed at the last new tile (units/s)",
        title=f"Where {len(rows)} of {len(agent['scores'])} drives failed",
        xlim=(0, 0.092),
        ylim=(0, None),
    )
    axes.legend(fontsize=8)


def draw_pushes(path: Path, study: Mapping[str, Any]) -> None:
    """Draw the share of pushes that the drive recovered from, by kind and strength, as PNG."""
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    panels = figure.subplots(1, len(UNITS), sharey=True)
    for axes, (kind, unit) in zip(panels, UNITS.items(), strict=True):
        for number, driver in enumerate(("agent", "baseline")):
            if study.get(driver):
                rows = [r for r in study[driver]["pushes"] if r["kind"] in (kind, "none")]
                _draw_shares(axes, rows, number, study[driver]["driver"])
        axes.set(xlabel=f"{kind}: change of velocity ({unit})", ylim=(0, 105))
        axes.grid(alpha=0.3)
    panels[0].set(ylabel="recovered (%)")
    panels[0].legend(fontsize=8, loc="lower left")
    figure.suptitle(f"Share of pushes followed by new tiles within {RECOVERY_STEPS} steps")
    save_figure(figure, path)


def _draw_shares(axes: Axes, rows: Sequence[Mapping[str, Any]], number: int, label: str) -> None:
    rows = [row for row in rows if row["pushes"]]
    share = np.array([row["recovered"] / row["pushes"] for row in rows])
    bounds = np.array([row["interval"] for row in rows]).reshape(-1, 2)
    errors = 100 * np.abs(bounds - share[:, None]).T
    places = [row["strength"] for row in rows]
    axes.errorbar(places, 100 * share, errors, fmt=("o-", "s--")[number], capsize=3, label=label)
    for place, row in zip(places, rows, strict=True) if number == 0 else ():
        off = 100 * row["left_road"] / row["pushes"]
        note = f"{off:.0f}% off\nthe road"
        axes.annotate(note, (place, 4), ha="center", fontsize=8, color="tab:blue")
