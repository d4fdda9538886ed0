"""The choice among agents: successive halving on real tracks.

All agents drive a few tracks, the best third drives three times as many other tracks, and so on.
Most episodes are thus spent on the few agents that may be the best (Karnin et al. 2013).
"""

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from utils.data.episodes import EpisodeFile
from utils.data.splits import SELECTION, VALIDATION
from utils.errors import UserError
from utils.io.files import locked
from utils.io.records import Metrics, read_metrics
from utils.io.run_folder import AgentFiles
from utils.runtime import format_score
from utils.sim.env import MAX_STEPS
from utils.sim.rollouts import drive_all, provenance_of
from utils.sim.tasks import DriveResult, DriveTask
from utils.sim.workers import kept_workers

FIRST_TRACKS = 8  # tracks of the first stage
FACTOR = 3  # a stage keeps a third of the agents, on three times as many tracks
FINALISTS = 3  # the least number of agents that drive all tracks


class Stage(NamedTuple):
    """One stage of the halving: its agents drive the tracks `first` … `last` − 1 of a sequence."""

    agents: int
    first: int
    last: int
    episodes_before: int  # of all agents in earlier stages


# The tracks of the agent at this position in a stage.
TracksOf = Callable[[Stage, int], Sequence[int]]


def schedule(agents: int, tracks: int) -> list[Stage]:
    """The stages that choose among `agents` agents. The finalists drive `tracks` tracks in all."""
    stages, first, count, episodes = [], 0, FIRST_TRACKS, 0
    while first < tracks:
        last = min(first + count, tracks)
        stages.append(Stage(agents, first, last, episodes))
        episodes += agents * (last - first)
        agents = survivors(agents)
        first, count = last, FACTOR * count
    return stages


def survivors(agents: int) -> int:
    """How many of `agents` agents come to the next stage."""
    return min(agents, max(FINALISTS, math.ceil(agents / FACTOR)))


def same_tracks(stage: Stage, position: int) -> Sequence[int]:
    """Validation tracks, the same for every agent of the stage."""
    return VALIDATION[stage.first : stage.last]


def own_tracks(first: int) -> TracksOf:
    """Tracks from `first` on, different ones for every agent, so that each drive is an episode."""

    def tracks(stage: Stage, position: int) -> Sequence[int]:
        count = stage.last - stage.first
        start = first + stage.episodes_before + position * count
        return range(start, start + count)

    return tracks


class Recording(NamedTuple):
    """Where the drives of a choice are kept as episodes, on tracks that M was not trained on."""

    data_dir: Path
    seed: int
    first_track: int


def recording_of(settings: Any, entries: Iterable[EpisodeFile]) -> Recording | None:
    """The recording that the settings of train_dream.py ask for.

    Its tracks follow those of `entries`, the episodes that M was trained on.
    """
    if not settings.record:
        return None
    seen = [entry.seed for entry in entries if entry.seed in SELECTION]
    return Recording(settings.data_dir, settings.seed, max(seen, default=SELECTION.start - 1) + 1)


def scored_means(path: Path, first: int) -> dict[int, float]:
    """The dream score of each saved mean, by number, of the run that began at `first`.

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


def finalists(path: Path, first: int) -> dict[int, dict[str, list]]:
    """The drives of each mean that came to the last stage, of the run that began at `first`."""
    records = [record for record in read_metrics(path) if record.get("first") == first]
    driven = [record for record in records if "stage" in record]
    last = max(record["stage"] for record in driven)
    found = {record["step"]: {} for record in driven if record["stage"] == last}
    for record in sorted(driven, key=lambda record: record["stage"]):
        if record["step"] in found:
            found[record["step"]] = joined(found[record["step"]], record)
    return found


def drive_each(
    agents: Mapping[int, AgentFiles],
    tracks: Mapping[int, Sequence[int]],
    environment: str,
    workers: int | str,
    recording: Recording | None = None,
) -> Iterator[tuple[int, list[DriveResult]]]:
    """Drive every agent over its tracks. Yields (name, results) in the order of `agents`."""
    tasks = []
    for name, agent in agents.items():
        kept: dict[str, Any] = {}
        if recording is not None:
            driving = {"max_steps": MAX_STEPS, "seed": recording.seed}
            kept = {"provenance": provenance_of("on-policy", driving, agent)}
        for track in tracks[name]:
            if recording is not None:
                kept["output"] = recording.data_dir / f"rollouts/on-policy/{track}.npz"
            drive = DriveTask(track, "on-policy", MAX_STEPS, environment, agent=agent, **kept)
            tasks.append(drive)
    results: dict[tuple[AgentFiles | None, int], DriveResult] = {}
    waiting = list(agents.items())
    for done, result in drive_all(tasks, workers):
        results[done.agent, done.track] = result
        while waiting and all((waiting[0][1], track) in results for track in tracks[waiting[0][0]]):
            name, agent = waiting.pop(0)
            yield name, [results[agent, track] for track in tracks[name]]


DriveEach = Callable[
    [Mapping[int, AgentFiles], Mapping[int, Sequence[int]]],
    Iterable[tuple[int, list[DriveResult]]],
]


@kept_workers()
def select(
    agents: Mapping[int, AgentFiles],
    tracks: int,
    drive: DriveEach,
    metrics: Metrics,
    first: int,
    tracks_of: TracksOf = same_tracks,
    before: Mapping[int, dict[str, list]] | None = None,
) -> tuple[int, dict[str, list]]:
    """The name and the drives of the best agent. The names are steps in `metrics`.

    Each agent's drives of a stage are appended to `metrics` as one record of the run that began
    at `first`. Drives on record are not repeated, so that a stopped choice resumes. Earlier drives
    of every agent, in `before`, count as one more stage.
    """
    count = survivors(len(agents)) if before else len(agents)
    best, driven = min(agents), dict(before or {name: {} for name in agents})
    for number, stage in enumerate(schedule(count, tracks), 1):
        names = sorted(driven, key=lambda name: -mean_score(driven[name]))[: stage.agents]
        known = {
            record["step"]: {name: record[name] for name in COLUMNS}
            for record in read_metrics(metrics.path)
            if record.get("first") == first and record.get("stage") == number
        }
        missing = {name: agents[name] for name in names if name not in known}
        routes = {name: tracks_of(stage, place) for place, name in enumerate(names)}
        for name, results in drive(missing, routes) if missing else ():
            known[name] = columns(results)
            real = mean_score(joined(driven[name], known[name]))
            metrics.append(step=name, first=first, stage=number, real=real, **known[name])
        driven = {name: joined(driven[name], known[name]) for name in names}
        best = max(driven, key=lambda name: mean_score(driven[name]))
        print(f"stage {number}, {stage.agents} agents: {best} is best, {describe(driven[best])}")
    return best, driven[best]


def select_on_real_tracks(
    agents: Mapping[int, AgentFiles],
    tracks: int,
    metrics: Metrics,
    first: int,
    environment: str,
    workers: int | str,
    recording: Recording | None = None,
    before: Mapping[int, dict[str, list]] | None = None,
) -> tuple[int, dict[str, list]]:
    """`select` by drives on validation tracks, or on recorded ones with tracks of their own."""
    drive = functools.partial(
        drive_each, environment=environment, workers=workers, recording=recording
    )
    if recording is None:
        return select(agents, tracks, drive, metrics, first, before=before)
    with locked(recording.data_dir):
        routes = own_tracks(recording.first_track)
        return select(agents, tracks, drive, metrics, first, routes, before)


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
        f"{format_score(scores.tolist())} on {len(scores)} tracks, median "
        f"{np.median(scores):.0f}, {sum(drives['lost'])} lost, {sum(drives['finished'])} laps "
        f"finished, {np.mean(drives['steps']):.0f} steps"
    )
