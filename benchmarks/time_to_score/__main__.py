"""From nothing to a score, over time and over real frames: ours beside PPO, on the same machine.

    python -m benchmarks.time_to_score --output-dir runs/time_to_score --minutes 180
    python -m benchmarks.time_to_score --output-dir /tmp/rehearsal --minutes 2 --tracks 2 --rehearse

Five curves, one after another, each with all cores and `--minutes` of training:

- ours-quick: `make run`. ours: `make reproduce`, which goes on in rounds of Sim2Real2Sim. Both are
  evaluated whenever a controller is finished. Some of their data is driven by a script that reads
  the track's geometry; the networks see frames, actions, rewards and ends.
- ppo: Stable-Baselines3's PPO with rl-zoo3's settings on `fast_car_racing`; ppo-gymnasium: the same
  with Gymnasium's own drawing. ppo_on_frames.py says what differs from the zoo.
- ppo-dream: PPO on [z, h] in the dream of the first controller of `ours`. Its clock starts with the
  time that V and M took, and its frames are those that they learned from.

Every evaluation drives the same real tracks: 1,000 frames at most, no exploration. Evaluations are
not counted as time. The time of starting and compiling is. Rerun the command to resume, also after
kill -9, and with more `--minutes` to go on. A kill loses at most a minute of PPO's training, and as
much of its time. Writes <curve>/scores.jsonl, time_to_score.svg and time_to_score.md.
"""

import argparse
import signal
import sys
from pathlib import Path

from benchmarks.measuring import has, machine
from benchmarks.time_to_score.pipeline import COMMANDS, Pipeline
from benchmarks.time_to_score.results import draw, read_curve, table
from utils.data.splits import VALIDATION
from utils.io.files import locked, write_atomically, write_json
from utils.io.records import read_records
from utils.output import protect_output

TRACKS = VALIDATION[30_000:]  # nothing is selected on these
CURVES = ("ours-quick", "ours", "ppo", "ppo-dream", "ppo-gymnasium")


def train_ppo(curve: str, arguments: argparse.Namespace) -> None:
    """Train and evaluate one of the curves of PPO."""
    # Here, because they need optional packages.
    from benchmarks.time_to_score import ppo_in_dream, ppo_on_frames

    folder = arguments.output_dir / curve
    folder.mkdir(parents=True, exist_ok=True)
    training = {
        "folder": folder,
        "tracks": TRACKS[: arguments.tracks],
        "minutes": arguments.minutes,
        "every": arguments.every,
    }
    if curve != "ppo-dream":
        drawing = "gymnasium" if curve == "ppo-gymnasium" else "fast"
        ppo_on_frames.on_frames(drawing, arguments.rehearse, **training).run()
    elif dream := pipeline("ours", arguments).first_dream():
        write_json(folder / "begin.json", dream[1])
        ppo_in_dream.in_dream(dream[0], arguments.rehearse, **training).run()
    else:
        print("ppo-dream waits for the first controller of ours", flush=True)


def pipeline(curve: str, arguments: argparse.Namespace) -> Pipeline:
    """One of our own curves."""
    commands = COMMANDS["rehearsal" if arguments.rehearse else curve]
    tracks = TRACKS[: arguments.tracks]
    return Pipeline(arguments.output_dir / curve, commands, tracks, arguments.minutes)


def report(arguments: argparse.Namespace) -> None:
    """Write the figure and the table of all curves that have an evaluation."""
    folder = arguments.output_dir
    curves = {name: read_curve(folder / name) for name in CURVES}
    curves = {name: points for name, points in curves.items() if points}
    if not curves:
        return
    finished = [n for n in curves if read_records(folder / n / "scores.jsonl")[-1]["final"]]
    draw(curves, folder / "time_to_score.svg")
    text = f"{arguments.tracks} tracks, {machine()}\n\n{table(curves, finished)}"
    write_atomically(folder / "time_to_score.md", lambda file: file.write(text.encode()))
    print(f"\n{text}", flush=True)


def main() -> None:
    """Train and evaluate what is missing, one curve after another."""
    protect_output()
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.time_to_score",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output-dir", type=Path, required=True, help="folder of the results")
    parser.add_argument("--minutes", type=float, default=180.0, help="training of a curve (180)")
    parser.add_argument("--every", type=float, default=10.0, help="between PPO's evaluations (10)")
    parser.add_argument("--tracks", type=int, default=100, help="tracks of an evaluation (100)")
    parser.add_argument("--curves", nargs="+", choices=CURVES, default=CURVES, help="which")
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes: does it run?")
    arguments = parser.parse_args()
    arguments.output_dir = arguments.output_dir.resolve()  # the scripts run in another folder
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    sb3 = has("stable_baselines3")
    with locked(arguments.output_dir):
        for curve in arguments.curves:
            print(f"\n=== {curve}", flush=True)
            if curve.startswith("ours"):
                pipeline(curve, arguments).run()
            elif sb3:
                train_ppo(curve, arguments)
            report(arguments)


if __name__ == "__main__":
    main()
