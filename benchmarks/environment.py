"""Steps per second of CarRacing environments, side by side.

    python benchmarks/environment.py              # one process, then all cores: a minute or two
    python benchmarks/environment.py --cpu-time   # on a machine that has other work, too

Rows: Gymnasium's CarRacing-v3, EnvPool's C++ port (if `pip install envpool` was done), ours, and
ours without drawing (the physics alone). All drive the same tracks along the centre line; the
time of the driver is not counted. Turns are short and interleaved, so that a busy machine slows
all rows alike; ratios are of the same run.
"""

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import gymnasium
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import fast_car_racing.env
from fast_car_racing.drivers import follow_line

WARM_UP = 60  # steps before the clock starts: the zoom phase is not normal driving


class Physics(gymnasium.envs.box2d.car_racing.CarRacing):
    """CarRacing that never draws."""

    def _render(self, mode: str):
        return None


class Gymnasium:
    """Drives one Gymnasium environment and keeps its own time."""

    def __init__(self, env: gymnasium.Env):
        self.env = env

    def reset(self, seed: int) -> None:
        """Begin a track."""
        self.env.reset(seed=seed)
        self.actions = []

    def drive(self, steps: int, clock: Callable[[], float]) -> float:
        """Drive `steps` steps on and return the seconds spent in `step`."""
        seconds = 0.0
        for _ in range(steps):
            action = follow_line(self.env)
            self.actions.append(action)
            begin = clock()
            self.env.step(action)
            seconds += clock() - begin
        return seconds


class EnvPool:
    """Drives one EnvPool environment with recorded actions: it does not tell where its car is."""

    def reset(self, seed: int, actions: list) -> None:
        """Begin a track on which these actions will be taken."""
        import envpool

        self.env = envpool.make_gymnasium("CarRacing-v3", num_envs=1, seed=seed, num_threads=1)
        self.env.reset()
        self.actions = iter(actions)

    def drive(self, steps: int, clock: Callable[[], float]) -> float:
        """Drive `steps` steps on and return the seconds spent in `step`."""
        seconds = 0.0
        for _ in range(steps):
            action = next(self.actions)[None]
            begin = clock()
            self.env.step(action)
            seconds += clock() - begin
        return seconds


def measure(
    tracks: int, turns: int, slow_steps: int, steps: int, clock: Callable[[], float]
) -> dict[str, float]:
    """Steps per second of each row: the median of its turns."""
    rows = {
        "gymnasium": Gymnasium(gymnasium.envs.box2d.car_racing.CarRacing()),
        "ours": Gymnasium(fast_car_racing.env.FastCarRacing()),
        "physics": Gymnasium(Physics()),
    }
    if find_spec("envpool"):
        rows["envpool"] = EnvPool()
    rates: dict[str, list[float]] = {name: [] for name in rows}
    for track in range(tracks):
        recorder = Gymnasium(Physics())
        recorder.reset(track)
        recorder.drive(WARM_UP + turns * steps, clock)
        for name, row in rows.items():
            row.reset(track, recorder.actions) if name == "envpool" else row.reset(track)
            row.drive(WARM_UP, clock)
        for _ in range(turns):
            for name, row in rows.items():
                n = slow_steps if name == "gymnasium" else steps
                rates[name].append(n / row.drive(n, clock))
    return {name: float(np.median(rate)) for name, rate in rates.items()}


def measure_all_cores(arguments: tuple) -> list[dict[str, float]]:
    """The same on every core at once, each process with its own environments."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with multiprocessing.get_context("spawn").Pool(cores) as pool:
        return pool.starmap(measure, [arguments] * cores)


def table(results: dict[str, float]) -> str:
    """Rates and their ratios, a row for each environment."""
    names = {"gymnasium": "Gymnasium", "envpool": "EnvPool", "ours": "FastCarRacing"}
    lines = [f"{'':16s}{'steps/s':>10s}{'x Gymnasium':>14s}{'x EnvPool':>12s}"]
    for name in ("gymnasium", "envpool", "ours", "physics"):
        if name in results:
            rate = results[name]
            ratio = f"{rate / results['envpool']:12.2f}" if "envpool" in results else f"{'-':>12s}"
            label = names.get(name, "physics alone")
            lines.append(f"{label:16s}{rate:10.0f}{rate / results['gymnasium']:14.1f}{ratio}")
    return "\n".join(lines)


def main() -> None:
    """Measure, print and perhaps write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tracks", type=int, default=4, help="tracks to drive (default 4)")
    parser.add_argument("--turns", type=int, default=6, help="turns of each on a track (default 6)")
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    parser.add_argument("--cpu-time", action="store_true", help="count processor time only")
    arguments = parser.parse_args()
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    work = (arguments.tracks, arguments.turns, 15, 100, clock)
    single = measure(*work)
    print("One process\n" + table(single))
    each = measure_all_cores(work)
    together = {name: sum(result[name] for result in each) for name in single}
    print(f"\nAll cores ({len(each)} processes)\n" + table(together))
    if arguments.json:
        arguments.json.write_text(json.dumps({"one process": single, "all cores": together}))


if __name__ == "__main__":
    main()
