"""PPO on [z, h] in a dream, with the settings of examples/ppo_in_the_dream.py."""

from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import jax
import numpy as np
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecEnv, VecMonitor, VecNormalize

from benchmarks.time_to_score.ppo import REHEARSAL, Act, Training
from envs.dream import load_vae_and_rnn
from envs.stable_baselines import StableBaselinesEnv

DREAMS = 256  # at a time
DREAM: dict[str, Any] = {
    "n_steps": 50,
    "batch_size": DREAMS * 50 // 8,
    "n_epochs": 4,
    "learning_rate": 3e-4,
}


def dream_environments(run_dir: Path, count: int) -> VecEnv:
    """`count` dreams, their rewards normalised."""
    dreams = gymnasium.make_vec(
        "envs:DreamCarRacing-v0", num_envs=count, run_dir=run_dir, autoreset_mode="SameStep"
    )
    return VecNormalize(VecMonitor(StableBaselinesEnv(dreams)), norm_obs=False)


def dream_driver(run_dir: Path, model: PPO) -> Act:
    """The policy on [z, h], with V and M of `run_dir`."""
    vae, rnn = load_vae_and_rnn(run_dir)
    encode = jax.jit(lambda frames: vae.encode(frames)[0])
    update = jax.jit(lambda memory, z, actions: rnn.step(memory, z, actions)[0])
    memory: Any = None

    def act(frames: np.ndarray) -> np.ndarray:
        nonlocal memory
        memory = rnn.initial_state(len(frames)) if memory is None else memory
        z = encode(frames)
        observations = np.concatenate([z, memory.hidden], axis=-1)
        actions, _ = model.predict(observations, deterministic=True)
        memory = update(memory, z, actions)
        return actions

    return act


def in_dream(run_dir: Path, rehearse: bool, **training: Any) -> Training:
    """PPO on [z, h] in the dream of `run_dir`. It needs no real frames."""
    count = 2 if rehearse else DREAMS
    return Training(
        policy="MlpPolicy",
        settings={**DREAM, **(REHEARSAL if rehearse else {})},
        make_environments=partial(dream_environments, run_dir, count),
        make_driver=partial(dream_driver, run_dir),
        frames_per_step=0,
        steps=10**9,  # only the minutes limit it
        **training,
    )
