"""Run rounds of Sim2Real2Sim: collect with the agent, retrain M and C, and score the new agent.

    python -m tools.iterate --rounds 3
    python -m tools.iterate --preset quick --data-dir data/quick --run-dir runs/quick --rounds 2

In each round the agent of --run-dir drives new tracks, with and without exploration noise. The new
episodes are encoded, M continues from its weights and C from its last mean, each with the settings
of its training. The new agent is then scored on validation tracks of its own.

Writes rounds.metrics.jsonl and rounds.png to --run-dir, and the agent of each round with its
evaluation.json to rounds/<number>, a run folder too. --rounds is a total. Rerun the same command to
resume after an interruption.
"""

import json
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import collect_data
import process_data
import test_agent
import train_dream
import train_rnn
from tools.rounds import METRICS_NAME, plot_run
from utils import runtime
from utils.data.splits import VALIDATION
from utils.io.checkpoints import read_header
from utils.io.files import locked, write_json
from utils.io.records import Metrics, read_metrics
from utils.io.run_folder import AgentFiles, copy_agent, find_agent
from utils.io.tracking import TrackingSettings
from utils.runtime import format_number
from utils.settings import DrivingSettings, parse, restore_settings, setting
from utils.sim.workers import kept_workers

SCORE_TRACKS = VALIDATION[10_000:]  # train_dream.py selects on the first ones


@dataclass(frozen=True)
class Settings(TrackingSettings, DrivingSettings):
    """The flags of this script."""

    rounds: int = setting(3, "total number of rounds, finished ones included", minimum=1)
    on_policy_episodes: int = setting(40, "episodes per round without exploration noise", minimum=0)
    iterative_episodes: int = setting(20, "episodes per round with exploration noise", minimum=0)
    score_tracks: int = setting(16, "validation tracks per round to score the agent on", minimum=1)


PRESETS: dict[str, dict[str, Any]] = {
    "quick": {"on_policy_episodes": 8, "iterative_episodes": 4, "score_tracks": 8},
    "paper": {"on_policy_episodes": 200, "iterative_episodes": 100, "score_tracks": 32},
}


def main(settings: Settings) -> None:
    """Run the rounds that are not finished."""
    find_agent(settings.run_dir, "tools.iterate")
    # The scripts lock the run folder themselves.
    with locked(settings.run_dir / "rounds"), kept_workers():
        metrics = Metrics(settings.run_dir / METRICS_NAME, settings.rounds)
        done = [record["step"] for record in read_metrics(metrics.path)]
        if not done:
            metrics.append(**score(settings, 0))
        for number in range(max(done, default=0) + 1, settings.rounds + 1):
            print(f"\nround {number} of {settings.rounds}", flush=True)
            run_round(settings, number)
            metrics.append(**score(settings, number))
        report(settings, read_metrics(metrics.path))


def run_round(settings: Settings, number: int) -> None:
    """Collect with the agent that the round started with, then continue M and C."""
    agent = AgentFiles.of_run(settings.run_dir)
    started = settings.run_dir / "rounds" / f"{number}" / "agent.json"
    if not started.exists():
        write_json(started, agent.sha256())
    rnn = read_header(agent.rnn)
    learning = restore_settings(rnn.settings, train_rnn.Settings, agent.rnn, rnn.sizes)
    # Once M is retrained that agent no longer exists, and its episodes are complete.
    if agent.sha256() == json.loads(started.read_text()):
        episodes = {
            "on-policy": settings.on_policy_episodes,
            "iterative": settings.iterative_episodes,
        }
        for mode, count in episodes.items():
            flags = {"episodes": count, **where(settings)}
            if count:
                run_script(settings, collect_data, mode=mode, **flags)
        run_script(settings, process_data, mirror=train_rnn.Settings(**learning).mirror)
    recorded = read_header(agent.controller).settings
    evolution = restore_settings(recorded, train_dream.Settings, agent.controller)
    # A run that began before there was a second M goes on without it.
    learning["dream_rnn"] = evolution.setdefault("dream_rnn", False)
    run_script(settings, train_rnn, **learning, track=settings.track)
    flags = {**where(settings), "track": settings.track}
    run_script(settings, train_dream, **evolution, **flags)


def score(settings: Settings, number: int) -> dict[str, Any]:
    """Keep and score the agent of a round. Returns the round's metrics."""
    folder = settings.run_dir / "rounds" / f"{number}"
    copy_agent(settings.run_dir, folder)
    run_script(
        settings,
        test_agent,
        first_track=SCORE_TRACKS[0],
        episodes=settings.score_tracks,
        output_dir=folder,
        **where(settings),
        videos=0,
    )
    evaluation = json.loads((folder / "evaluation.json").read_text())
    low, high = evaluation["interval"]
    chosen = read_header(settings.run_dir / "controller.eqx").progress.get("chosen", {})
    return {
        "step": number,
        "dream_score": chosen.get("dream_score"),
        "mean": evaluation["mean"],
        "low": low,
        "high": high,
        "scores": evaluation["scores"],
        "steps": evaluation["steps"],
        "lap_steps": mean_lap_steps(evaluation),
        "lost": sum(evaluation["lost"]),
        "agent": evaluation["agent"],
    }


def mean_lap_steps(evaluation: dict[str, Any]) -> float | None:
    """Mean steps of the finished laps; None without one."""
    laps = [s for s, done in zip(evaluation["steps"], evaluation["finished"], strict=True) if done]
    return sum(laps) / len(laps) if laps else None


def run_script(settings: Settings, script: ModuleType, **values: Any) -> None:
    """Run a script of the pipeline with these settings and defaults for the others."""
    print(f"\n{script.__name__}.py", flush=True)
    common = {"data_dir": settings.data_dir, "run_dir": settings.run_dir, "seed": settings.seed}
    script.main(script.Settings(**{**common, **values}))


def where(settings: DrivingSettings) -> dict[str, Any]:
    """The flags that say where real drives run."""
    return {"workers": settings.workers, "dask": settings.dask}


def report(settings: Settings, records: list[dict[str, Any]]) -> None:
    """Draw and print the score of each round."""
    plot_run(settings.run_dir)
    for record in records:
        print(
            f"round {record['step']}: {record['mean']:.0f} "
            f"({format_number(record['low'], '.0f')} … {format_number(record['high'], '.0f')}) "
            f"on {len(record['scores'])} validation tracks, {record['lost']} lost"
        )


if __name__ == "__main__":
    runtime.run(main, parse(Settings, __doc__, PRESETS))
