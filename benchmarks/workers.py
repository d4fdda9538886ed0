"""What it saves to keep worker processes between drives, and a Dask cluster (utils/sim/workers.py).

    python -m benchmarks.workers
    python -m benchmarks.workers --dask 2 4    # and clusters of 2 and 4 processes on this machine

Drives the same tracks `--calls` times, as the stages of a choice among means do: once with new
workers for each call, once with workers that are kept. They take turns, `--turns` times. Prints
the median seconds of a call, of the first one and of the others. A cluster's processes start before
the clock, and are kept over the turns.
"""

import argparse
import contextlib
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.agent import drives, save_agent
from benchmarks.measuring import machine
from utils.output import protect_output
from utils.sim.rollouts import drive_all
from utils.sim.tasks import CARS_PER_BATCH, DriveTask
from utils.sim.workers import kept_workers


def seconds_of_calls(
    tasks: list[DriveTask], workers: int | str, calls: int, kept: bool
) -> list[float]:
    """Wall time of each call of `drive_all`."""
    found = []
    with kept_workers() if kept else contextlib.nullcontext():
        for _ in range(calls):
            begun = time.perf_counter()
            for _ in drive_all(tasks, workers):
                pass
            found.append(time.perf_counter() - begun)
    return found


def start_cluster(workers: int, stack: contextlib.ExitStack) -> str:
    """The address of a Dask cluster of so many processes on this machine, ended with `stack`."""
    from distributed import LocalCluster

    cluster = LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None)
    return stack.enter_context(cluster).scheduler_address


def main() -> None:
    """Measure and print."""
    protect_output()
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--workers", type=int, default=2, help="worker processes")
    parser.add_argument("--dask", type=int, nargs="*", default=[], help="Dask workers, as in: 2 4")
    parser.add_argument("--calls", type=int, default=4, help="drives one after another")
    parser.add_argument("--steps", type=int, default=300, help="length of an episode")
    parser.add_argument("--turns", type=int, default=3, help="turns of each contestant")
    arguments = parser.parse_args()
    workers, calls, steps = arguments.workers, arguments.calls, arguments.steps
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        tasks = drives(save_agent(Path(folder)), 4 * CARS_PER_BATCH * workers, steps)
        contestants: dict[str, tuple[int | str, bool]] = {
            f"{workers}, new for each call": (workers, False),
            f"{workers}, kept": (workers, True),
            **{f"{n} of Dask": (start_cluster(n, stack), True) for n in arguments.dask},
        }
        found: dict[str, list[list[float]]] = {name: [] for name in contestants}
        for _ in range(arguments.turns):
            for name, (where, kept) in contestants.items():
                found[name].append(seconds_of_calls(tasks, where, calls, kept))
    print(f"{machine()}; a call drives {len(tasks)} episodes of {steps} steps\n")
    print("| workers | first call, s | later calls, s | all calls, s |\n|---|---|---|---|")
    for name, turns in found.items():
        rows = np.array(turns)
        first, later = np.median(rows[:, 0]), np.median(rows[:, 1:])
        print(f"| {name} | {first:.1f} | {later:.1f} | {np.median(rows.sum(axis=1)):.1f} |")


if __name__ == "__main__":
    main()
