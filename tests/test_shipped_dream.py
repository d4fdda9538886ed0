"""The dream of pretrained/, as a fresh clone has it."""

from collections.abc import Callable
from typing import Any

import gymnasium
import jax
import numpy as np
import pytest
from scripts import ROOT

from utils.io.checkpoints import load_controller, read_header
from utils.io.files import sha256_of

PRETRAINED = ROOT / "pretrained"
DREAM = "envs:DreamCarRacing-v0"


def test_it_is_small_and_belongs_to_the_shipped_models() -> None:
    path = PRETRAINED / "starts.eqx"
    header = read_header(path)
    assert path.stat().st_size < 1_000_000
    assert header.precision == "float16"
    assert header.inputs["rnn"] == sha256_of(PRETRAINED / "rnn.eqx")
    assert header.inputs["vae"] == sha256_of(PRETRAINED / "vae.eqx")
    groups = [header.sizes[name] for name in ("resets", "on_policy", "others")]
    assert groups[0] >= 20 and min(groups[1:]) >= 300


def test_one_dream_starts_and_steps() -> None:
    env = gymnasium.make(DREAM, run_dir=PRETRAINED, max_episode_steps=5)
    first, _ = env.reset(seed=0)
    assert env.observation_space.contains(first)
    again, _ = env.reset(seed=0)
    other, _ = env.reset(seed=1)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    for step in range(1, 6):
        observation, reward, terminated, truncated, info = env.step(np.float32([0, 0.5, 0]))
        assert env.observation_space.contains(observation)
        assert -101 < reward < 20 and 0 <= info["end_probability"] <= 1
        assert truncated == (step == 5)
        if terminated:
            break
    env.close()


def test_the_shipped_agent_drives_well_in_it() -> None:
    _, controller = load_controller(PRETRAINED / "controller.eqx")
    act = jax.jit(lambda seen: controller(seen[:, :32], seen[:, 32:]))

    def returns(driver: Callable[[np.ndarray], Any]) -> np.ndarray:
        envs = gymnasium.make_vec(
            DREAM, num_envs=64, run_dir=PRETRAINED, max_episode_steps=100, autoreset_mode="SameStep"
        )
        seen, _ = envs.reset(seed=0)
        total, alive = np.zeros(64), np.ones(64, bool)
        for _ in range(100):
            seen, rewards, terminated, _, _ = envs.step(np.asarray(driver(seen)))
            total += alive * rewards
            alive &= ~terminated
        return total

    agent, straight = returns(act), returns(lambda seen: np.tile(np.float32([0, 0.5, 0]), (64, 1)))
    # About 120 points in 100 real steps; dreams also start in lost drives, and M foresees failures.
    assert np.median(agent) > 60
    assert np.median(agent) > np.median(straight) + 20


@pytest.mark.parametrize("observation", ["latent", "pixels"])
def test_both_observations_can_be_had(observation: str) -> None:
    env = gymnasium.make(DREAM, run_dir=PRETRAINED, observation=observation)
    seen, _ = env.reset(seed=3)
    assert env.observation_space.contains(seen)
    env.close()
