"""Peak memory of the scripts that read data, with some data and with ten times as much."""

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from hostile_files import noise_latents

from faults.processes import Inject, finish
from faults.references import Record, Suite, prepare, reference, scratch
from utils.data.episodes import Episode, step_arrays, write_episode
from utils.io.files import sha256_of
from utils.io.npz import write_arrays


def peak_memory(path: Path, other: Inject | None) -> Inject:
    """Write the peak resident size of the script's process, in bytes, to a file."""

    def inject(module: Any) -> None:
        if other is not None:
            other(module)
        main = module.main

        def measured(settings: Any) -> None:
            main(settings)
            status = Path("/proc/self/status").read_text()
            line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
            path.write_text(str(int(line.split()[1]) * 1024))

        module.main = measured

    return inject


def idle_steps(real_steps: int) -> Inject:
    """Gradient steps after the first few read their batch and do nothing."""

    def inject(module: Any) -> None:
        make_step = module.make_step

        def make(*arguments: Any) -> Any:
            step, count, last = make_step(*arguments), itertools.count(1), {}

            def idle(key: Any, state: Any, batch: Any) -> Any:
                if next(count) <= real_steps:
                    last["value"] = step(key, state, batch)[1]
                    jax.block_until_ready(last["value"])
                return state, last["value"]

            return idle

        module.make_step = make

    return inject


# Threads and the allocator cause differences of a tenth. A script that held all its data in memory
# would need at least twice as much.
LARGEST_GROWTH = 0.25
STEPS = 1000  # of an episode
FEW = 60  # episodes of frames: more than two shards
# Enough for what a script takes a fixed number of: 192 episodes in which dreams start, and 16 of
# the tenth that is held out. With more data, all arrays keep their shapes.
FEW_LATENTS = 220
# Episodes, flags and a further change of each script.
MEMORY: dict[str, tuple[int, tuple[str, ...], Inject | None]] = {
    "run_vae_training": (
        FEW,
        (
            *("--steps", "4700", "--batch", "128", "--save-seconds", "1e9"),
            *("--evaluate-every", "100000"),
        ),
        idle_steps(2),
    ),
    # It holds a few episodes at a time, and needs a millisecond for a frame.
    "process_data": (FEW // 10, (), None),
    "train_rnn": (
        FEW_LATENTS,
        (
            *("--steps", "400", "--lanes", "16", "--window", "100", "--save-seconds", "1e9"),
            *("--evaluate-every", "100000"),
        ),
        idle_steps(2),
    ),
    "train_dream": (FEW_LATENTS, ("--generations", "1", "--no-real-validation"), None),
}
READ_FRAMES = ("run_vae_training", "process_data")
MODELS = {  # that each script reads
    "run_vae_training": (),
    "process_data": ("run/vae.eqx",),
    "train_rnn": ("run/vae.eqx",),
    "train_dream": ("run/vae.eqx", "run/rnn.eqx"),
}


@pytest.mark.faults("ten times the data")
@pytest.mark.parametrize("script", MEMORY)
def test_ten_times_the_data(
    suite: Suite, rng: np.random.Generator, record_property: Record, script: str
) -> None:
    """The peak memory of a script hardly grows with its data."""
    few, flags, other = MEMORY[script]
    models = {
        name: sha256
        for name, sha256 in reference(suite, "test_agent").after.items()
        if name in MODELS[script]
    }
    peaks = {}
    on_disk = dataclasses.replace(suite, scratch=suite.folder / "memory")  # up to a gigabyte
    # The first run only compiles, which also takes memory.
    for count in (few, few, 10 * few):
        with scratch(on_disk) as folder:
            prepare(suite, folder, models)
            write_large_data(folder, count, rng, frames=script in READ_FRAMES)
            report = folder.parent / "peak"
            finish(script, folder, *flags, inject=peak_memory(report, other)).assert_succeeded()
            peaks[count] = int(report.read_text())
    growth = peaks[10 * few] / peaks[few] - 1
    found = {"episodes": list(peaks), "MB": [peak // 10**6 for peak in peaks.values()]}
    assert growth < LARGEST_GROWTH, f"{100 * growth:.0f} % more for ten times the data: {found}"
    record_property("memory", {**found, "steps": STEPS, "growth": round(growth, 3)})


def write_large_data(folder: Path, count: int, rng: np.random.Generator, frames: bool) -> None:
    """`count` episodes of noise, as rollouts or as latents of the run's VAE."""
    vae = folder / "run" / "vae.eqx"
    origin = {"vae": sha256_of(vae)} if vae.exists() else {}
    pixels = np.tile(rng.integers(0, 256, (1, 64, 64, 3), np.uint8), (STEPS + 1, 1, 1, 1))
    for seed in range(count):
        rows = rng.random((STEPS, 4), np.float32)
        ends = np.arange(STEPS) == STEPS - 1
        episode = Episode(
            pixels, rows[:, :3], rows[:, 3], ends, ~ends & False, True, seed, {"mode": "random"}
        )
        if frames:
            write_episode(folder / "data" / "rollouts" / "random" / f"{seed}.npz", episode)
            continue
        arrays = {**noise_latents(STEPS, 32, seed), **step_arrays(episode, origin)}
        write_arrays(folder / "data" / "latents" / "random" / f"{seed}.npz", arrays)
