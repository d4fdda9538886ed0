"""Frames per second of CarRacing environments, side by side.

    python -m fast_car_racing.benchmark              # one process, then all cores: 2-3 minutes
    python -m fast_car_racing.benchmark --cpu-time   # on a machine that has other work, too
    python -m fast_car_racing.benchmark --profile    # the parts of a step: half a minute

Rows: Gymnasium's CarRacing-v3; EnvPool's C++ port, if it is installed; FastCarRacing with several
values of `frame_skip`; the physics of Gymnasium without any drawing; and, for films, `step` and
`render` with `rgb_array`. All drive the same tracks along the centre line. Only the time spent in
the environment counts. Turns are short and interleaved, so other work slows all rows alike:
compare rows of the same run only.
"""

import argparse
import json
import multiprocessing
import os
import time
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import gymnasium
import numpy as np
from gymnasium.envs.box2d.car_racing import CarRacing

from fast_car_racing.drivers import follow_line
from fast_car_racing.env import FastCarRacing
from fast_car_racing.startup_check import UndrawnCarRacing
from fast_car_racing.step_profile import WARM_UP, measure_parts, profile_table

FRAMES = 96  # of a turn
FRAME_SKIPS = (2, 4, 8)
LABELS = {
    "gymnasium": "Gymnasium",
    "envpool": "EnvPool",
    "fast": "FastCarRacing",
    **{f"fast_skip_{skip}": f"  frame_skip={skip}" for skip in FRAME_SKIPS},
    "physics": "physics alone",
    "gymnasium_film": "Gymnasium, film",
    "fast_film": "FastCarRacing, film",
}
SLOW = {"gymnasium", "gymnasium_film"}  # rows that drive fewer frames in a turn
Clock = Callable[[], float]


class Row:
    """Drives one environment and measures the time in its `step`, and in `render` for films."""

    def __init__(self, env: gymnasium.Env):
        self.env = env
        self.frame_skip = getattr(env, "frame_skip", 1)

    def reset(self, track: int, actions: list[np.ndarray]) -> None:
        """Begin a track."""
        self.env.reset(seed=track)

    def drive(self, frames: int, clock: Clock) -> float:
        """Drive on; returns seconds."""
        seconds = 0.0
        film = self.env.render_mode is not None
        for _ in range(frames // self.frame_skip):
            action = follow_line(self.env)
            begin = clock()
            self.env.step(action)
            if film:
                self.env.render()
            seconds += clock() - begin
        return seconds


class EnvPoolRow:
    """Drives EnvPool's environment with recorded actions, since it hides where its car is."""

    def reset(self, track: int, actions: list[np.ndarray]) -> None:
        """Begin a track, on which to take these actions."""
        envpool = import_module("envpool")  # optional, so not among the package's dependencies
        self.env = envpool.make_gymnasium("CarRacing-v3", num_envs=1, seed=track, num_threads=1)
        self.env.reset()
        self.actions = iter(actions)

    def drive(self, frames: int, clock: Clock) -> float:
        """Drive on; returns seconds."""
        seconds = 0.0
        for _ in range(frames):
            action = next(self.actions)[None]
            begin = clock()
            self.env.step(action)
            seconds += clock() - begin
        return seconds


def make_rows() -> dict[str, Row | EnvPoolRow]:
    """All rows, in the order of LABELS."""
    rows: dict[str, Row | EnvPoolRow] = {"gymnasium": Row(CarRacing())}
    if find_spec("envpool"):
        rows["envpool"] = EnvPoolRow()
    rows["fast"] = Row(FastCarRacing())
    for skip in FRAME_SKIPS:
        rows[f"fast_skip_{skip}"] = Row(FastCarRacing(frame_skip=skip, max_frames=None))
    rows["physics"] = Row(UndrawnCarRacing())
    rows["gymnasium_film"] = Row(CarRacing("rgb_array"))
    rows["fast_film"] = Row(FastCarRacing("rgb_array"))
    return rows


def record(track: int, frames: int) -> list[np.ndarray]:
    """The actions that follow the centre line of a track."""
    env, actions = UndrawnCarRacing(), []
    env.reset(seed=track)
    for _ in range(frames):
        actions.append(follow_line(env))
        env.step(actions[-1])
    return actions


def measure(tracks: int, turns: int, clock: Clock) -> dict[str, float]:
    """Frames per second of each row: the median of its turns."""
    slow_frames, frames = 16, FRAMES
    rows = make_rows()
    rates: dict[str, list[float]] = {name: [] for name in rows}
    for track in range(tracks):
        actions = record(track, WARM_UP + turns * frames)
        for row in rows.values():
            row.reset(track, actions)
            row.drive(WARM_UP, clock)
        for _ in range(turns):
            for name, row in rows.items():
                n = slow_frames if name in SLOW else frames
                rates[name].append(n / row.drive(n, clock))
    return {name: float(np.median(rate)) for name, rate in rates.items()}


def measure_all_cores(arguments: tuple) -> list[dict[str, float]]:
    """The same on every core at once, each process with its own environments."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with multiprocessing.get_context("spawn").Pool(cores) as pool:
        return pool.starmap(measure, [arguments] * cores)


def table(results: dict[str, float]) -> str:
    """Rates and their ratios to Gymnasium and EnvPool; of films to Gymnasium's films."""
    lines = [f"{'':20s}{'frames/s':>10s}{'x Gymnasium':>14s}{'x EnvPool':>12s}"]
    for name, rate in results.items():
        film = name.endswith("_film")
        gain = rate / results["gymnasium_film" if film else "gymnasium"]
        envpool = f"{rate / results['envpool']:12.2f}" if "envpool" in results and not film else ""
        lines.append(f"{LABELS[name]:20s}{rate:10.0f}{gain:14.1f}{envpool}")
    return "\n".join(lines)


def main() -> None:
    """Measure, print and perhaps write."""
    parser = argparse.ArgumentParser(
        prog="python -m fast_car_racing.benchmark",
        description="Frames per second of CarRacing environments, side by side.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--tracks", type=int, default=4, help="tracks to drive")
    parser.add_argument("--turns", type=int, default=6, help="turns of each row on a track")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--cpu-time", action="store_true", help="count processor time only")
    parser.add_argument("--profile", action="store_true", help="time the parts of a step instead")
    arguments = parser.parse_args()
    if arguments.profile:
        print(profile_table(measure_parts(arguments.tracks, arguments.turns * FRAMES)))
        return
    work = (
        arguments.tracks,
        arguments.turns,
        time.process_time if arguments.cpu_time else time.perf_counter,
    )
    single = measure(*work)
    print("One process\n" + table(single))
    each = measure_all_cores(work)
    together = {name: sum(result[name] for result in each) for name in single}
    print(f"\nAll cores ({len(each)} processes)\n" + table(together))
    if arguments.json:
        figures = {"one process": single, "all cores": together}
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
