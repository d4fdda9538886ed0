"""Start-up time and peak memory of the stages over 100, 1,000 and 10,000 episodes.

    python -m benchmarks.scale --folder /tmp/scale --json docs/scale.json --figure docs/scale.svg

Makes short valid episodes and encodes them with the shipped V. Then each stage is started twice:
without the index of the files, and with it. A start ends where the work begins: at the first
gradient step, at the first generation, or with nothing left to drive or to encode. It includes
Python, JAX and the first batch, but not the compilation of the step. With --folder the episodes
are kept, and a rerun makes only what is missing. With --cpu-time, for a busy machine, the table
and the figure show processor time; the JSON file has both.
"""

import argparse
import atexit
import contextlib
import importlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

import collect_data
from benchmarks.measuring import machine
from utils import runtime
from utils.data.episodes import FRAME_SHAPE, Episode, write_episode
from utils.data.splits import TRAINING
from utils.io.index import INDEX_NAME, TICK_NS
from utils.output import protect_output
from utils.settings import parse
from utils.sim.rollouts import provenance_of

ROOT = Path(__file__).resolve().parents[1]
MODE = "random"
# Each stage, the shipped models that lie in its run folder, and the function at whose first call
# its work begins. The first two stages end by themselves.
STAGES: dict[str, tuple[tuple[str, ...], str | None]] = {
    "collect_data": ((), None),
    "process_data": (("vae",), None),
    "run_vae_training": ((), "run_vae_training.make_step"),
    "train_rnn": (("vae",), "train_rnn.make_step"),
    "train_dream": (("vae", "rnn"), "utils.search.evolution.run_generations"),
}
INDEX, NO_INDEX = "with its index", "without"


def synthetic_episode(track: int, steps: int) -> Episode:
    """An episode of blocks and noise, which collect_data.py takes for one of its own."""
    rng = np.random.default_rng(track)
    settings = collect_data.driving_settings(MODE, collect_data.Settings(mode=MODE))
    return Episode(
        frames=rng.integers(0, 256, (steps + 1, 4, 4, 3), np.uint8).repeat(16, 1).repeat(16, 2),
        actions=rng.random((steps, 3), np.float32),
        rewards=np.where(rng.random(steps) < 0.3, 3.2, -0.1).astype(np.float32),
        terminated=np.zeros(steps, bool),
        truncated=np.arange(steps) == steps - 1,
        lap_finished=False,
        seed=track,
        provenance=provenance_of(MODE, settings, None),
    )


def make_data(folder: Path, episodes: int, steps: int) -> None:
    """Write the episodes that are missing."""
    assert FRAME_SHAPE == (64, 64, 3)
    for track in TRAINING[MODE][:episodes]:
        path = folder / "data" / "rollouts" / MODE / f"{track}.npz"
        if not path.exists():
            write_episode(path, synthetic_episode(track, steps))


def command(stage: str, folder: Path, episodes: int) -> list[str]:
    """The command that starts a stage in a process of its own."""
    run_dir = folder / stage
    shutil.rmtree(run_dir, ignore_errors=True)
    run_dir.mkdir(parents=True)
    for model in STAGES[stage][0]:
        shutil.copy(ROOT / "pretrained" / f"{model}.eqx", run_dir)
    flags = ["--data-dir", str(folder / "data"), "--run-dir", str(run_dir)]
    if stage == "collect_data":
        flags += ["--mode", MODE, "--episodes", str(episodes)]
    return [sys.executable, "-m", "benchmarks.scale", "--start", stage, *flags]


def start(stage: str, flags: list[str]) -> None:
    """Run a stage, in this process, until its work begins."""
    script = importlib.import_module(stage)
    first_call = STAGES[stage][1]

    def stop(*arguments: Any) -> None:
        print_peak()
        os._exit(0)

    atexit.register(print_peak)
    if first_call is not None:
        made: Callable[..., Any] = (lambda *_: stop) if first_call.endswith("make_step") else stop
        mock.patch(first_call, made).start()
    sys.argv = [f"{stage}.py", *flags]
    runtime.run(script.main, parse(script.Settings, script.__doc__, script.PRESETS))


def print_peak() -> None:
    """Print the peak memory of this process in kB. Its parent's counts in what wait4(2) tells."""
    lines = Path("/proc/self/status").read_text().splitlines()
    print("\n" + next(line.split()[1] for line in lines if line.startswith("VmHWM")), flush=True)


def measure(stage: str, folder: Path, episodes: int) -> dict[str, float]:
    """Wall time, processor time in seconds and peak memory in MB of the process of a stage."""
    arguments = command(stage, folder, episodes)
    begun, used = time.perf_counter(), cpu_seconds_of_children()
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=600)
    seconds, used = time.perf_counter() - begun, cpu_seconds_of_children() - used
    if done.returncode:
        raise SystemExit(f"{stage} failed: {done.stderr}")
    peak = int(done.stdout.splitlines()[-1])
    return {
        "seconds": round(seconds, 2),
        "CPU seconds": round(used, 2),
        "MB": round(peak * 1024 / 1e6),
    }


def cpu_seconds_of_children() -> float:
    """Processor time of the ended child processes, all their threads."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def remove_indexes(folder: Path) -> None:
    """Remove the indexes of rollouts and latents."""
    for kind in ("rollouts", "latents"):
        (folder / "data" / kind / INDEX_NAME).unlink(missing_ok=True)


def measure_size(folder: Path, episodes: int, steps: int) -> dict[str, Any]:
    """What all stages need on so many episodes."""
    make_data(folder, episodes, steps)
    begun = time.perf_counter()
    measure("process_data", folder, episodes)
    print(f"{episodes} episodes encoded in {time.perf_counter() - begun:.1f} s", flush=True)
    time.sleep(TICK_NS / 1e9)  # younger files are never indexed
    found: dict[str, Any] = {}
    for stage in STAGES:
        remove_indexes(folder)
        found[stage] = {NO_INDEX: measure(stage, folder, episodes)}
    measure("collect_data", folder, episodes)
    measure("process_data", folder, episodes)
    for stage in STAGES:
        found[stage][INDEX] = measure(stage, folder, episodes)
    return found


def table(found: dict[int, dict[str, Any]], clock: str) -> str:
    """Seconds and peak memory by stage and number of episodes, as Markdown.

    `clock` is "seconds" or "CPU seconds".
    """
    sizes = list(found)
    head = " | ".join(f"{size:,}" for size in sizes)
    lines = [
        f"| | {clock}: {head} | without an index | MB: {head} |",
        "|---|" + "---|" * (2 * len(sizes) + 1),
    ]
    for stage in STAGES:
        rows = [found[size][stage] for size in sizes]
        seconds = [f"{row[INDEX][clock]:.1f}" for row in rows]
        slowest = f"{rows[-1][NO_INDEX][clock]:.1f}"
        memory = [f"{row[INDEX]['MB']:.0f}" for row in rows]
        lines.append(f"| `{stage}.py` | {' | '.join([*seconds, slowest, *memory])} |")
    return "\n".join(lines)


def draw(found: dict[int, dict[str, Any]], clock: str, path: Path) -> None:
    """Draw start-up time and peak memory over the number of episodes, a line for each stage."""
    # Here, because the stages run in this module's process and do not import matplotlib.
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    figure, sizes = Figure(figsize=(8, 3.4), layout="constrained"), list(found)
    panels = ((clock, f"start-up, {clock}"), ("MB", "peak memory, MB"))
    for axes, (unit, label) in zip(figure.subplots(1, 2), panels, strict=True):
        for number, stage in enumerate(STAGES):
            for how, style in ((INDEX, "o-"), (NO_INDEX, "o:")):
                values = [found[size][stage][how][unit] for size in sizes]
                name = stage if how == INDEX else None
                axes.plot(sizes, values, style, color=f"C{number}", markersize=3, label=name)
        axes.set(xlabel="episodes (dotted: without an index)", ylabel=label, xscale="log", ylim=0)
        axes.grid(alpha=0.3)
    figure.axes[0].legend(fontsize=8)
    with rc_context({"svg.hashsalt": "scale"}):
        figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Measure, print, and perhaps write."""
    protect_output()
    if sys.argv[1:2] == ["--start"]:
        start(sys.argv[2], sys.argv[3:])
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--episodes", type=int, nargs="+", default=[100, 1000, 10_000])
    parser.add_argument("--steps", type=int, default=30, help="length of an episode")
    parser.add_argument("--folder", type=Path, help="keep the episodes here")
    parser.add_argument("--cpu-time", action="store_true", help="show processor time")
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    parser.add_argument("--figure", type=Path, help="draw them to this SVG file")
    arguments = parser.parse_args()
    clock = "CPU seconds" if arguments.cpu_time else "seconds"
    found: dict[int, dict[str, Any]] = {}
    with contextlib.ExitStack() as stack:
        folder = arguments.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for episodes in arguments.episodes:
            here = folder / f"{episodes}x{arguments.steps}"
            found[episodes] = measure_size(here, episodes, arguments.steps)
            print(f"\n{machine()}\n\n{table(found, clock)}\n", flush=True)
    if arguments.json:
        values = {"device": machine(), "steps": arguments.steps, "episodes": found}
        arguments.json.write_text(json.dumps(values, indent=2) + "\n")
    if arguments.figure:
        draw(found, clock, arguments.figure)


if __name__ == "__main__":
    main()
