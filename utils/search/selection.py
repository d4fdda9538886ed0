"""The choice among saved means: successive halving on real validation tracks.

All means drive a few tracks, the best third drives three times as many other tracks, and so on.
Most episodes are thus spent on the few means that may be the best (Karnin et al. 2013).
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.data.splits import VALIDATION
from utils.errors import UserError
from utils.io.records import Metrics, read_metrics
from utils.io.run_folder import AgentFiles
from utils.sim.env import MAX_STEPS
from utils.sim.rollouts import drive_all
from utils.sim.tasks import DriveResult, DriveTask
from utils.sim.workers import kept_workers

FIRST_TRACKS = 8  # tracks of the first stage
FACTOR = 3  # a stage keeps a third of the means, on three times as many tracks
FINALISTS = 3  # the least number of means that drive all tracks


class Stage(NamedTuple):
    """One stage of the halving: the number of means, and the validation tracks they drive."""

    means: int
    tracks: Sequence[int]


def schedule(means: int, tracks: int) -> list[Stage]:
    """The stages that choose among `means` means. The finalists drive `tracks` tracks in all."""
    stages, first, count = [], 0, FIRST_TRACKS
    while first < tracks:
        last = min(first + count, tracks)
        stages.append(Stage(means, VALIDATION[first:last]))
        means = min(means, max(FINALISTS, math.ceil(means / FACTOR)))
        first, count = last, FACTOR * count
    return stages


def scored_means(path: Path, first: int) -> dict[int, float]:
    """The dream score of each saved mean, by generation, of the run that began at `first`.

    A mean whose score is not finite is left out. Raises UserError if none is left.
    """
    found = {
        record["step"]: record["dream_score"]
        for record in read_metrics(path)
        if record.get("first") == first and math.isfinite(record.get("dream_score", math.nan))
    }
    if not found:
        raise UserError(
            f"no saved mean since generation {first} has a finite dream score; try --fresh"
        )
    return found


def drive_each(
    agents: Mapping[int, AgentFiles], tracks: Sequence[int], environment: str, workers: int
) -> Iterator[tuple[int, list[DriveResult]]]:
    """Drive every agent over all tracks. Yields (name, results) in the order of `agents`."""
    tasks = [
        DriveTask(track, "on-policy", MAX_STEPS, environment, agent=agent)
        for agent in agents.values()
        for track in tracks
    ]
    results: dict[tuple[AgentFiles | None, int], DriveResult] = {}
    waiting = list(agents.items())
    for task, result in drive_all(tasks, workers):
        results[task.agent, task.track] = result
        while waiting and all((waiting[0][1], track) in results for track in tracks):
            name, agent = waiting.pop(0)
            yield name, [results[agent, track] for track in tracks]


DriveEach = Callable[
    [Mapping[int, AgentFiles], Sequence[int]], Iterable[tuple[int, list[DriveResult]]]
]


@kept_workers()
def select(
    agents: Mapping[int, AgentFiles], tracks: int, drive: DriveEach, metrics: Metrics, first: int
) -> tuple[int, dict[str, list]]:
    """The name and the drives of the best agent. An agent's name is the generation of its mean.

    Each agent's drives of a stage are appended to `metrics` as one record of the run that began
    at `first`. Drives on record are not repeated, so that a stopped choice resumes.
    """
    best, driven = min(agents), {name: dict[str, list]() for name in agents}
    for number, stage in enumerate(schedule(len(agents), tracks), 1):
        names = sorted(driven, key=lambda name: -mean_score(driven[name]))[: stage.means]
        known = {
            record["step"]: {name: record[name] for name in COLUMNS}
            for record in read_metrics(metrics.path)
            if record.get("first") == first and record.get("stage") == number
        }
        missing = {name: agents[name] for name in names if name not in known}
        for name, results in drive(missing, stage.tracks) if missing else ():
            known[name] = columns(results)
            real = mean_score(joined(driven[name], known[name]))
            metrics.append(step=name, first=first, stage=number, real=real, **known[name])
        driven = {name: joined(driven[name], known[name]) for name in names}
        best = max(driven, key=lambda name: mean_score(driven[name]))
        print(f"stage {number}, {stage.means} means: the best, {best}, {describe(driven[best])}")
    return best, driven[best]


COLUMNS = ("scores", "steps", "finished", "lost")


def columns(results: Sequence[DriveResult]) -> dict[str, list]:
    """The recorded figures of drives: for each column a list with one entry per drive."""
    return {
        "scores": [result.score for result in results],
        "steps": [result.steps for result in results],
        "finished": [result.lap_finished for result in results],
        "lost": [result.lost for result in results],
    }


def joined(before: Mapping[str, list], after: Mapping[str, list]) -> dict[str, list]:
    """The drives of two stages, concatenated."""
    return {name: before.get(name, []) + after[name] for name in COLUMNS}


def mean_score(drives: Mapping[str, list]) -> float:
    """The mean score; 0 before the first drive."""
    return float(np.mean(drives["scores"])) if drives else 0.0


def describe(drives: Mapping[str, list]) -> str:
    """One line that summarises drives."""
    scores = np.array(drives["scores"])
    return (
        f"{scores.mean():.1f} ± {scores.std():.1f} on {len(scores)} tracks, median "
        f"{np.median(scores):.0f}, {sum(drives['lost'])} lost, {sum(drives['finished'])} laps "
        f"finished, {np.mean(drives['steps']):.0f} steps"
    )
