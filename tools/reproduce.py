"""Train an agent from nothing by the whole recipe, and test it on 100 test tracks.

    python -m tools.reproduce --seed 1 --data-dir data/seed-1 --run-dir runs/seed-1
    python -m tools.reproduce --drivers own --data-dir data/own --run-dir runs/own

Collects episodes, trains V and M, evolves C and does --rounds rounds of Sim2Real2Sim. The drives
that choose among the controllers of a round are kept as episodes for the next round. Validation
tracks choose the agent among the best controllers of all rounds. With --drivers own, the first
episodes are random driving and no script that reads the track is used.

Over 300 lines: the recipe, its sizes and its report are one page to read.

Rerun the same command to resume. Writes the agent and its evaluation to --run-dir, every round's
agent to rounds/, and the finished stages and a report to reproduce/. Takes some hours on 2 CPU
cores.
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import collect_data
import process_data
import run_vae_training
import test_agent
import train_dream
import train_rnn
from tools import iterate
from tools.iterate import run_script, where
from tools.rounds import METRICS_NAME, plot_run
from utils import runtime
from utils.data.episodes import EPISODE_SCHEMA, scan_files
from utils.data.splits import TEST
from utils.errors import UserError
from utils.io import checkpoints
from utils.io.files import locked, write_atomically, write_json
from utils.io.records import Metrics, read_metrics, read_records
from utils.io.run_folder import AgentFiles, copy_agent
from utils.io.tracking import TrackingSettings
from utils.runtime import format_number
from utils.search.selection import finalists, mean_score, scored_means, select_on_real_tracks
from utils.settings import PRESET_NAMES, DrivingSettings, parse, setting
from utils.sim.workers import kept_workers


@dataclass(frozen=True)
class Settings(TrackingSettings, DrivingSettings):
    """The flags of this command."""

    drivers: str = setting(
        "scripted",
        "who drives the first episodes: mostly a script that reads the track, or only the agent "
        "itself after random driving",
        choices=("scripted", "own"),
    )
    sizes: str = setting(
        "laptop", "preset of V, M and C; --preset sets it, too", choices=PRESET_NAMES
    )
    random_episodes: int = setting(48, "episodes of random driving", minimum=1)
    recovery_episodes: int = setting(180, "scripted episodes with pushes", minimum=0)
    aggressive_episodes: int = setting(60, "scripted episodes, too fast", minimum=0)
    own_random_episodes: int = setting(
        160, "with --drivers own: episodes of random driving", minimum=1
    )
    iterative_episodes: int = setting(
        20, "episodes per round of the agent with exploration noise", minimum=0
    )
    rounds: int = setting(4, "rounds of Sim2Real2Sim", minimum=0)
    round_tracks: int = setting(
        20, "tracks that the best controllers of a round drive; all drive the first 8", minimum=1
    )
    real_validation: bool = setting(
        True, "choose controllers and rounds by real drives; otherwise by the dream, the last round"
    )
    choice_tracks: int = setting(
        80,
        "validation tracks that the best finalists of all rounds drive; 0: the last round's agent",
        minimum=0,
    )
    first_track: int = setting(TEST.start, "first test track", minimum=0, maximum=2**32 - 1)
    test_tracks: int = setting(100, "test tracks", minimum=1)


PRESETS: dict[str, dict[str, Any]] = {
    "quick": {
        "sizes": "quick",
        "random_episodes": 16,
        "recovery_episodes": 64,
        "aggressive_episodes": 24,
        "own_random_episodes": 80,
        "iterative_episodes": 4,
        "rounds": 3,
        "round_tracks": 20,
        "choice_tracks": 16,
        "test_tracks": 8,
    },
    "paper": {
        "sizes": "paper",
        "random_episodes": 2000,
        "recovery_episodes": 6000,
        "aggressive_episodes": 2000,
        "own_random_episodes": 10_000,
        "iterative_episodes": 100,
        "rounds": 10,
    },
}
# Settings that do not change the result.
FREE = ("data_dir", "run_dir", "debug", "workers", "dask", "track")
# Minutes of each stage on 2 CPU cores, to estimate the time left. "first" is of --drivers own.
MINUTES = {
    "laptop": {
        **{"random": 0.7, "recovery": 2.5, "aggressive": 0.8, "iterative": 1.0},
        **{"V": 13.0, "encoding": 2.5, "M": 15.0, "C": 8.0, "round": 14.0},
        **{"score": 0.5, "choice": 6.0, "test": 1.5},
    },
    "quick": {
        **{"random": 0.2, "recovery": 0.3, "aggressive": 0.1, "iterative": 0.1},
        **{"V": 2.3, "encoding": 0.5, "M": 1.0, "C": 0.6, "round": 3.0},
        **{"score": 0.2, "choice": 0.3, "test": 0.1},
    },
}


def minutes_of(sizes: str, name: str) -> float:
    """The expected minutes of a stage. Other sizes have no table of their own."""
    return MINUTES.get(sizes, MINUTES["laptop"])[name]


class Stage(NamedTuple):
    """A part of the recipe. It resumes by itself if it is interrupted."""

    name: str
    minutes: float  # as expected, on 2 CPU cores
    run: Callable[[], None]


def main(settings: Settings) -> None:
    """Run the stages that are not finished, then report."""
    folder = settings.run_dir / "reproduce"
    path = folder / "stages.jsonl"
    missing: test_agent.MissingMediaError | None = None
    with locked(folder), kept_workers():
        begin(settings, path)
        recipe = stages(settings)
        for number, stage in enumerate(recipe):
            finished = finished_stages(path)
            if stage.name not in finished:
                print(f"\n{progress_line(recipe, number, finished)}", flush=True)
                try:
                    run_stage(stage, path)
                except test_agent.MissingMediaError as error:  # the report has all but the film
                    missing = error
        report = summary(settings, finished_stages(path))
        write_json(folder / "report.json", report)
        plot_run(settings.run_dir)
        print(f"\n{describe_report(report)}\n{folder / 'report.json'}")
    if missing:
        raise missing


def begin(settings: Settings, path: Path) -> None:
    """Record the settings. Raises UserError if the folders hold anything but this run."""
    values = compared(settings)
    records = read_records(path)
    if not records:
        for used in (settings.data_dir / "rollouts", settings.run_dir / "vae.eqx"):
            if used.exists():
                raise UserError(f"{used} exists: choose a new --data-dir and --run-dir")
        add_record(path, {"settings": values})
    elif records[0].get("settings") != values:
        raise UserError(f"{path} has a run with other settings: choose another --run-dir")


def compared(settings: Settings) -> dict[str, Any]:
    """The settings that may change the result."""
    return {name: value for name, value in asdict(settings).items() if name not in FREE}


def finished_stages(path: Path) -> dict[str, float]:
    """The finished stages, and the seconds that each took with its interrupted attempts."""
    seconds: dict[str, float] = {}
    records = read_records(path)[1:]
    for record in records:
        seconds[record["stage"]] = seconds.get(record["stage"], 0.0) + record["seconds"]
    return {record["stage"]: seconds[record["stage"]] for record in records if record["done"]}


def run_stage(stage: Stage, path: Path) -> None:
    """Run a stage and record it, also if it is interrupted."""
    start, done = time.monotonic(), False
    try:
        stage.run()
        done = True
    except test_agent.MissingMediaError:
        done = True
        raise
    finally:
        seconds = round(time.monotonic() - start, 1)
        add_record(path, {"stage": stage.name, "seconds": seconds, "done": done})


def add_record(path: Path, record: dict[str, Any]) -> None:
    """Add a record atomically: after half a line, V would be trained on the rounds' episodes."""
    lines = "".join(json.dumps(entry) + "\n" for entry in [*read_records(path), record])
    write_atomically(path, lambda file: file.write(lines.encode()))


def progress_line(recipe: list[Stage], number: int, finished: Mapping[str, float]) -> str:
    """Where the command stands, and how long it still takes at its pace so far."""
    spent = sum(finished.values()) / 60
    expected = sum(stage.minutes for stage in recipe if stage.name in finished)
    pace = spent / expected if expected else 1.0
    left = pace * sum(stage.minutes for stage in recipe if stage.name not in finished)
    return (
        f"stage {number + 1} of {len(recipe)}, {recipe[number].name}: {spent:.0f} minutes so far, "
        f"about {left:.0f} left"
    )


def stages(settings: Settings) -> list[Stage]:
    """The recipe, in order."""
    minutes = partial(minutes_of, settings.sizes)
    rounds = [
        Stage(
            f"round {number}",
            minutes("round" if number else "score"),
            partial(run_rounds, settings, number),
        )
        for number in range(settings.rounds + 1)
    ]
    last = [Stage("test", minutes("test"), partial(test, settings))]
    if settings.real_validation and settings.choice_tracks:
        last.insert(0, Stage("choice", minutes("choice"), partial(choose_agent, settings)))
    if settings.drivers == "own":
        return [
            collection(settings, "random", settings.own_random_episodes),
            *training(settings, "quick", "first "),
            collection(settings, "iterative", settings.own_random_episodes // 4),
            *training(settings, settings.sizes, fresh=True),
            *rounds,
            *last,
        ]
    return [
        collection(settings, "random", settings.random_episodes),
        collection(settings, "recovery", settings.recovery_episodes),
        collection(settings, "aggressive", settings.aggressive_episodes),
        *training(settings, settings.sizes),
        *rounds,
        *last,
    ]


def collection(settings: Settings, mode: str, episodes: int) -> Stage:
    """Collect episodes of one mode."""
    flags = {"mode": mode, "episodes": episodes, **where(settings)}
    drive = partial(run_script, settings, collect_data, **flags)
    return Stage(mode, minutes_of(settings.sizes, mode), drive)


def training(settings: Settings, sizes: str, prefix: str = "", fresh: bool = False) -> list[Stage]:
    """Train V, encode, train M and evolve C with the presets `sizes`."""

    def stage(name: str, script: ModuleType, **flags: Any) -> Stage:
        values = {**script.PRESETS.get(sizes, {}), **flags}
        train = partial(run_script, settings, script, **values)
        return Stage(prefix + name, minutes_of(sizes, name), train)

    search = {
        "record": settings.real_validation,
        "real_validation": settings.real_validation,
        "validation_tracks": settings.round_tracks,
        **where(settings),
    }
    # M and C begin from scratch whenever V has changed.
    return [
        stage("V", run_vae_training, fresh=fresh, track=settings.track),
        stage("encoding", process_data),
        stage("M", train_rnn, track=settings.track),
        stage("C", train_dream, track=settings.track, **search),
    ]


def run_rounds(settings: Settings, number: int) -> None:
    """Rounds of Sim2Real2Sim up to this one. Round 0 scores the first agent."""
    own = 0 if settings.real_validation else 3 * settings.iterative_episodes
    run_script(
        settings,
        iterate,
        rounds=number,
        on_policy_episodes=own,
        iterative_episodes=settings.iterative_episodes,
        **where(settings),
        track=settings.track,
    )


def choose_agent(settings: Settings) -> None:
    """Choose among the finalists of all rounds, and write the best agent to the run folder.

    A finalist keeps the drives that chose it in its round.
    """
    path = settings.run_dir / "controller.metrics.jsonl"
    begun = sorted({record["first"] for record in read_metrics(path)})
    agents, before, found = dict[int, AgentFiles](), dict[int, dict[str, list]](), {}
    for number, first in enumerate(begun):
        files = AgentFiles.of_run(settings.run_dir / "rounds" / f"{number}")
        for step, drives in finalists(path, first).items():
            agents[step] = replace(files, controller=train_dream.snapshot(settings.run_dir, step))
            before[step], found[step] = drives, (number, first)
    metrics = Metrics(choice_path(settings), max(agents))
    best, drives = select_on_real_tracks(
        *(agents, settings.choice_tracks, metrics, 0, "fast", settings.drive_on), before=before
    )
    number, first = found[best]
    copy_agent(settings.run_dir / "rounds" / f"{number}", settings.run_dir)
    final = settings.run_dir / "controller.eqx"
    header, _ = checkpoints.load_controller(final)
    header.progress["chosen"] |= {
        "step": best,
        "real": mean_score(drives),
        "lost": sum(drives["lost"]),
        "dream_score": scored_means(path, first)[best],
    }
    checkpoints.save(final, header, checkpoints.load_controller(agents[best].controller)[1])
    print(f"round {number}, generation {best} is the best")


def choice_path(settings: Settings) -> Path:
    """The metrics file of the choice among the finalists of all rounds."""
    return settings.run_dir / "reproduce" / "choice.metrics.jsonl"


def test(settings: Settings) -> None:
    """Drive the test tracks."""
    run_script(
        settings,
        test_agent,
        first_track=settings.first_track,
        episodes=settings.test_tracks,
        **where(settings),
    )


def summary(settings: Settings, seconds: Mapping[str, float]) -> dict[str, Any]:
    """The report: the evaluation, real frames by use, and minutes by stage."""
    evaluation = json.loads((settings.run_dir / "evaluation.json").read_text())
    frames: dict[str, int] = {}
    for entry in scan_files(settings.data_dir / "rollouts", EPISODE_SCHEMA):
        frames[entry.mode] = frames.get(entry.mode, 0) + entry.steps
    for use, path in {
        "scores of the rounds": settings.run_dir / METRICS_NAME,
        "choice": choice_path(settings),
    }.items():
        frames[use] = sum(sum(record["steps"]) for record in read_metrics(path))
    return {
        "settings": compared(settings),
        "evaluation": evaluation,
        "lap_steps": iterate.mean_lap_steps(evaluation),
        "frames": {**frames, "all": sum(frames.values()), "test": sum(evaluation["steps"])},
        "minutes": {name: round(value / 60, 1) for name, value in seconds.items()},
    }


def describe_report(report: Mapping[str, Any]) -> str:
    """The report for a terminal."""
    frames = ", ".join(f"{name} {number:,}" for name, number in report["frames"].items())
    minutes = ", ".join(f"{name} {number:g}" for name, number in report["minutes"].items())
    return (
        f"{test_agent.describe('the agent', report['evaluation'])}\n"
        f"steps of a finished lap: {format_number(report['lap_steps'], '.0f')}\n"
        f"real frames: {frames}\n"
        f"minutes: {minutes}; all {sum(report['minutes'].values()):.0f}"
    )


if __name__ == "__main__":
    runtime.run(main, parse(Settings, __doc__, PRESETS))
