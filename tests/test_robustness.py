"""Machines that differ from the usual: a notebook's variables, missing devices, little memory."""

import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scripts import Workshop

from utils import runtime
from utils.data.episodes import Episode
from utils.errors import UserError
from utils.viz.video import Replay, write_video

ROOT = Path(__file__).parents[1]


def run_python(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process of its own, which finds the modules of this repository."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )


# --- matplotlib's variables and files -------------------------------------------------------------

PLOT = """
import sys
from dataclasses import dataclass
from pathlib import Path
from utils import runtime
from utils.settings import CommonSettings
from utils.viz.figures import plot_curves

def main(settings):
    plot_curves(Path(sys.argv[1]), [{"step": 1, "a": 2.0}, {"step": 5, "a": 1.0}], {"title": ["a"]})

runtime.run(main, CommonSettings())
"""


def test_figures_are_the_same_whatever_a_user_has_set(tmp_path: Path) -> None:
    settings = tmp_path / "matplotlibrc"
    settings.write_text("text.usetex: True\nbackend: tkagg\nlines.linewidth: 20\n")
    environments: list[dict[str, str]] = [
        {},
        {"MPLBACKEND": "module://a_package_that_is_not_installed"},
        {"MPLBACKEND": "nonsense"},
        {"MPLBACKEND": "tkagg", "MATPLOTLIBRC": str(settings)},
    ]
    figures = []
    for number, environment in enumerate(environments):
        path = tmp_path / f"{number}.png"
        done = run_python(PLOT, str(path), **environment)
        assert done.returncode == 0, done.stderr
        figures.append(path.read_bytes())
    assert figures[0][1:4] == b"PNG" and set(figures) == {figures[0]}


@pytest.mark.parametrize("module", ["test_agent", "train_rnn", "tools.report.page", "tools.ablate"])
def test_modules_are_imported_whatever_backend_is_named(module: str) -> None:
    backend = "module://a_package_that_is_not_installed"
    code = f"import os, {module}; assert os.environ['MPLBACKEND'] == {backend!r}"
    done = run_python(code, MPLBACKEND=backend)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("before", ["", "import matplotlib; matplotlib.use('pdf'); "])
def test_a_backend_that_can_be_used_is_kept_for_the_user(before: str) -> None:
    code = before + "import utils.viz, matplotlib; print(matplotlib.get_backend())"
    done = run_python(code, MPLBACKEND="svg")
    assert done.stdout.split() == ["pdf" if before else "svg"], done.stderr


# --- devices and memory ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "platforms, parts",
    [
        ("cuda", ['pip install "jax[cuda12]"']),
        ("tpu", ['pip install "jax[tpu]"']),
        ("nonsense", ["'nonsense' is not in the list of known backends"]),
    ],
)
def test_a_missing_device_is_one_line_with_its_remedy(platforms: str, parts: list[str]) -> None:
    code = """
from utils import runtime
from utils.settings import CommonSettings
runtime.run(lambda settings: print(runtime.describe_device()), CommonSettings())
"""
    done = run_python(code, JAX_PLATFORMS=platforms, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 1 and done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1 or all("warn" in line.lower() for line in lines[:-1]), done.stderr
    for part in [f"no device for JAX_PLATFORMS={platforms}", "unset JAX_PLATFORMS", *parts]:
        assert part in lines[-1]


@pytest.mark.parametrize(
    "command",
    [
        ["train_dream.py"],
        ["-m", "tools.reproduce"],
        ["-m", "tools.report", "--run-dir", "pretrained", "--output", "{output}"],
        ["-c", "import gymnasium; gymnasium.make('envs:DreamCarRacing-v0', run_dir='pretrained')"],
    ],
)
def test_every_program_says_that_a_device_is_missing(command: list[str], tmp_path: Path) -> None:
    command = [word.format(output=tmp_path / "page.html") for word in command]
    done = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cuda", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "no device for JAX_PLATFORMS=cuda" in done.stderr.splitlines()[-1], done.stderr
    assert command[0] == "-c" or "Traceback" not in done.stderr


def allocate_by_jax() -> None:
    jax.jit(lambda n: jnp.ones(2**46, jnp.uint8) + n)(3).block_until_ready()


def allocate_by_numpy() -> None:
    np.ones((2**25, 2**25), np.uint8)


@pytest.mark.parametrize(
    "script, flags",
    [
        ("run_vae_training", "--batch"),
        ("process_data", "--batch"),
        ("train_rnn", "--lanes or --window"),
        ("train_dream", "--candidates or --dreams or --horizon or --workers"),
        ("collect_data", "--workers"),
    ],
)
@pytest.mark.parametrize("allocate", [allocate_by_jax, allocate_by_numpy])
def test_out_of_memory_names_the_flags_to_lower(
    script: str,
    flags: str,
    allocate: Callable[[], None],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit) as caught:
        runtime.run(lambda settings: allocate(), importlib.import_module(script).Settings())
    said = capsys.readouterr().err
    assert caught.value.code == 1 and said.count("\n") == 1
    assert "out of memory (" in said and f"; lower {flags}. " in said


def test_errors_of_the_program_keep_their_traceback() -> None:
    code = """
from utils import runtime
from utils.settings import CommonSettings
def main(settings): raise RuntimeError("a defect")
runtime.run(main, CommonSettings())
"""
    done = run_python(code)
    assert done.returncode == 1 and "Traceback" in done.stderr


def test_64_bit_mode_changes_nothing(workshop: Workshop, tmp_path: Path) -> None:
    """All stages work under JAX_ENABLE_X64, workers included, and write the same bytes."""
    other = workshop.copy(tmp_path, "data", "run")
    other = Workshop(other.folder, {**workshop.environment, "JAX_ENABLE_X64": "1"})
    made = ("vae.eqx", "rnn.eqx", "controller.eqx", "evaluation.json")
    for name in made:
        (other.run_dir / name).unlink()
    for path in (other.data / "latents").rglob("*.npz"):
        path.unlink()
    for script in ("run_vae_training.py", "process_data.py", "train_rnn.py", "train_dream.py"):
        other.succeed(script)
    other.succeed("test_agent.py", "--episodes", "2", "--baseline", "random")
    for pattern in ("run/*.eqx", "data/latents/*/*.npz", "run/evaluation.json"):
        assert other.files(pattern) == workshop.files(pattern) != {}


# --- ffmpeg ---------------------------------------------------------------------------------------


def driven_steps(count: int) -> tuple[Episode, Replay]:
    """An episode of black frames, and a replay of it."""
    frames = np.zeros((count + 1, 64, 64, 3), np.uint8)
    values = np.zeros(count, np.float32)
    flags = np.zeros(count, bool)
    fields = {name: flags for name in ("terminated", "truncated")}
    actions = np.zeros((count, 3), np.float32)
    episode = Episode(frames, actions, values, **fields, lap_finished=False, seed=7, provenance={})
    return episode, Replay(frames, frames[1:], frames[1:], 0, values, values, values)


def program(path: Path, text: str, mode: int = 0o755) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


@pytest.mark.parametrize(
    "text, mode, said",
    [
        (None, 0, "No such file or directory"),
        ("#!/bin/sh\n", 0o644, "Permission denied"),
        ("no program", 0o755, "Exec format error"),
        ("#!/bin/sh\nexit 3\n", 0o755, "ended with code 3"),
        ("#!/bin/sh\nkill -ILL $$\n", 0o755, "ended with code -4"),
    ],
)
def test_an_ffmpeg_that_does_not_run_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, mode: int, said: str
) -> None:
    ffmpeg = tmp_path / "ffmpeg"
    if text is not None:
        program(ffmpeg, text, mode)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(ffmpeg))
    video = tmp_path / "out" / "track_7.mp4"
    with pytest.raises(UserError) as caught:
        write_video(video, *driven_steps(50))
    assert said in str(caught.value) and "ffmpeg" in str(caught.value)
    if "code" not in said:
        assert "IMAGEIO_FFMPEG_EXE" in str(caught.value) and str(ffmpeg) in str(caught.value)
    assert os.listdir(video.parent) == []


def test_without_ffmpeg_the_scores_and_pictures_are_made(
    workshop: Workshop, tmp_path: Path
) -> None:
    missing = str(tmp_path / "no ffmpeg")
    other = Workshop(workshop.folder, {**workshop.environment, "IMAGEIO_FFMPEG_EXE": missing})
    flags = ("--output-dir", str(tmp_path / "out"), "--first-track", "7", "--episodes", "2")
    done = other.run("test_agent.py", *flags, "--videos", "2")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert f"cannot start ffmpeg ({missing}: No such file" in done.stderr.splitlines()[-1]
    assert "the agent: " in done.stdout and (tmp_path / "out" / "evaluation.json").exists()
    pictures = {f"track_{track}_{kind}.png" for track in (7, 8) for kind in ("grid", "plot")}
    assert pictures == {path.name for path in (tmp_path / "out").glob("track_*")}
