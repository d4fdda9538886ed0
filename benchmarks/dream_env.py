"""Steps per second of the dream as an environment: one dream, 64, 4096.

    python -m benchmarks.dream_env --run-dir runs/quick
    python -m benchmarks.dream_env --run-dir runs/quick --data-dir data/quick --cpu-time

Each row is the median of `--turns` turns; turns of all rows take turns, so that a busy machine
slows all rows alike. Everything that a learner waits for is counted: actions in, observations,
rewards and ends out as NumPy arrays, resets included.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import gymnasium
import jax
import numpy as np

from utils.output import protect_output

DREAM = "envs:DreamCarRacing-v0"
REAL = "envs:RealCarRacing-v0"
SECONDS_A_TURN = 2.0


class Row:
    """An environment, single or a vector, driven with random actions that are drawn beforehand."""

    def __init__(self, name: str, env: gymnasium.Env | gymnasium.vector.VectorEnv, dreams: int):
        self.name, self.env, self.dreams = name, env, dreams
        self.single = isinstance(env, gymnasium.Env)
        self.env.action_space.seed(0)
        self.actions = [self.env.action_space.sample() for _ in range(64)]
        self.env.reset(seed=0)
        self.rates: list[float] = []
        for action in self.actions[:5]:  # compiles
            self.step(action)

    def step(self, action: np.ndarray) -> None:
        """One step, and a reset where the environment does not do it itself."""
        _, _, terminated, truncated, _ = self.env.step(action)
        if self.single and (terminated or truncated):
            self.env.reset()

    def turn(self, clock) -> None:
        """Step for SECONDS_A_TURN and keep the rate."""
        steps, begin, end = 0, clock(), time.perf_counter() + SECONDS_A_TURN
        while time.perf_counter() < end:
            self.step(self.actions[steps % len(self.actions)])
            steps += 1
        self.rates.append(steps * self.dreams / (clock() - begin))


def main() -> None:
    """Time all rows, print them, and write them where --output says."""
    protect_output()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--data-dir", type=Path, help="take the dreams' starts from here")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--cpu-time", action="store_true", help="count seconds of CPU, all cores")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    dream = {"run_dir": options.run_dir, "data_dir": options.data_dir}
    rows = [Row("dream, gymnasium.make", gymnasium.make(DREAM, **dream), 1)]
    for count in (1, 64, 4096):
        env = gymnasium.make_vec(DREAM, count, "vector_entry_point", **dream)
        rows.append(Row(f"dream, vector of {count}", env, count))
    pixels = gymnasium.make_vec(DREAM, 64, observation="pixels", **dream)
    rows.append(Row("dream in pixels, vector of 64", pixels, 64))
    rows.append(Row("real track, [z, h]", gymnasium.make(REAL, run_dir=options.run_dir), 1))
    clock = time.process_time if options.cpu_time else time.perf_counter
    for _ in range(options.turns):
        for row in rows:
            row.turn(clock)
    results = {row.name: round(statistics.median(row.rates)) for row in rows}
    device = jax.devices()[0]
    print(f"steps/s{' of CPU time' if options.cpu_time else ''} on {device.device_kind}")
    for name, rate in results.items():
        print(f"{name:32}{rate:10,}")
    if options.output:
        record = {"device": device.device_kind, "cpu_time": options.cpu_time, "steps/s": results}
        options.output.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
