"""Where the agent fails: study it on validation tracks that nothing was chosen by.

    python study_agent.py --episodes 32
    python study_agent.py --run-dir pretrained --output-dir runs/study --yardstick none

Reads vae.eqx, rnn.eqx and controller.eqx of --run-dir. The agent drives every track once as it is
and once under each of six pushes that it knows nothing of. Writes study.json and, to --output-dir,
lost_by_curvature.png: which parts of a track cost it points;
pushes.png:            how often it drives on after a push;
dreamed_against_real.png: what the dream promises at moments of these drives, and what came;
film.gif:              real, reconstruction and dream, for some seconds of the median drive;
and the undisturbed drives to episodes/, 1 MB each. About 10 s a track on 2 CPU cores.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from models.controller import Controller
from models.dream import CPU_ROWS, FAILURE_REWARD, DreamState, dream_return
from models.rnn import MDNRNN, mixture_noise
from utils import commandline
from utils.agent import Agent
from utils.checkpoints import read_header
from utils.commandline import CommonSettings, describe_device, progress, setting
from utils.dream_starts import ZOOM_STEPS, moments_of
from utils.driving import AgentFiles, Drive, find_agent, group_drives, versions
from utils.environment import ENVIRONMENTS, MAX_STEPS, Episode
from utils.episodes import read_episode
from utils.figures import save_figure
from utils.files import locked, timed, write_json
from utils.film import encode, replay, write_gif
from utils.latent_windows import failures
from utils.setbacks import (
    after_pushes,
    by_curvature,
    draw_curvature,
    draw_pushes,
    is_lap_driven,
    losses,
    points_lost,
)
from utils.tracks import VALIDATION
from utils.witness import WINDOW, Push, Trace, Trial, run_trial
from utils.workers import default_workers, run_tasks


@dataclass(frozen=True)
class Settings(CommonSettings):
    """The flags of this script."""

    episodes: int = setting(32, "tracks to drive, each seven times", minimum=1)
    max_steps: int = setting(MAX_STEPS, "steps of a drive", minimum=2 * WINDOW, maximum=MAX_STEPS)
    output_dir: Path | None = setting(None, "where results go, by default --run-dir")
    yardstick: str = setting(
        "scripted", "another driver on the same tracks", choices=("none", "scripted")
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
LAP_END = 10  # tiles before the end of a lap, where a dream would go on and the real road ends


def main(settings: Settings) -> None:
    """Drive, dream, draw and write everything down."""
    print(describe_device())
    output = settings.output_dir or settings.run_dir
    files = find_agent(settings.run_dir, "study_agent.py")
    agent = Agent.load(files)
    with locked(output), timed(output, "study_agent"):
        study: dict[str, Any] = {"versions": versions("jax", "equinox"), "files": files.sha256()}
        study["tracks"] = list(TRACKS[: settings.episodes])
        driven = drive_all_ways(settings, "on-policy", files, output)
        study["agent"] = {"driver": "agent", **summarise(driven)}
        if settings.yardstick != "none":
            others = drive_all_ways(settings, settings.yardstick, None, None)
            study["yardstick"] = {"driver": f"{settings.yardstick} driver", **summarise(others)}
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
            Drive(
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
        trials += [Trial(group, push) for group in group_drives(tasks, settings.workers)]
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


@eqx.filter_jit
def dreamed_returns(
    rnn: MDNRNN,
    controller: Controller,
    starts: DreamState,
    key: PRNGKeyArray,
    dreams: int,
    horizon: int,
    temperature: float,
) -> Float[Array, "moments dreams"]:
    """Dream returns in points, no step's reward limited, from `starts` (leaves (moments, ...))."""

    def of_moment(moment: tuple[DreamState, PRNGKeyArray]) -> Float[Array, " dreams"]:
        start, key = moment
        noise = mixture_noise(key, (dreams, horizon, rnn.latent))
        over_dreams = jax.vmap(dream_return, (None, None, None, 0, None))
        return over_dreams(rnn, controller, start, noise, temperature)

    keys = jax.random.split(key, starts.z.shape[0])
    return jax.lax.map(of_moment, (starts, keys), batch_size=max(1, CPU_ROWS // dreams))


def real_return(episode: Episode, step: int, horizon: int) -> tuple[float, bool]:
    """What came in `horizon` steps from `step` on, counted as the dream counts, and if it failed.

    A drive that is lost ends there, for FAILURE_REWARD: where M's end head was told so.
    """
    lost = failures(episode.rewards, episode.terminated & (not episode.lap_finished))
    lost_here = np.flatnonzero(lost[step : step + horizon])
    if not len(lost_here):
        return float(episode.rewards[step : step + horizon].sum()), False
    return float(episode.rewards[step : step + lost_here[0]].sum()) + FAILURE_REWARD, True


def moments_to_dream_from(
    trace: Trace, episode: Episode, count: int, horizon: int, rng: np.random.Generator
) -> np.ndarray:
    """Steps of a drive that is not lost yet, with `horizon` steps of the same lap to come."""
    steps, end = len(episode.rewards), len(episode.rewards)
    if is_lap_driven(trace):
        late = trace.visited[-LAP_END:]
        end = int(late[late > ZOOM_STEPS].min(initial=steps))
    elif trace.outcome.left_playfield:
        end += horizon  # nothing can come any more: that is known
    lost = failures(episode.rewards, episode.terminated & (not episode.lap_finished))
    usable = np.flatnonzero(~lost[: max(0, end - horizon + 1)])
    usable = usable[usable >= min(ZOOM_STEPS, steps // 2)]
    return np.sort(rng.choice(usable, min(count, len(usable)), replace=False))


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
        z, actions = encode(agent.vae, frames), np.pad(episode.actions, padding)
        starts.append(moments_of(agent.rnn, z, actions, moments))
        for step in moments.tolist():
            real, lost = real_return(episode, step, settings.horizon)
            rows.append({"track": trace.outcome.track, "step": step, "real": real, "lost": lost})
    together = jax.tree.map(lambda *x: jnp.concatenate(x), *starts)
    key = jax.random.key(settings.seed)
    returns = dreamed_returns(
        agent.rnn, agent.controller, together, key, settings.dreams, settings.horizon, temperature
    )
    for row, values in zip(rows, np.asarray(returns), strict=True):
        row |= {"dreamed": float(values.mean()), "spread": float(values.std())}
    return {**figures_of(rows), "temperature": temperature, "moments": rows}


def figures_of(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Rank correlation (Spearman) and mean optimism, dreamed − real, of all and by what came."""
    real, dreamed, lost = (np.array([row[k] for row in rows]) for k in ("real", "dreamed", "lost"))
    spread = len(rows) > 2 and np.ptp(real) > 0 and np.ptp(dreamed) > 0

    def optimism(which: np.ndarray) -> float | None:
        return float((dreamed - real)[which].mean()) if which.any() else None

    return {
        "rank_correlation": float(spearmanr(real, dreamed).statistic) if spread else None,
        "optimism": optimism(np.ones(len(rows), bool)),
        "optimism_lost": optimism(lost.astype(bool)),
        "optimism_not_lost": optimism(~lost.astype(bool)),
        "share_lost": float(lost.mean()) if len(rows) else None,
    }


def draw_dreams(path: Path, dreams: dict[str, Any]) -> None:
    """Dreamed against real returns, a dot for each moment, as PNG."""
    figure = Figure(figsize=(6, 5.6), layout="constrained")
    axes = figure.subplots()
    for lost, label in ((False, "the real drive went on"), (True, "the real drive was lost")):
        rows = [row for row in dreams["moments"] if row["lost"] == lost]
        real, dreamed = [row["real"] for row in rows], [row["dreamed"] for row in rows]
        axes.scatter(real, dreamed, s=16, alpha=0.6, label=f"{label} ({len(rows)})")
    low, high = axes.get_xlim()
    axes.plot([low, high], [low, high], "k--", lw=1, label="dreamed as it came")
    correlation, optimism = dreams["rank_correlation"], dreams["optimism"]
    said = "" if correlation is None else f"rank correlation {correlation:.2f}, "
    axes.set(
        xlabel="real return (points; a lost drive ends with −100)",
        ylabel="dreamed return, mean of the dreams (points)",
        title=f"From the same moments: {said}optimism {optimism or 0:+.0f}",
    )
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    save_figure(figure, path)


def film(settings: Settings, agent: Agent, plain: Sequence[Trace], output: Path) -> None:
    """Film the drive with the median score: neither the best nor the worst."""
    median = sorted(plain, key=lambda trace: trace.outcome.score)[len(plain) // 2]
    episode = read_episode(episode_path(output, median.outcome.track))
    shown = replay(agent.vae, agent.rnn, episode, settings.film_from)
    write_gif(output / "film.gif", episode, shown, settings.film_seconds)


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
    commandline.run(main, commandline.parse(Settings, __doc__, PRESETS))
