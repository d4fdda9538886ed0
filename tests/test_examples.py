"""The examples run as their docstrings say, with tiny sizes and the shipped agent."""

import os
import re
import subprocess
import sys

import pytest
from scripts import ROOT


def run(*arguments: str) -> str:
    """Standard output of a module of this repository, run from the clone."""
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def scores(text: str) -> list[float]:
    return [float(score) for score in re.findall(r"track \d+: (-?\d+)", text)]


@pytest.mark.parametrize("observation", ["pixels", "latent"])
def test_a_controller_of_your_own_drives_the_real_track(observation: str) -> None:
    steps = {"pixels": "300", "latent": "20"}[observation]
    text = run(
        *("examples.your_own_controller", "--observation", observation),
        *("--tracks", "1", "--steps", steps),
    )
    assert "track 80000000: " in text
    (score,) = scores(text)
    if observation == "pixels":  # follows the road: random driving loses points in 300 steps
        assert score > 50


def test_returns_are_measured_at_every_temperature() -> None:
    flags = ("--temperatures", "0.5", "3", "--dreams", "16", "--steps", "60")
    rows = re.findall(
        r"temperature (\S+): return (-?\d+) ± (\d+), (\d+)% failed",
        run("examples.temperature", *flags),
    )
    assert [row[0] for row in rows] == ["0.50", "3.00"]
    assert all(-100 < float(row[1]) < 90 and 0 <= int(row[3]) <= 100 for row in rows)
    assert float(rows[0][1]) > 20  # the shipped agent drives in its own dream


def test_ppo_learns_in_the_dream_and_drives_the_real_track() -> None:
    pytest.importorskip("stable_baselines3", reason="pip install -r requirements/extras.txt")
    text = run(
        *("examples.ppo_in_the_dream", "--dreams", "8", "--steps", "400"),
        *("--tracks", "2", "--real-steps", "10"),
    )
    assert "400 dreamed steps, mean return of a dream: " in text
    assert len(scores(text)) == 2 and "on 2 tracks" in text
