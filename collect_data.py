"""Step 1: collect episodes of driving.

    python collect_data.py                                    # a menu of driving modes
    python collect_data.py --mode recovery --episodes 200
    python collect_data.py --mode random --episodes 10000 --workers 8 --max-steps 1000

The modes iterative and on-policy need the agent of --run-dir; the others read nothing. Writes one
file per episode, data/rollouts/<mode>/<seed>.npz, about 0.9 MB for 1,000 steps. --episodes is a
total: a rerun drives what is missing. A new agent or other settings drive new tracks. About 500
steps/s per core with an agent; the other modes are faster.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from utils import runtime
from utils.data.episodes import EPISODE_SCHEMA, scan_files, update_index
from utils.data.splits import AGENT_MODES, MODES, TRAINING
from utils.io.files import locked
from utils.io.records import timed
from utils.io.run_folder import find_agent
from utils.runtime import format_score, progress
from utils.settings import DrivingSettings, ReaderSettings, parse, setting
from utils.sim.env import ENVIRONMENTS, MAX_STEPS
from utils.sim.rollouts import drive_all, provenance_of
from utils.sim.tasks import DriveTask

MENU = {
    "random": "Random (Brownian noise)",
    "iterative": "Iterative (current agent + exploration noise)",
    "recovery": "Recovery (scripted driver, pushed off its line)",
    "aggressive": "Aggressive (scripted driver, too fast for the corners)",
    "on-policy": "On-policy (current agent without noise)",
}


@dataclass(frozen=True)
class Settings(ReaderSettings, DrivingSettings):
    """The flags of this script."""

    mode: str | None = setting(None, "driving mode; by default a menu asks for it", choices=MODES)
    episodes: int = setting(200, "total number of episodes of this mode and settings", minimum=1)
    max_steps: int = setting(MAX_STEPS, "time limit of an episode, in steps of 1/50 s", minimum=1)
    exploration: float = setting(
        0.1, "iterative: standard deviation of the noise on each action", minimum=0.0
    )
    env: str = setting(
        "fast", "drawing of the tracks: fast, or Gymnasium's own", choices=tuple(ENVIRONMENTS)
    )


PRESETS: dict[str, dict[str, Any]] = {"quick": {"episodes": 24}, "paper": {"episodes": 10_000}}


def ask_mode() -> str:
    """Show the menu on standard output and read the choice from standard input."""
    print("How should the car be driven?")
    for number, mode in enumerate(MODES, 1):
        print(f"  {number} {MENU[mode]}")
    print("  0 Exit")
    while True:
        answer = _ask("Choice: ", "--mode")
        if answer == "0":
            sys.exit(0)
        if answer.isdecimal() and 1 <= int(answer) <= len(MODES):
            return MODES[int(answer) - 1]
        print(f"'{answer}' is not on the menu.")


def ask_episodes(default: int) -> int:
    """Ask for the number of episodes; an empty answer takes the preset's."""
    while True:
        answer = _ask(f"Episodes [{default}]: ", "--episodes")
        if not answer:
            return default
        if answer.isdecimal() and int(answer) > 0:
            return int(answer)
        print(f"'{answer}' is not a number of episodes.")


def _ask(prompt: str, flag: str) -> str:
    try:
        return input(prompt).strip()
    except EOFError:
        print(f"\nstandard input ended; use {flag}", file=sys.stderr)
        sys.exit(2)


def driving_settings(mode: str, settings: Settings) -> dict[str, Any]:
    """The settings that an episode of this mode depends on."""
    driving = {"max_steps": settings.max_steps, "seed": settings.seed}
    return driving | ({"exploration": settings.exploration} if mode == "iterative" else {})


def missing_tracks(folder: Path, provenance: dict[str, Any], episodes: int) -> list[int]:
    """The tracks that are still to be driven for `folder` to have `episodes` like these.

    Episodes are alike if mode, driving settings and agent are the same.

    They start after the tracks of the previous such set and skip tracks that have a file. A rerun
    after a kill therefore leaves no gap, and no file is overwritten.
    """
    identity = {key: provenance[key] for key in ("mode", "settings", "agent")}
    entries = scan_files(folder.parent, EPISODE_SCHEMA)
    ours = {
        entry.seed
        for entry in entries
        if entry.mode == folder.name
        and {key: entry.provenance.get(key) for key in identity} == identity
    }
    # By file name: a damaged file counts as taken, too.
    taken = {int(path.stem) for path in folder.glob("*.npz") if path.stem.isdecimal()}
    tracks = TRAINING[identity["mode"]]
    first = min(ours, default=tracks.stop)
    start = max((track + 1 for track in taken - ours if track < first), default=tracks.start)
    free: Iterator[int] = (track for track in range(start, tracks.stop) if track not in taken)
    return [next(free) for _ in range(episodes - len(ours))]


def main(settings: Settings) -> None:
    """Collect the episodes of one mode."""
    mode = settings.mode or ask_mode()
    episodes = settings.episodes if settings.mode else ask_episodes(settings.episodes)
    agent = find_agent(settings.run_dir, f"mode {mode}") if mode in AGENT_MODES else None
    folder = settings.data_dir / "rollouts" / mode
    with locked(settings.data_dir), timed(settings.data_dir, "collect_data"):
        update_index(folder.parent, EPISODE_SCHEMA)
        provenance = provenance_of(mode, driving_settings(mode, settings), agent)
        tracks = missing_tracks(folder, provenance, episodes)
        print(f"{folder}: {episodes - len(tracks)} of {episodes} episodes exist")
        tasks = [
            DriveTask(
                track=track,
                driver=mode,
                max_steps=settings.max_steps,
                environment=settings.env,
                seed=settings.seed,
                exploration=settings.exploration,
                agent=agent,
                output=folder / f"{track}.npz",
                provenance=provenance,
            )
            for track in tracks
        ]
        collect(tasks, settings.drive_on)
        if tasks:
            update_index(folder.parent, EPISODE_SCHEMA)


def collect(tasks: list[DriveTask], workers: int | str) -> None:
    """Drive all tasks in parallel and print a summary."""
    scores, steps, laps, left = [], 0, 0, 0
    with progress(len(tasks), "episode") as bar:
        for _, outcome in drive_all(tasks, workers):
            scores.append(outcome.score)
            steps += outcome.steps
            laps += outcome.lap_finished
            left += outcome.left_playfield
            bar.update()
            bar.set_postfix(score=f"{np.mean(scores):.0f}", steps=steps, refresh=False)
    if tasks:
        print(
            f"{len(tasks)} episodes, {steps} steps: score {format_score(scores)}, "
            f"{laps} laps finished, {left} left the playfield"
        )


if __name__ == "__main__":
    runtime.run(main, parse(Settings, __doc__, PRESETS))
