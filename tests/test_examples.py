"""The examples run as their docstrings say, with tiny sizes and the shipped agent."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest
from scripts import ROOT

from examples import ppo_single_file as ppo


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


PRINTED_BEYOND_ASCII = {  # of × and ±
    "your_own_controller": "--help",
    "temperature": "--temperatures 1 --dreams 2 --steps 3",
    "ppo_single_file": "--num-envs 2 --num-steps 4 --total-timesteps 8 --tracks 2 --real-steps 3",
}


@pytest.mark.parametrize("name", PRINTED_BEYOND_ASCII)
def test_letters_that_a_terminal_lacks_stop_no_example(name: str) -> None:
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, "-m", f"examples.{name}", *PRINTED_BEYOND_ASCII[name].split()],
        cwd=ROOT,
        env={**os.environ, **ascii_only},
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"\\x(b1|d7)", done.stdout.decode("ascii"))


@pytest.mark.parametrize("seed", ["-1", str(2**32), str(2**63)])
def test_a_seed_that_would_be_another_one_is_wrong_usage(
    seed: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["ppo_single_file", "--seed", seed])
    with pytest.raises(SystemExit) as caught:
        ppo.parse()
    assert caught.value.code == 2 and "--seed" in capsys.readouterr().err


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
    # The shipped agent earns points in its own dream; standing still costs 6, a failure 100.
    assert float(rows[0][1]) > 5


def test_ppo_of_stable_baselines_learns_in_the_dream_and_drives_the_real_track() -> None:
    pytest.importorskip("stable_baselines3", reason="pip install -r requirements/extras.txt")
    text = run(
        *("examples.ppo_in_the_dream", "--dreams", "8", "--steps", "400"),
        *("--tracks", "2", "--real-steps", "10"),
    )
    assert "400 dreamed steps, mean return of a dream: " in text
    assert len(scores(text)) == 2 and "on 2 tracks" in text


@pytest.mark.parametrize("env", ["dream", "real"])
def test_ppo_in_one_file_learns_and_drives_the_real_track(env: str) -> None:
    envs = {"dream": "8", "real": "1"}[env]
    text = run(
        *("examples.ppo_single_file", "--env", env, "--num-envs", envs, "--num-steps", "10"),
        *("--total-timesteps", "80", "--num-minibatches", "2", "--tracks", "2"),
        *("--real-steps", "10"),
    )
    assert "80 steps, " in text and "mean return: " in text
    assert len(scores(text)) == 2 and "on 2 tracks" in text


def test_ppo_in_one_file_computes_advantages_as_written_out() -> None:
    """Against sums written out over one rollout of two environments, one with an end inside."""
    gamma, gae_lambda, steps = 0.9, 0.8, 4
    random = np.random.default_rng(0)
    value, reward = random.normal(size=(2, steps, 2)).astype(np.float32)
    done = np.array([[0, 0], [0, 1], [0, 0], [0, 0]], np.float32)
    last = np.array([0.5, -0.5], np.float32)
    batch = ppo.Batch(*[np.zeros((steps, 2))] * 3, value, reward, done)
    found = ppo.advantages(batch, last, gamma, gae_lambda)
    following = np.concatenate([value[1:], last[None]])
    for env in range(2):
        for t in range(steps):
            expected, weight = 0.0, 1.0
            for later in range(t, steps):
                kept = 1 - done[later, env]
                delta = reward[later, env] + gamma * kept * following[later, env]
                expected += weight * (delta - value[later, env])
                weight *= gamma * gae_lambda * kept
            assert found[t, env] == pytest.approx(expected, abs=1e-5)
