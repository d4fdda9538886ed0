"""From nothing to a score: the six steps on an empty folder, and how long each of them takes.

    python -m benchmarks.pipeline                  # the quick preset: a quarter of an hour
    python -m benchmarks.pipeline --preset laptop --tracks 100

The second is what is to take ten minutes on one H200 with 16 cores.

Everything is made anew in a temporary folder, which is deleted. Of each step the seconds of its
process are printed, and of these the seconds that it worked by itself (its times.jsonl): the rest
is start and imports.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks.measuring import machine
from utils.io.records import TIMES_NAME, read_records
from utils.settings import PRESET_NAMES

ROOT = Path(__file__).resolve().parents[1]
# Episodes of each way of driving, as `make run` and tools.reproduce have them.
COLLECTED = {
    "quick": {"random": 16, "recovery": 64, "aggressive": 24},
    "laptop": {"random": 48, "recovery": 180, "aggressive": 60},
    "paper": {"random": 2_000, "recovery": 6_000, "aggressive": 2_000},
}


class Step(NamedTuple):
    """A step that was run."""

    name: str
    seconds: float  # of the whole process
    worked: float  # of its work, as it wrote down itself


def steps_of(preset: str, tracks: int | None) -> list[list[str]]:
    """The scripts of the pipeline and their own flags, in order."""
    collections = [
        ["collect_data.py", "--mode", mode, "--episodes", str(episodes)]
        for mode, episodes in COLLECTED[preset].items()
    ]
    scripts = ("run_vae_training", "process_data", "train_rnn", "train_dream")
    test = ["test_agent.py", *(["--episodes", str(tracks)] if tracks else [])]
    return [*collections, *([f"{script}.py"] for script in scripts), test]


def worked(folder: Path) -> float:
    """Seconds that all stages worked so far, by the times of data and run folder."""
    records = [r for name in ("data", "run") for r in read_records(folder / name / TIMES_NAME)]
    return sum(record.get("seconds", 0.0) for record in records)


def run(folder: Path, command: list[str], flags: list[str]) -> Step:
    """Run a step to its end; a step that fails ends the benchmark."""
    before, begun = worked(folder), time.perf_counter()
    folders = ["--data-dir", str(folder / "data"), "--run-dir", str(folder / "run")]
    subprocess.run(
        [sys.executable, str(ROOT / command[0]), *command[1:], *folders, *flags], check=True
    )
    name = " ".join(part for part in command if part not in ("--mode", "--episodes"))
    return Step(name, time.perf_counter() - begun, worked(folder) - before)


def table(steps: list[Step]) -> str:
    """Seconds of every step and of all."""
    total = Step("all", sum(s.seconds for s in steps), sum(s.worked for s in steps))
    lines = [f"{'':36s}{'seconds':>9s}{'its work':>10s}{'share':>7s}"]
    for step in [*steps, total]:
        share = step.seconds / total.seconds
        lines.append(f"{step.name:36s}{step.seconds:9.1f}{step.worked:10.1f}{share:7.0%}")
    return "\n".join(lines)


def main() -> None:
    """Run, print and perhaps write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--preset", choices=PRESET_NAMES, default="quick", help="sizes of all steps"
    )
    parser.add_argument("--tracks", type=int, help="test tracks, by default the preset's")
    parser.add_argument("--json", type=Path, help="add the figures to this file, too")
    arguments = parser.parse_args()
    flags = ["--preset", arguments.preset]
    steps: list[Step] = []
    with tempfile.TemporaryDirectory() as folder:
        for command in steps_of(arguments.preset, arguments.tracks):
            steps.append(run(Path(folder), command, flags))
            # After every step: a machine that is lent for minutes may be gone before the last.
            print(f"\n{table(steps)}\n", flush=True)
        evaluation = json.loads((Path(folder) / "run" / "evaluation.json").read_text())
    score = f"{evaluation['mean']:.0f} ± {evaluation['std']:.0f}"
    print(f"score {score} on {len(evaluation['scores'])} test tracks ({machine()})")
    if arguments.json:
        known = json.loads(arguments.json.read_text()) if arguments.json.exists() else {}
        known[f"Pipeline, {arguments.preset}"] = {
            "device": machine(),
            "steps": [step._asdict() for step in steps],
            "score": score,
        }
        arguments.json.write_text(json.dumps(known, indent=2) + "\n")


if __name__ == "__main__":
    main()
