"""Where the agent fails: study it on validation tracks that nothing was chosen by.

    python -m tools.analysis --episodes 32
    python -m tools.analysis --run-dir pretrained --output-dir runs/study --baseline none

Reads vae.eqx, rnn.eqx and controller.eqx of --run-dir. The agent drives every track once as it is
and once under each of six pushes that it knows nothing of. Writes study.json and, to --output-dir,
lost_by_curvature.png: which parts of a track cost it points;
pushes.png:            how often it drives on after a push;
dreamed_against_real.png: what the dream promises at moments of these drives, and what came;
film.webp:              real, reconstruction and dream, for some seconds of the median drive;
and the undisturbed drives to episodes/, 1 MB each. About 10 s a track on 2 CPU cores.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tools.analysis.calibration import (
    draw_dreams,
    dreamed_returns,
    figures_of,
    moments_to_dream_from,
    real_return,
    unending,
)
from tools.analysis.score_breakdown import (
    after_pushes,
    by_curvature,
    draw_curvature,
    draw_pushes,
    losses,
    points_lost,
)
from tools.analysis.trace import WINDOW, Push, Trace, Trial, run_trial
from utils import runtime
from utils.data.episodes import read_episode
from utils.data.splits import VALIDATION
from utils.data.start_states import dream_states_at
from utils.io.checkpoints import read_header
from utils.io.files import locked, write_json
from utils.io.records import timed
from utils.io.run_folder import AgentFiles, find_agent
from utils.runtime import default_workers, describe_device, progress
from utils.settings import CommonSettings, parse, setting
from utils.sim.agent import Agent
from utils.sim.env import ENVIRONMENTS, MAX_STEPS
from utils.sim.rollouts import package_versions
from utils.sim.tasks import DriveTask, batch_tasks
from utils.sim.workers import run_tasks
from utils.viz.video import encode_frames, replay, write_webp


@dataclass(frozen=True)
class Settings(CommonSettings):
    """The flags of this script."""

    episodes: int = setting(32, "tracks to drive, each seven times", minimum=1)
    max_steps: int = setting(MAX_STEPS, "steps of a drive", minimum=2 * WINDOW)
    output_dir: Path | None = setting(None, "where results go, by default --run-dir")
    baseline: str = setting(
        "scripted",
        "another driver on the same tracks",
        choices=("none", "scripted"),
        old_name="yardstick",
    )
    moments: int = setting(8, "moments of each drive that dreams begin at", minimum=1)
    dreams: int = setting(16, "dreams from each moment", minimum=1)
    horizon: int = setting(200, "steps of a dream, and of what is held against it", minimum=1)
    film_from: int = setting(150, "step at which the film and its dream begin", minimum=0)
    film_seconds: float = setting(8.0, "length of the film", minimum=0.1)
    workers: int = setting(default_workers(), "processes, one core each", minimum=1)
    env: str = setting(
        "fast", "drawing of the tracks: fast, or Gymnasium's own", choices=tuple(ENVIRONMENTS)
    )


PRESETS: dict[str, dict[str, Any]] = {"quick": {"episodes": 8}}
TRACKS = VALIDATION[20_000:]  # the training's choices are made by the first of them
# The scripted driver leaves the road after few of the weakest of a kind and most of the strongest.
PUSHES = (
    Push(),
    *(Push("sideways", strength) for strength in (15.0, 30.0, 60.0)),
    *(Push("spin", strength) for strength in (3.0, 6.0, 9.0)),
)


def main(settings: Settings) -> None:
    """Drive, dream, draw and write everything down."""
    print(describe_device())
    output = settings.output_dir or settings.run_dir
    files = find_agent(settings.run_dir, "tools.analysis")
    agent = Agent.load(files)
    with locked(output), timed(output, "study_agent"):
        study: dict[str, Any] = {
            "versions": package_versions("jax", "equinox"),
            "files": files.sha256(),
        }
        study["tracks"] = list(TRACKS[: settings.episodes])
        driven = drive_all_ways(settings, "on-policy", files, output)
        study["agent"] = {"driver": "agent", **summarise(driven)}
        if settings.baseline != "none":
            others = drive_all_ways(settings, settings.baseline, None, None)
            study["baseline"] = {"driver": f"{settings.baseline} driver", **summarise(others)}
        draw_curvature(output / "lost_by_curvature.png", study)
        draw_pushes(output / "pushes.png", study)
        temperature = read_header(files.controller).settings.get("temperature", 1.0)
        study["dreams"] = compare_dreams(settings, agent, driven[PUSHES[0]], output, temperature)
        draw_dreams(output / "dreamed_against_real.png", study["dreams"])
        write_json(output / "study.json", study)
        film(settings, agent, driven[PUSHES[0]], output)
    print(describe(study))
    print(f"{output / 'study.json'}")


def drive_all_ways(
    settings: Settings, driver: str, files: AgentFiles | None, output: Path | None
) -> dict[Push, list[Trace]]:
    """One driver on all tracks under every push; the undisturbed episodes go to `output`."""
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
        trials += [Trial(group, push) for group in batch_tasks(tasks, settings.workers)]
    traces: dict[Push, list[Trace]] = {push: [] for push in PUSHES}
    with progress(len(PUSHES) * settings.episodes, "episode", label=driver) as bar:
        for trial, done in run_tasks(run_trial, trials, min(settings.workers, len(trials))):
            traces[trial.push] += done
            bar.update(len(done))
    return {push: sorted(done, key=lambda t: t.outcome.track) for push, done in traces.items()}


def episode_path(output: Path, track: int) -> Path:
    """Where an undisturbed episode is kept."""
    return output / "episodes" / f"{track}.npz"


def summarise(driven: dict[Push, list[Trace]]) -> dict[str, Any]:
    """What one driver's drives say: scores, causes of lost points, curvature, pushes."""
    plain = driven[Push()]
    causes = [points_lost(trace) for trace in plain]
    return {
        "scores": [trace.outcome.score for trace in plain],
        "mean": float(np.mean([trace.outcome.score for trace in plain])),
        "finished": [trace.outcome.lap_finished for trace in plain],
        "points_lost": {
            cause: float(np.mean([lost[cause] for lost in causes])) for cause in causes[0]
        },
        "curvature": by_curvature(plain),
        "lost": losses(plain),
        "pushes": [after_pushes(traces, push) for push, traces in driven.items()],
    }


def compare_dreams(
    settings: Settings, agent: Agent, plain: Sequence[Trace], output: Path, temperature: float
) -> dict[str, Any]:
    """Dreamed against real returns from the same moments, z and memory of the agent's drives."""
    rows: list[dict[str, Any]] = []
    starts = []
    rng = np.random.default_rng(settings.seed)
    for trace in plain:
        episode = read_episode(episode_path(output, trace.outcome.track))
        steps = len(episode.actions)
        moments = moments_to_dream_from(trace, episode, settings.moments, settings.horizon, rng)
        # Padded to one length: one compilation. What comes after a moment does not matter to it.
        padding = ((0, settings.max_steps - steps), (0, 0))
        frames = np.pad(episode.frames[:-1], (*padding, (0, 0), (0, 0)))
        z, actions = encode_frames(agent.vae, frames), np.pad(episode.actions, padding)
        starts.append(dream_states_at(agent.rnn, z, actions, moments))
        for step in moments.tolist():
            real, lost = real_return(episode, step, settings.horizon)
            rows.append({"track": trace.outcome.track, "step": step, "real": real, "lost": lost})
    together = jax.tree.map(lambda *x: jnp.concatenate(x), *starts)
    dream = (settings.dreams, settings.horizon, temperature)
    for name, rnn in (("dreamed", agent.rnn), ("dreamed_unending", unending(agent.rnn))):
        key = jax.random.key(settings.seed)  # the same dreams: z does not depend on the end head
        returns = dreamed_returns(rnn, agent.controller, together, key, *dream).mean(axis=1)
        for row, value in zip(rows, returns.tolist(), strict=True):
            row[name] = value
    return {**figures_of(rows), "temperature": temperature, "moments": rows}


def film(settings: Settings, agent: Agent, plain: Sequence[Trace], output: Path) -> None:
    """Film the drive with the median score: neither the best nor the worst."""
    median = sorted(plain, key=lambda trace: trace.outcome.score)[len(plain) // 2]
    episode = read_episode(episode_path(output, median.outcome.track))
    shown = replay(agent.vae, agent.rnn, episode, settings.film_from)
    write_webp(output / "film.webp", episode, shown, settings.film_seconds)


def describe(study: dict[str, Any]) -> str:
    """Some lines of results."""
    agent = study["agent"]
    causes = ", ".join(f"{name} {lost:.0f}" for name, lost in agent["points_lost"].items())
    lines = [f"score {agent['mean']:.0f} on {len(agent['scores'])} tracks; points lost: {causes}"]
    for row in agent["pushes"]:
        push = Push(row["kind"], row["strength"])
        lines.append(f"{push}: drives on after {row['returned']} of {row['pushes']}")
    dreams = study["dreams"]
    if dreams["optimism"] is not None:
        lines.append(f"dreamed − real return: {dreams['optimism']:+.0f} points")
    return "\n".join(lines)


if __name__ == "__main__":
    runtime.run(main, parse(Settings, __doc__, PRESETS))
