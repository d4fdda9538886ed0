"""The real track with the observations of the dream: V encodes each frame, M is the memory."""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.box2d.car_racing import CarRacing

from envs.checks import (
    ACTION_SPACE,
    check_actions,
    check_not_forked,
    check_observation,
    check_was_reset,
    observation_space,
    was_forked,
)
from envs.dream import load_vae_and_rnn
from utils.io.checkpoints import read_header
from utils.io.hub import fetch_run_folder
from utils.sim.agent import encode, update_memory
from utils.sim.env import make_environment, resize_frame


class RealCarRacing(gymnasium.Env):
    """CarRacing-v3 with the observations and actions of `DreamCarRacing`.

    Args:
        run_dir: folder with vae.eqx and rnn.eqx, or hf://OWNER/NAME on the Hub.
        observation: "latent" for [z, h], where z is V's mu, or "pixels" for the 64×64 frame.
        env: "fast" or "gymnasium", which draw the same frames.

    A seed is a track. Rewards, ends and infos are CarRacing-v3's.
    """

    metadata = CarRacing.metadata

    def __init__(
        self,
        run_dir: str | Path,
        observation: str = "latent",
        env: str = "fast",
        render_mode: str | None = None,
    ):
        check_observation(observation)
        run_dir = fetch_run_folder(run_dir)
        # See DreamCarRacing: in a forked process the error waits for reset().
        self.models = None if was_forked() else load_vae_and_rnn(run_dir)
        self.environment = make_environment(env, render_mode)
        self.observation = observation
        sizes = read_header(run_dir / "rnn.eqx").sizes
        self.observation_space = observation_space(observation, sizes)
        self.action_space = ACTION_SPACE
        self.render_mode = render_mode
        self.memory = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start on the track `seed`, with M's initial state."""
        check_not_forked()
        super().reset(seed=seed)
        picture, info = self.environment.reset(seed=seed, options=options)
        _, rnn = self.models
        self.memory = rnn.initial_state()
        return self._observe(picture), info

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One real step of 1/50 s. Actions are clipped to the action space."""
        check_was_reset(self.memory)
        action = check_actions(action, ACTION_SPACE.shape)
        action = np.clip(action, ACTION_SPACE.low, ACTION_SPACE.high)
        if self.observation == "latent":
            _, rnn = self.models
            self.memory = update_memory(rnn, self.memory, self.z, action)
        picture, reward, terminated, truncated, info = self.environment.step(action)
        return self._observe(picture), float(reward), terminated, truncated, info

    def render(self) -> Any:
        """CarRacing-v3's rendering."""
        return self.environment.render()

    def close(self) -> None:
        """Close the real environment."""
        self.environment.close()

    def _observe(self, picture: np.ndarray) -> np.ndarray:
        frame = resize_frame(picture)
        if self.observation == "pixels":
            return frame
        vae, _ = self.models
        self.z = encode(vae, frame)
        return np.concatenate([self.z, self.memory.hidden])
