"""PPO on frames of the real track, with rl-zoo3's settings (hyperparams/ppo.yml, CarRacing-v3).

These differ:

- The environment may be `fast_car_racing`, whose frames are the same.
- Frames are resized by `utils.sim.env.resize_frame`, without OpenCV. Its pixels are those of
  OpenCV's INTER_AREA (compared on 120 frames).
- Each environment runs in a process of its own. The zoo's default is one process for all.
"""

from functools import partial
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.wrappers import GrayscaleObservation, TransformObservation
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv, VecFrameStack, VecNormalize

from benchmarks.time_to_score.ppo import REHEARSAL, SEED, Act, Training
from utils.data.episodes import FRAME_SHAPE
from utils.sim.env import ENVIRONMENTS, resize_frame

SKIP = 2  # frames for which an action is held
STACK = 2  # frames that the policy sees
ZOO_ENVIRONMENTS = 8
# rl-zoo3's names, values and order.
ZOO: dict[str, Any] = {
    "batch_size": 128,
    "n_steps": 512,
    "gamma": 0.99,
    "gae_lambda": 0.95,
    "n_epochs": 10,
    "ent_coef": 0.0,
    "sde_sample_freq": 4,
    "max_grad_norm": 0.5,
    "vf_coef": 0.5,
    "learning_rate": lambda remaining: 1e-4 * remaining,
    "use_sde": True,
    "clip_range": 0.2,
    "policy_kwargs": {
        "log_std_init": -2,
        "ortho_init": False,
        "activation_fn": torch.nn.GELU,
        "net_arch": {"pi": [256], "vf": [256]},
    },
}


class FrameSkip(gymnasium.Wrapper):
    """Hold an action for SKIP frames and sum the rewards, as rl-zoo3's wrapper does."""

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Up to SKIP frames, fewer at the end of an episode."""
        total = 0.0
        for _ in range(SKIP):
            observation, reward, terminated, truncated, info = self.env.step(action)
            total += float(reward)
            if terminated or truncated:
                break
        return observation, total, terminated, truncated, info


def zoo_environment(name: str) -> gymnasium.Env:
    """One environment of the zoo: a grayscale frame, uint8 (64, 64, 1), for every second frame."""
    env = FrameSkip(gymnasium.make(ENVIRONMENTS[name]))
    space = gymnasium.spaces.Box(0, 255, FRAME_SHAPE, np.uint8)
    return GrayscaleObservation(TransformObservation(env, resize_frame, space), keep_dim=True)


def zoo_environments(name: str, count: int) -> VecEnv:
    """`count` environments, their rewards normalised, with STACK frames in an observation."""
    envs = make_vec_env(partial(zoo_environment, name), count, SEED, vec_env_cls=SubprocVecEnv)
    return VecFrameStack(VecNormalize(envs, norm_obs=False), STACK)


def zoo_driver(model: PPO) -> Act:
    """The policy on grayscale frames. Call it for every frame; it decides at every SKIP-th."""
    grayscale = np.array([0.2125, 0.7154, 0.0721])  # GrayscaleObservation's weights
    stack, actions, step = np.zeros(0), np.zeros(0), 0

    def act(frames: np.ndarray) -> np.ndarray:
        nonlocal stack, actions, step
        if step == 0:
            stack = np.zeros((len(frames), STACK, *FRAME_SHAPE[:2]), np.uint8)
        if step % SKIP == 0:
            newest = np.sum(frames * grayscale, axis=-1).astype(np.uint8)
            stack = np.concatenate([stack[:, 1:], newest[:, None]], axis=1)
            actions, _ = model.predict(stack, deterministic=True)
        step += 1
        return actions

    return act


def on_frames(environment: str, rehearse: bool, **training: Any) -> Training:
    """PPO of rl-zoo3 on the real track, drawn by `environment`."""
    count = 2 if rehearse else ZOO_ENVIRONMENTS
    return Training(
        policy="CnnPolicy",
        settings={**ZOO, **(REHEARSAL if rehearse else {})},
        make_environments=partial(zoo_environments, environment, count),
        make_driver=zoo_driver,
        frames_per_step=SKIP,
        steps=4_000_000,  # the zoo's; the learning rate falls to 0 over these
        **training,
    )
