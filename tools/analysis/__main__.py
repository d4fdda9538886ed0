"""Analyse an agent on held-out validation tracks: where it fails, and how good its dream is.

    python -m tools.analysis --episodes 32
    python -m tools.analysis --run-dir pretrained --output-dir runs/study --baseline none

Reads vae.eqx, rnn.eqx and controller.eqx of --run-dir. The agent drives every track once
undisturbed and once with each of six kinds of pushes. Writes to --output-dir:

study.json                 all numbers
lost_by_curvature.png      points lost and speed, by the curvature of the track
pushes.png                 how often the agent recovers from a push
dreamed_against_real.png   dreamed and real returns from the same moments
video.webp                 real, reconstruction and dream: some seconds of the median drive
episodes/                  the undisturbed drives, 1 MB each

Takes about 10 s a track on 2 CPU cores.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tools.analysis.calibration import (
    calibration_metrics,
    draw_dreams,
    dreamed_returns,
    real_return,
    start_steps,
    without_failures,
)
from tools.analysis.score_breakdown import (
    by_curvature,
    draw_curvature,
    draw_pushes,
    failed_drives,
    points_lost,
    push_recovery,
)
from tools.analysis.trace import RECOVERY_STEPS, Push, Trace, Trial, run_trial
from utils import runtime
from utils.data.episodes import read_episode
from utils.data.splits import VALIDATION
from utils.data.start_states import dream_states_at
from utils.io.checkpoints import read_header
from utils.io.files import locked, write_json
from utils.io.hub import require_local
from utils.io.records import timed
from utils.io.run_folder import AgentFiles, find_agent
from utils.runtime import describe_device, progress
from utils.settings import DrivingSettings, ReaderSettings, parse, setting
from utils.sim.agent import Agent
from utils.sim.env import ENVIRONMENTS, MAX_STEPS
from utils.sim.rollouts import enough_workers, package_versions
from utils.sim.tasks import DriveTask, batch_tasks
from utils.sim.workers import kept_workers, run_tasks
from utils.viz.video import encode_frames, replay, write_webp


@dataclass(frozen=True)
class Settings(ReaderSettings, DrivingSettings):
    """The flags of this script."""

    episodes: int = setting(32, "tracks to drive, each seven times", minimum=1)
    max_steps: int = setting(
        MAX_STEPS, "limit of a drive, in steps of 1/50 s", minimum=2 * RECOVERY_STEPS
    )
    output_dir: Path | None = setting(None, "folder of the results, by default --run-dir")
    baseline: str = setting(
        "scripted",
        "another driver on the same tracks, for comparison",
        choices=("none", "scripted"),
        old_name="yardstick",
    )
    moments: int = setting(8, "moments of each drive that dreams start from", minimum=1)
    dreams: int = setting(16, "dreams from each moment", minimum=1)
    horizon: int = setting(
        200, "steps of a dream, and of the real drive that it is compared with", minimum=1
    )
    video_from: int = setting(
        150, "step at which the video and its dream start", minimum=0, old_name="film_from"
    )
    video_seconds: float = setting(
        8.0, "length of the video in seconds", minimum=0.1, old_name="film_seconds"
    )
    env: str = setting(
        "fast", "renderer of the tracks: fast, or Gymnasium's own", choices=tuple(ENVIRONMENTS)
    )


PRESETS: dict[str, dict[str, Any]] = {"quick": {"episodes": 8}}
TRACKS = VALIDATION[20_000:]  # training selects controllers on the first ones
# Of each kind, the scripted driver recovers on the road from most of the weakest pushes and leaves
# the road after most of the strongest.
PUSHES = (
    Push(),
    *(Push("sideways", strength) for strength in (15.0, 30.0, 60.0)),
    *(Push("spin", strength) for strength in (3.0, 6.0, 9.0)),
)


def main(settings: Settings) -> None:
    """Drive, dream, and write figures and numbers."""
    print(describe_device())
    output = settings.output_dir or require_local(settings.run_dir, "--output-dir")
    files = find_agent(settings.run_dir, "tools.analysis")
    agent = Agent.load(files)
    with locked(output), timed(output, "analysis"):
        study: dict[str, Any] = {
            "versions": package_versions("jax", "equinox"),
            "files": files.sha256(),
        }
        study["tracks"] = list(TRACKS[: settings.episodes])
        with kept_workers():
            driven = drive_with_pushes(settings, "on-policy", files, output)
            study["agent"] = {"driver": "agent", **summarise(driven)}
            if settings.baseline != "none":
                others = drive_with_pushes(settings, settings.baseline, None, None)
                study["baseline"] = {"driver": f"{settings.baseline} driver", **summarise(others)}
        draw_curvature(output / "lost_by_curvature.png", study)
        draw_pushes(output / "pushes.png", study)
        temperature = read_header(files.controller).settings.get("temperature", 1.0)
        study["dreams"] = compare_dreams(settings, agent, driven[PUSHES[0]], output, temperature)
        draw_dreams(output / "dreamed_against_real.png", study["dreams"])
        write_json(output / "study.json", study)
        write_median_video(settings, agent, driven[PUSHES[0]], output)
    print(describe(study))
    print(f"{output / 'study.json'}")


def drive_with_pushes(
    settings: Settings, driver: str, files: AgentFiles | None, output: Path | None
) -> dict[Push, list[Trace]]:
    """Drive all tracks with every kind of push; writes the undisturbed episodes to `output`."""
    trials = []
    for push in PUSHES:
        tasks = [
            DriveTask(
                track,
                driver,
                settings.max_steps,
                settings.env,
                settings.seed,
                agent=files,
                output=episode_path(output, track) if output and push == Push() else None,
                provenance={"mode": driver, "agent": files and files.sha256()},
            )
            for track in TRACKS[: settings.episodes]
        ]
        trials += [Trial(group, push) for group in batch_tasks(tasks, settings.drive_on)]
    traces: dict[Push, list[Trace]] = {push: [] for push in PUSHES}
    with progress(len(PUSHES) * settings.episodes, "episode", label=driver) as bar:
        for trial, done in run_tasks(run_trial, trials, enough_workers(settings.drive_on, trials)):
            traces[trial.push] += done
            bar.update(len(done))
    return {push: sorted(done, key=lambda t: t.result.track) for push, done in traces.items()}


def episode_path(output: Path, track: int) -> Path:
    """The file of an undisturbed episode."""
    return output / "episodes" / f"{track}.npz"


def summarise(driven: dict[Push, list[Trace]]) -> dict[str, Any]:
    """Scores, points lost by cause and by curvature, and recoveries of one driver."""
    plain = driven[Push()]
    causes = [points_lost(trace) for trace in plain]
    return {
        "scores": [trace.result.score for trace in plain],
        "mean": float(np.mean([trace.result.score for trace in plain])),
        "finished": [trace.result.lap_finished for trace in plain],
        "points_lost": {
            cause: float(np.mean([lost[cause] for lost in causes])) for cause in causes[0]
        },
        "curvature": by_curvature(plain),
        "failed_drives": failed_drives(plain),
        "pushes": [push_recovery(traces, push) for push, traces in driven.items()],
    }


def compare_dreams(
    settings: Settings, agent: Agent, plain: Sequence[Trace], output: Path, temperature: float
) -> dict[str, Any]:
    """Dreamed and real returns from the same moments of the agent's drives."""
    rows: list[dict[str, Any]] = []
    starts = []
    rng = np.random.default_rng(settings.seed)
    for trace in plain:
        episode = read_episode(episode_path(output, trace.result.track))
        steps = len(episode.actions)
        moments = start_steps(trace, episode, settings.moments, settings.horizon, rng)
        # Padded to one length, so that it compiles once. Later steps do not affect a moment.
        padding = ((0, settings.max_steps - steps), (0, 0))
        frames = np.pad(episode.frames[:-1], (*padding, (0, 0), (0, 0)))
        z, actions = encode_frames(agent.vae, frames), np.pad(episode.actions, padding)
        starts.append(dream_states_at(agent.rnn, z, actions, moments))
        for step in moments.tolist():
            real, failed = real_return(episode, step, settings.horizon)
            rows.append({"track": trace.result.track, "step": step, "real": real, "failed": failed})
    together = jax.tree.map(lambda *x: jnp.concatenate(x), *starts)
    dream = (settings.dreams, settings.horizon, temperature)
    for name, rnn in (
        ("dreamed", agent.rnn),
        ("dreamed_without_failures", without_failures(agent.rnn)),
    ):
        key = jax.random.key(settings.seed)  # the same dreams: z does not depend on the end head
        returns = dreamed_returns(rnn, agent.controller, together, key, *dream).mean(axis=1)
        for row, value in zip(rows, returns.tolist(), strict=True):
            row[name] = value
    return {**calibration_metrics(rows), "temperature": temperature, "moments": rows}


def write_median_video(
    settings: Settings, agent: Agent, plain: Sequence[Trace], output: Path
) -> None:
    """Write a video of the drive with the median score."""
    median = sorted(plain, key=lambda trace: trace.result.score)[len(plain) // 2]
    episode = read_episode(episode_path(output, median.result.track))
    shown = replay(agent.vae, agent.rnn, episode, settings.video_from)
    write_webp(output / "video.webp", episode, shown, settings.video_seconds)


def describe(study: dict[str, Any]) -> str:
    """The results in a few lines."""
    agent = study["agent"]
    causes = ", ".join(f"{name} {lost:.0f}" for name, lost in agent["points_lost"].items())
    lines = [f"score {agent['mean']:.0f} on {len(agent['scores'])} tracks; points lost: {causes}"]
    for row in agent["pushes"]:
        push = Push(row["kind"], row["strength"])
        lines.append(f"{push}: recovers from {row['recovered']} of {row['pushes']}")
    dreams = study["dreams"]
    if dreams["return_bias"] is not None:
        lines.append(f"dreamed − real return: {dreams['return_bias']:+.0f} points")
    return "\n".join(lines)


if __name__ == "__main__":
    runtime.run(main, parse(Settings, __doc__, PRESETS))
