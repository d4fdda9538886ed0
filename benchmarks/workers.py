"""What it saves to keep worker processes between drives (utils/sim/workers.py).

    python -m benchmarks.workers

Drives the same tracks `--calls` times, as the stages of a choice among means do: once with new
workers for each call, once with workers that are kept. They take turns, `--turns` times. Prints
the median seconds of a call, of the first one and of the others.
"""

import argparse
import contextlib
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.agent import drives, save_agent
from benchmarks.measuring import machine
from utils.sim.rollouts import drive_all
from utils.sim.tasks import CARS_PER_BATCH, DriveTask
from utils.sim.workers import kept_workers


def seconds_of_calls(tasks: list[DriveTask], workers: int, calls: int, kept: bool) -> list[float]:
    """Wall time of each call of `drive_all`."""
    found = []
    with kept_workers() if kept else contextlib.nullcontext():
        for _ in range(calls):
            begun = time.perf_counter()
            for _ in drive_all(tasks, workers):
                pass
            found.append(time.perf_counter() - begun)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--workers", type=int, default=2, help="worker processes")
    parser.add_argument("--calls", type=int, default=4, help="drives one after another")
    parser.add_argument("--steps", type=int, default=300, help="length of an episode")
    parser.add_argument("--turns", type=int, default=3, help="turns of each contestant")
    arguments = parser.parse_args()
    workers, calls, steps = arguments.workers, arguments.calls, arguments.steps
    found: dict[bool, list[list[float]]] = {False: [], True: []}
    with tempfile.TemporaryDirectory() as folder:
        tasks = drives(save_agent(Path(folder)), 2 * CARS_PER_BATCH * workers, steps)
        for _ in range(arguments.turns):
            for kept, turns in found.items():
                turns.append(seconds_of_calls(tasks, workers, calls, kept))
    print(f"{machine()}; {workers} workers; a call drives {len(tasks)} episodes of {steps} steps\n")
    print("| workers | first call, s | later calls, s | all calls, s |\n|---|---|---|---|")
    totals = []
    for kept, turns in found.items():
        rows = np.array(turns)
        first, later = np.median(rows[:, 0]), np.median(rows[:, 1:])
        totals.append(np.median(rows.sum(axis=1)))
        name = "kept" if kept else "new for each call"
        print(f"| {name} | {first:.1f} | {later:.1f} | {totals[-1]:.1f} |")
    print(f"\nnew over kept: {totals[0] / totals[1]:.2f}")


if __name__ == "__main__":
    main()
