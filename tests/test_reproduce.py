"""The whole recipe in one command: what it does in which order, its report, and that it resumes."""

import json
import shutil
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import collect_data
import run_vae_training
import test_agent
import train_dream
import train_rnn
from tools import reproduce
from tools.reproduce import Settings, finished_stages, progress_line, stages
from utils.data.episodes import EPISODE_SCHEMA, scan_files
from utils.data.splits import SELECTION
from utils.errors import UserError
from utils.io.checkpoints import load_controller
from utils.io.files import sha256_of
from utils.io.records import TIMES_NAME, read_metrics
from utils.search import selection

TINY: dict[Any, dict[str, Any]] = {
    run_vae_training: {"steps": 4, "continue_steps": 4, "batch": 4, "evaluate_every": 2},
    train_rnn: {
        **{"steps": 6, "continue_steps": 4, "lanes": 2, "window": 8, "evaluate_every": 3},
        "mirror": False,  # as in the quick preset
    },
    train_dream: {
        **{"searches": 1, "continue_searches": 1, "generations": 2, "continue_generations": 2},
        **{"candidates": 4, "dreams": 2, "horizon": 5, "save_mean_every": 2},
    },
}
STEPS = 30  # of an episode


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """The quick preset with sizes that take seconds."""
    for script, sizes in TINY.items():
        monkeypatch.setitem(script.PRESETS, "quick", sizes)
    monkeypatch.setattr(selection, "MAX_STEPS", STEPS)
    monkeypatch.setattr(test_agent, "MAX_STEPS", STEPS)
    settings = collect_data.Settings

    def short(**values: Any) -> collect_data.Settings:
        return settings(**{"max_steps": STEPS, **values})

    monkeypatch.setattr(collect_data, "Settings", short)


def settings(folder: Path, **values: Any) -> Settings:
    sizes = {"sizes": "quick", "random_episodes": 2, "recovery_episodes": 3}
    sizes |= {"aggressive_episodes": 1, "own_random_episodes": 4, "iterative_episodes": 1}
    sizes |= {"rounds": 1, "round_tracks": 1, "choice_tracks": 1, "test_tracks": 2, "workers": 1}
    return Settings(data_dir=folder / "data", run_dir=folder / "run", **{**sizes, **values})


def content(folder: Path) -> dict[str, str]:
    """The sha256 of every result."""
    names = ("*.eqx", "*.metrics.jsonl", "evaluation.json", "data/**/*.npz")
    paths = [path for name in names for path in folder.rglob(name)]
    return {str(path.relative_to(folder)): sha256_of(path) for path in sorted(paths)}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipe, never interrupted."""
    with pytest.MonkeyPatch.context() as patch:
        tiny.__wrapped__(patch)
        folder = tmp_path_factory.mktemp("made")
        reproduce.main(settings(folder))
    return folder


def test_the_report_counts_every_real_frame(made: Path) -> None:
    report = json.loads((made / "run/reproduce/report.json").read_text())
    entries = scan_files(made / "data/rollouts", EPISODE_SCHEMA)
    frames = report["frames"]
    for mode in ("random", "recovery", "aggressive", "iterative", "on-policy"):
        assert frames[mode] == sum(entry.steps for entry in entries if entry.mode == mode) > 0
    scores = read_metrics(made / "run/rounds.metrics.jsonl")
    assert [record["step"] for record in scores] == [0, 1]
    assert frames["scores of the rounds"] == sum(sum(record["steps"]) for record in scores)
    choice = read_metrics(made / "run/reproduce/choice.metrics.jsonl")
    assert frames["choice"] == sum(sum(record["steps"]) for record in choice) == 3 * STEPS
    assert frames["all"] == sum(n for use, n in frames.items() if use not in ("all", "test"))
    evaluation = json.loads((made / "run/evaluation.json").read_text())
    assert frames["test"] == sum(evaluation["steps"]) == 2 * STEPS
    assert report["evaluation"] == evaluation
    assert f"{evaluation['mean']:.1f} ± " in reproduce.describe_report(report)


def test_drives_that_choose_become_episodes_for_the_next_round(made: Path) -> None:
    tracks = [int(path.stem) for path in (made / "data/rollouts/on-policy").glob("*.npz")]
    # One mean after the first search; in the round one more, which has to beat it.
    assert sorted(tracks) == list(SELECTION[:3])
    latents = [int(path.stem) for path in (made / "data/latents/on-policy").glob("*.npz")]
    assert latents == [SELECTION[0]]  # the others wait for another round


def test_the_best_finalist_of_all_rounds_is_in_the_run_folder(made: Path) -> None:
    run = made / "run"
    drives: dict[int, list[float]] = {}
    firsts: dict[int, int] = {}
    for record in read_metrics(run / "controller.metrics.jsonl"):
        if "stage" in record:
            firsts[record["step"]] = record["first"]
            drives.setdefault(record["step"], []).extend(record["scores"])
    # One search of 2 generations, and another one; a new mean has to beat the last controller.
    assert firsts == {2: 0, 4: 2, 5: 2}
    for record in read_metrics(run / "reproduce/choice.metrics.jsonl"):
        drives[record["step"]].extend(record["scores"])
    assert [len(scores) for scores in drives.values()] == [2, 2, 2]
    best = max(drives, key=lambda step: np.mean(drives[step]))
    for name in ("vae.eqx", "rnn.eqx", "starts.eqx"):
        expected = run / f"rounds/{sorted(set(firsts.values())).index(firsts[best])}" / name
        assert (run / name).read_bytes() == expected.read_bytes()
    header, controller = load_controller(run / "controller.eqx")
    saved = load_controller(run / f"snapshots/{best:06d}.eqx")[1]
    np.testing.assert_array_equal(controller.weight, saved.weight)
    chosen = header.progress["chosen"]
    assert chosen["step"] == best and chosen["real"] == pytest.approx(np.mean(drives[best]))


@pytest.mark.parametrize(("best", "number"), [(2, 0), (4, 1), (5, 1)])
def test_a_finalist_is_chosen_with_the_v_and_m_of_its_round(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, best: int, number: int
) -> None:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    run, given = tmp_path / "run", dict[str, Any]()

    def choose(agents: dict, *_: Any, before: dict) -> tuple[int, dict[str, list]]:
        given.update(agents=agents, before=before)
        return best, {"scores": [7.0, 9.0], "lost": [True, False]}

    monkeypatch.setattr(reproduce, "select_on_real_tracks", choose)
    reproduce.choose_agent(settings(tmp_path))
    driven = [r for r in read_metrics(run / "controller.metrics.jsonl") if "stage" in r]
    assert {step: drives["scores"] for step, drives in given["before"].items()} == {
        record["step"]: record["scores"] for record in driven
    }
    kept = run / "rounds" / f"{number}"
    assert given["agents"][best].rnn == kept / "rnn.eqx"
    for name in ("vae.eqx", "rnn.eqx", "starts.eqx"):
        assert (run / name).read_bytes() == (kept / name).read_bytes()
    header, controller = load_controller(run / "controller.eqx")
    saved = load_controller(run / f"snapshots/{best:06d}.eqx")[1]
    np.testing.assert_array_equal(controller.weight, saved.weight)
    assert header.inputs["rnn"] == sha256_of(kept / "rnn.eqx")
    chosen = header.progress["chosen"]
    assert (chosen["step"], chosen["real"], chosen["lost"]) == (best, 8, 1)


def test_a_run_killed_at_three_stages_resumes_to_the_same_bytes(
    tiny: None, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_stage, killed = reproduce.run_stage, []

    def interrupted(stage: reproduce.Stage, path: Path) -> None:
        run_stage(stage, path)
        if stage.name in ("M", "round 1", "choice") and stage.name not in killed:
            killed.append(stage.name)
            lines = path.read_text().splitlines(keepends=True)
            path.write_text("".join(lines[:-1]))  # as if killed before the last record
            raise KeyboardInterrupt

    monkeypatch.setattr(reproduce, "run_stage", interrupted)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            reproduce.main(settings(tmp_path))
    reproduce.main(settings(tmp_path))
    assert killed == ["M", "round 1", "choice"]
    assert content(tmp_path) == content(made)


def test_a_finished_run_does_nothing_again(tiny: None, made: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*.eqx")}
    times = (made / "run" / TIMES_NAME).read_bytes()
    reproduce.main(settings(made))
    assert {path: path.stat().st_mtime_ns for path in made.rglob("*.eqx")} == before
    assert (made / "run" / TIMES_NAME).read_bytes() == times


def test_folders_with_anything_else_are_refused(made: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="other settings"):
        reproduce.main(settings(made, rounds=2))
    (tmp_path / "data/rollouts").mkdir(parents=True)
    with pytest.raises(UserError, match="choose a new --data-dir"):
        reproduce.main(settings(tmp_path))


def calls(recipe: list[reproduce.Stage], name: str) -> list[dict[str, Any]]:
    """The flags with which the stages of this recipe run a script."""
    runs = [stage.run for stage in recipe if isinstance(stage.run, partial)]
    scripts = [run for run in runs if isinstance(run.args[-1], ModuleType)]
    return [run.keywords for run in scripts if run.args[-1].__name__ == name]


def test_own_drivers_use_no_script_that_reads_the_track(tmp_path: Path) -> None:
    recipe = stages(settings(tmp_path, drivers="own"))
    assert [stage.name for stage in recipe] == [
        *("random", "first V", "first encoding", "first M", "first C", "iterative"),
        *("V", "encoding", "M", "C", "round 0", "round 1", "choice", "test"),
    ]
    assert [flags["mode"] for flags in calls(recipe, "collect_data")] == ["random", "iterative"]
    # V begins anew with the agent's own drives. M and C do, since V has changed.
    assert [flags["fresh"] for flags in calls(recipe, "run_vae_training")] == [False, True]


def test_without_real_validation_no_drive_chooses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = stages(settings(tmp_path, real_validation=False))
    assert "choice" not in [stage.name for stage in recipe]
    (flags,) = calls(recipe, "train_dream")
    assert not flags["real_validation"] and not flags["record"]
    rounds: list[dict[str, Any]] = []
    monkeypatch.setattr(reproduce, "run_script", lambda *_, **flags: rounds.append(flags))
    recipe[-2].run()
    # Nothing is recorded by a choice, so that the agent drives for M instead.
    assert rounds[0]["on_policy_episodes"] == 3 * rounds[0]["iterative_episodes"] > 0


def test_the_time_left_follows_the_pace_so_far(tmp_path: Path) -> None:
    recipe = stages(settings(tmp_path))
    done = {stage.name: 120 * stage.minutes for stage in recipe[:5]}  # half as fast as planned
    spent = sum(stage.minutes for stage in recipe[:5]) * 2
    left = sum(stage.minutes for stage in recipe[5:]) * 2
    expected = f"{spent:.0f} minutes so far, about {left:.0f} left"
    assert progress_line(recipe, 5, done) == f"stage 6 of {len(recipe)}, M: {expected}"


def test_half_a_line_of_a_power_cut_hides_no_later_stage(tmp_path: Path) -> None:
    path = tmp_path / "stages.jsonl"
    path.write_text('{"settings": {}}\n{"stage": "V", "seco')
    reproduce.add_record(path, {"stage": "V", "seconds": 5.0, "done": True})
    assert finished_stages(path) == {"V": 5.0}


def test_a_stage_counts_its_interrupted_attempts(tmp_path: Path) -> None:
    path = tmp_path / "stages.jsonl"
    records = [
        {"settings": {}},
        {"stage": "V", "seconds": 10.0, "done": False},
        {"stage": "V", "seconds": 5.0, "done": True},
        {"stage": "M", "seconds": 7.0, "done": False},
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    assert finished_stages(path) == {"V": 15.0}


def test_without_ffmpeg_only_the_film_is_missing(
    tiny: None, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(made, folder)
    stages_path, report = (
        folder / "run/reproduce" / name for name in ("stages.jsonl", "report.json")
    )
    lines = stages_path.read_text().splitlines(keepends=True)
    assert json.loads(lines[-1])["stage"] == "test"
    stages_path.write_text("".join(lines[:-1]))
    report.unlink()
    film = next((folder / "run").glob("*.mp4"))
    film.unlink()
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "/nowhere/ffmpeg")
    with pytest.raises(UserError, match="cannot start ffmpeg"):
        reproduce.main(settings(folder))
    assert json.loads(report.read_text())["evaluation"]["scores"] and not film.exists()
    reproduce.main(settings(folder))  # finished: nothing is driven again
    assert not film.exists()
