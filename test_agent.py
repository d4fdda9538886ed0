"""Step 6: test the agent on real tracks.

    python test_agent.py                          # 100 test tracks, the standard protocol
    python test_agent.py --split validation --episodes 16
    python test_agent.py --first-track 7 --episodes 1 --baseline random

Reads vae.eqx, rnn.eqx and controller.eqx of --run-dir. The agent drives from the first frame on.
Writes evaluation.json to --output-dir, and for the first --videos tracks a video (real |
reconstruction | dream), an image grid and a plot. About 500 steps/s per core: 100 tracks take 2
minutes on 2 cores.
"""

import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from utils import runtime
from utils.data.episodes import read_episode
from utils.data.splits import SPLITS
from utils.errors import UserError
from utils.io.files import locked, write_json
from utils.io.hub import require_local
from utils.io.records import append_record, timed
from utils.io.run_folder import AgentFiles, find_agent
from utils.runtime import describe_device, format_number, format_score, progress
from utils.settings import DrivingSettings, ReaderSettings, parse, setting
from utils.sim.agent import Agent
from utils.sim.env import ENVIRONMENTS, MAX_STEPS
from utils.sim.rollouts import drive_all, package_versions
from utils.sim.tasks import DriveResult, DriveTask
from utils.sim.workers import kept_workers
from utils.viz.video import replay, write_grid, write_plot, write_video


class MissingMediaError(UserError):
    """A film or a picture could not be made; the scores and all others are written."""


@dataclass(frozen=True)
class Settings(ReaderSettings, DrivingSettings):
    """The flags of this script."""

    split: str = setting("test", "the tracks to drive", choices=tuple(SPLITS))
    episodes: int = setting(100, "tracks to drive, one episode each", minimum=1)
    first_track: int | None = setting(
        None,
        "drive the tracks from this seed on instead of those of a split",
        minimum=0,
        maximum=2**32 - 1,
    )
    output_dir: Path | None = setting(None, "folder of the results; by default --run-dir")
    baseline: str = setting(
        "none",
        "also drive the same tracks with this driver",
        choices=("none", "random", "scripted"),
        old_name="yardstick",
    )
    videos: int = setting(1, "tracks to write a video of", minimum=0)
    dream_from: int = setting(100, "step at which the video's open-loop dream starts", minimum=0)
    log: Path | None = setting(
        None,
        "file that every evaluation on test tracks adds a line to; by default test_log.jsonl in "
        "--output-dir",
    )
    env: str = setting(
        "fast", "drawing of the tracks: fast, or Gymnasium's own", choices=tuple(ENVIRONMENTS)
    )


PRESETS: dict[str, dict[str, Any]] = {"quick": {"episodes": 8}}
BOOTSTRAP_SAMPLES = 10_000


def summarise(outcomes: list[DriveResult]) -> dict[str, Any]:
    """Scores by track, their mean, median and standard deviation, and an interval of the mean.

    The interval is 95%, by bootstrap. Of a single track it is not known, [None, None], nor is the
    standard deviation, None.
    """
    scores = np.array([outcome.score for outcome in outcomes])
    draws = np.random.default_rng(0).choice(scores, (BOOTSTRAP_SAMPLES, len(scores)))
    interval = np.percentile(draws.mean(axis=1), [2.5, 97.5]).tolist()
    return {
        "tracks": [outcome.track for outcome in outcomes],
        "scores": scores.tolist(),
        "mean": float(scores.mean()),
        "median": float(np.median(scores)),
        "std": float(scores.std()) if len(scores) > 1 else None,
        "interval": interval if len(scores) > 1 else [None, None],
        "steps": [outcome.steps for outcome in outcomes],
        "finished": [outcome.lap_finished for outcome in outcomes],
        "lost": [outcome.lost for outcome in outcomes],
    }


def drive_tracks(tasks: list[DriveTask], workers: int | str, label: str) -> list[DriveResult]:
    """Drive all tasks in parallel. Results are in the order of the tasks."""
    outcomes = {}
    with progress(len(tasks), "episode", label=label) as bar:
        for _, outcome in drive_all(tasks, workers):
            outcomes[outcome.track] = outcome
            bar.update()
            bar.set_postfix(
                mean=f"{np.mean([o.score for o in outcomes.values()]):.0f}", refresh=False
            )
    return [outcomes[task.track] for task in tasks]


def describe(name: str, summary: dict[str, Any]) -> str:
    """The summary in one line."""
    low, high = (format_number(bound, ".0f") for bound in summary["interval"])
    count = len(summary["scores"])
    return (
        f"{name}: {format_score(summary['scores'])} on {count} track{'s' * (count > 1)} "
        f"(95% interval of the mean {low} … {high}), median {summary['median']:.0f}, "
        f"{sum(summary['lost'])} lost, {sum(summary['finished'])} laps finished, "
        f"{np.mean(summary['steps']):.0f} steps"
    )


def main(settings: Settings) -> None:
    """Evaluate the agent and write the results."""
    print(describe_device())
    output = settings.output_dir or require_local(settings.run_dir, "--output-dir")
    files = find_agent(settings.run_dir, "test_agent.py")
    agent = Agent.load(files)
    with locked(output), timed(output, "test_agent"):
        evaluation = evaluate(settings, files, output)
        write_json(output / "evaluation.json", evaluation)
        if evaluation["split"] == "test":
            append_record(settings.log or output / "test_log.jsonl", log_line(evaluation))
        failures: list[UserError] = []
        for track in evaluation["tracks"][: settings.videos]:
            try:
                write_media(settings, agent, output, track)
            except UserError as error:  # the other media and the scores do not depend on it
                failures.append(error)
        baseline = evaluation["baseline"]
        if baseline:
            print(describe(f"{baseline['driver']} driving", baseline))
        print(describe("the agent", evaluation))
        print(f"{output / 'evaluation.json'}")
        if failures:
            raise MissingMediaError(str(failures[0]))


@kept_workers()
def evaluate(settings: Settings, files: AgentFiles, output: Path) -> dict[str, Any]:
    """Drive the tracks with the agent, and with the baseline if there is one."""
    first = settings.first_track
    split, tracks = settings.split, SPLITS[settings.split]
    if first is not None:
        split = next((name for name, tracks in SPLITS.items() if first in tracks), None)
        tracks = range(first, first + settings.episodes)
    drives = [
        DriveTask(
            track=track,
            driver="on-policy",
            max_steps=MAX_STEPS,
            environment=settings.env,
            agent=files,
            output=episode_path(output, track) if index < settings.videos else None,
            provenance={"mode": "on-policy", "agent": files.sha256()},
        )
        for index, track in enumerate(tracks[: settings.episodes])
    ]
    evaluation = {
        "split": split,
        **summarise(drive_tracks(drives, settings.drive_on, "agent")),
        "agent": files.sha256(),
        "versions": package_versions("jax", "equinox"),
        "baseline": None,
    }
    if settings.baseline != "none":
        others = [
            DriveTask(drive.track, settings.baseline, MAX_STEPS, settings.env) for drive in drives
        ]
        outcomes = drive_tracks(others, settings.drive_on, settings.baseline)
        evaluation["baseline"] = {"driver": settings.baseline, **summarise(outcomes)}
    return evaluation


def log_line(evaluation: dict[str, Any]) -> dict[str, Any]:
    """The line of an evaluation in the log, which shows how often test tracks were used."""
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "agent": evaluation["agent"],
        "first_track": evaluation["tracks"][0],
        "episodes": len(evaluation["scores"]),
        "mean": round(evaluation["mean"], 1),
        "std": None if (std := evaluation["std"]) is None else round(std, 1),
        "laps_finished": sum(evaluation["finished"]),
        "mean_steps": round(float(np.mean(evaluation["steps"])), 1),
    }


def episode_path(output: Path, track: int) -> Path:
    """The file of a track's recorded episode."""
    return output / "episodes" / f"{track}.npz"


def write_media(settings: Settings, agent: Agent, output: Path, track: int) -> None:
    """Write the grid, plot and video of one track. The video is last: it needs ffmpeg."""
    episode = read_episode(episode_path(output, track))
    shown = replay(agent.vae, agent.rnn, episode, settings.dream_from)
    write_grid(output / f"track_{track}_grid.png", episode, shown)
    write_plot(output / f"track_{track}_plot.png", episode, shown)
    write_video(output / f"track_{track}.mp4", episode, shown)
    print(f"wrote {output / f'track_{track}.mp4'}, score {episode.score:.0f}")


if __name__ == "__main__":
    runtime.run(main, parse(Settings, __doc__, PRESETS))
