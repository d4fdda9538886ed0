"""Peak memory of the stages that read data, with some of it and with ten times as much."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from faults.inject import Inject
from faults.references import prepare, reference, scratch
from faults.stages import finish
from faults.trials import Suite, Trial
from utils.data.episodes import Episode, step_arrays, write_episode
from utils.io.files import sha256_of
from utils.io.npz import write_arrays


def peak_memory(path: Path, then: Inject | None = None) -> Inject:
    """Write the process's largest resident size, in bytes, to a file as its main ends."""

    def inject(script: Any) -> None:
        if then is not None:
            then(script)
        main = script.main

        def measured(settings: Any) -> None:
            main(settings)
            status = Path("/proc/self/status").read_text()
            line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
            path.write_text(str(int(line.split()[1]) * 1024))

        script.main = measured

    return inject


def idle_steps(real_steps: int) -> Inject:
    """After some real gradient steps all others do nothing: only their data is read."""

    def inject(script: Any) -> None:
        make_step = script.make_step

        def make(*arguments: Any) -> Any:
            step, count, last = make_step(*arguments), itertools.count(1), {}

            def idle(key: Any, state: Any, batch: Any) -> Any:
                if next(count) <= real_steps:
                    last["value"] = step(key, state, batch)[1]
                    jax.block_until_ready(last["value"])
                return state, last["value"]

            return idle

        script.make_step = make

    return inject


# Threads and the allocator make differences of a tenth. With all its data in memory a stage would
# have twice as much at least.
NOISE = 0.25
STEPS = 1000  # of an episode
FEW = 60  # episodes of frames: more than two shards
# So many that all is there of which a stage takes a fixed number: 192 episodes for dreams to begin
# in, 16 of the tenth that is held out. Then programs and their arrays have the same shapes.
FEW_LATENTS = 220
MEMORY: dict[str, tuple[int, tuple[str, ...], Callable[[Any], object] | None]] = {
    # Encoding takes a millisecond a frame: fewer episodes, a few in memory at a time.
    "see": (
        FEW,
        (
            *("--steps", "4700", "--batch", "128", "--save-seconds", "1e9"),
            *("--evaluate-every", "100000"),
        ),
        idle_steps(2),
    ),
    "encode": (FEW // 10, (), None),
    "predict": (
        FEW_LATENTS,
        (
            *("--steps", "400", "--lanes", "16", "--window", "100", "--save-seconds", "1e9"),
            *("--evaluate-every", "100000"),
        ),
        idle_steps(2),
    ),
    "dream": (FEW_LATENTS, ("--generations", "1", "--no-real-validation"), None),
}
MODELS = {
    "see": (),
    "encode": ("run/vae.eqx",),
    "predict": ("run/vae.eqx",),
    "dream": ("run/vae.eqx", "run/rnn.eqx"),
}


def trials(suite: Suite) -> Iterator[Trial]:
    """Stages 2 to 5."""
    for stage in MEMORY:
        yield Trial("ten times the data", stage, "peak memory", memory, (stage,))


def memory(suite: Suite, rng: np.random.Generator, stage: str) -> dict[str, Any]:
    """Peak memory of a stage with some data and with ten times as much."""
    few, flags, extra = MEMORY[stage]
    peaks = {}
    # On a disk: this may be a gigabyte.
    on_disk = dataclasses.replace(suite, scratch=suite.work / "memory")
    # First only to compile, which takes memory, too.
    for count in (few, few, 10 * few):
        with scratch(on_disk) as folder:
            models = {
                n: s for n, s in reference(suite, "drive").after.items() if n in MODELS[stage]
            }
            prepare(suite, folder, models)
            write_large_data(folder, count, rng, frames=stage in ("see", "encode"))
            report = folder.parent / "peak"
            finish(stage, folder, *flags, inject=peak_memory(report, extra)).succeeded()
            peaks[count] = int(report.read_text())
    growth = peaks[10 * few] / peaks[few] - 1
    found = {"episodes": list(peaks), "MB": [peak // 10**6 for peak in peaks.values()]}
    assert growth < NOISE, f"{100 * growth:.0f} % more memory for ten times the data: {found}"
    return {"memory": {**found, "steps": STEPS, "growth": round(growth, 3)}}


def write_large_data(folder: Path, count: int, rng: np.random.Generator, frames: bool) -> None:
    """`count` episodes of noise, as rollouts or as latents of the run's V."""
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
        mu, logvar = rng.standard_normal((2, STEPS + 1, 32), np.float32)
        arrays = {"mu": mu, "logvar": logvar, **step_arrays(episode, origin)}
        write_arrays(folder / "data" / "latents" / "random" / f"{seed}.npz", arrays)
