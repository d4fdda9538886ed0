"""Every tool starts as `python -m tools.NAME` and says so; every make target quotes its paths."""

import itertools
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.time_to_score.pipeline import COMMANDS
from tools import iterate, reproduce

ROOT = Path(__file__).parents[1]
TOOLS = sorted(
    path.stem
    for path in (ROOT / "tools").iterdir()
    if (path.suffix == ".py" and path.stem != "__init__") or (path / "__main__.py").exists()
)
TARGETS = (
    *("run", "reproduce", "iterate", "report", "dream", "site", "drive"),
    *("test", "lint", "faults", "extras", "clean"),
    *("benchmark", "benchmark-environment", "compare-environment"),
)


def test_the_tools_are_found() -> None:
    assert {"iterate", "ablate", "report", "analysis"} <= set(TOOLS)


@pytest.mark.parametrize("name", TOOLS)
def test_help_names_the_command_that_runs_it(name: str, tmp_path: Path) -> None:
    shown = subprocess.run(
        [sys.executable, "-m", f"tools.{name}", "--help"],
        cwd=tmp_path,  # any working directory will do, with the clone on PYTHONPATH
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.startswith(f"usage: python -m tools.{name} [-h]")
    assert f"\n    python -m tools.{name}" in shown.stdout  # an example to copy
    assert "__main__" not in shown.stdout


def commands_of(target: str, *variables: str, folder: Path = ROOT) -> list[list[str]]:
    """The commands of a make target, each split into words as a shell splits them."""
    command = [
        "make",
        "--no-print-directory",
        "--dry-run",
        "-f",
        str(ROOT / "Makefile"),
        target,
        *variables,
    ]
    shown = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout
    lines = shown.replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("path", ["my run", "it's $HOME; true"])
def test_make_hands_over_every_path_as_one_word(target: str, path: str) -> None:
    given = path.replace("$", "$$")  # as make wants it
    names = ("RUN_DIR", "DATA_DIR", "DREAM_RUN", "DREAM_DIR", "SITE_DIR")
    for words in commands_of(target, *(f"{name}={given}" for name in names)):
        for flag, value in itertools.pairwise(words):
            if flag in ("--run-dir", "--data-dir", "--output-dir"):
                assert value in (path, "pretrained") or value.startswith(("runs/", "data/"))


def test_make_unsets_what_hides_the_modules(tmp_path: Path) -> None:
    """With PYTHONSAFEPATH Python does not look for modules in the folder of a script."""
    fake = tmp_path / "bin" / "python"
    fake.parent.mkdir()
    fake.write_text('#!/bin/sh\necho "PYTHONSAFEPATH=${PYTHONSAFEPATH-unset}"\n')
    fake.chmod(0o755)
    (tmp_path / "installed").touch()
    shown = subprocess.run(
        ["make", "--no-print-directory", "report", f"VENV={tmp_path}"],
        cwd=ROOT,
        env={**os.environ, "PYTHONSAFEPATH": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "PYTHONSAFEPATH=unset" in shown.stdout


def test_every_target_is_tried() -> None:
    text = (ROOT / "Makefile").read_text()
    listed = text[text.index(".PHONY:") : text.index("help:")].replace("\\\n", " ").split()[1:]
    assert set(listed) == {*TARGETS, "help"}


def test_make_report_reads_the_folders_that_are_given() -> None:
    words = commands_of("report", "RUN_DIR=a b", "DATA_DIR=c")[-1]
    assert words[1:] == ["-m", "tools.report", "--data-dir", "c", "--run-dir", "a b"]


def test_make_drive_says_where_its_video_is() -> None:
    assert commands_of("drive")[-1] == ["echo", "The video is runs/drive/track_85000000.mp4"]


@pytest.mark.parametrize(("curve", "preset"), [("ours-quick", "quick"), ("ours", "laptop")])
def test_the_benchmark_runs_the_recipe(curve: str, preset: str) -> None:
    recipe = reproduce.Settings(**reproduce.PRESETS.get(preset, {}))
    flags = "" if preset == "laptop" else f" --preset {preset}"
    collected = [
        f"collect_data.py{flags} --mode {mode} --episodes {getattr(recipe, f'{mode}_episodes')}"
        for mode in ("random", "recovery", "aggressive")
    ]
    noisy = recipe.iterative_episodes
    own = "--on-policy-episodes 0"
    if noisy != iterate.Settings().iterative_episodes:
        own += f" --iterative-episodes {noisy}"
    commands = [line.strip() for line in COMMANDS[curve].strip().splitlines()]
    assert commands == [
        *collected,
        *(f"{name}.py{flags}" for name in ("run_vae_training", "process_data", "train_rnn")),
        f"train_dream.py{flags} --record --validation-tracks {recipe.round_tracks}",
        *(f"-m tools.iterate {own} --rounds {n}" for n in range(1, recipe.rounds + 1)),
    ]


def test_make_dream_takes_the_newest_agent_or_the_shipped_one(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").touch()

    def run_dir() -> str:
        words = commands_of("dream", folder=tmp_path)[-1]
        assert words[1:4] == ["-m", "tools.export_web", "--run-dir"]
        assert words[5:] == ["--output-dir", "runs/dream", "--open"]
        return words[4]

    def save(run: str, age: float) -> None:
        path = tmp_path / run / "controller.eqx"
        path.parent.mkdir(parents=True)
        path.touch()
        os.utime(path, (1e9 - age, 1e9 - age))

    assert run_dir() == "pretrained"
    for run, age in (("older", 3), ("the newest", 1), ("oldest", 5)):
        save(f"runs/{run}", age)
    assert run_dir() == "runs/the newest"
