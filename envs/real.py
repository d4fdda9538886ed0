"""The real track in the form of the dream: V encodes the frame, M keeps the memory."""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.box2d.car_racing import CarRacing

from envs.dream import ACTIONS, check_observation, load_vae_and_rnn, observation_space
from utils.sim.agent import encode, update_memory
from utils.sim.env import make_environment, resize_frame


class RealCarRacing(gymnasium.Env):
    """The real track in the form of `DreamCarRacing`: V sees, M remembers, whoever acts acts.

    observation: "latent" for [z, h] (z is V's mu) or "pixels" for the 64×64 frame itself.
    env: its drawing, of utils/sim/env.py. A seed is a track. Rewards, ends and infos are
    CarRacing-v3's.
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
        self.vae, self.rnn = load_vae_and_rnn(Path(run_dir))
        self.environment = make_environment(env, render_mode)
        self.observation = observation
        self.observation_space = observation_space(observation, self.rnn)
        self.action_space = ACTIONS
        self.render_mode = render_mode

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """A track, and an empty memory."""
        super().reset(seed=seed)
        picture, info = self.environment.reset(seed=seed, options=options)
        self.memory = self.rnn.initial_state()
        return self._see(picture), info

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One real step of 1/50 s; the memory takes in what was seen before it, and the action."""
        action = np.clip(np.asarray(action, np.float32), ACTIONS.low, ACTIONS.high)
        if self.observation == "latent":
            self.memory = update_memory(self.rnn, self.memory, self.z, action)
        picture, reward, terminated, truncated, info = self.environment.step(action)
        return self._see(picture), float(reward), terminated, truncated, info

    def render(self) -> Any:
        """CarRacing-v3's own."""
        return self.environment.render()

    def close(self) -> None:
        """Close the real environment."""
        self.environment.close()

    def _see(self, picture: np.ndarray) -> np.ndarray:
        frame = resize_frame(picture)
        if self.observation == "pixels":
            return frame
        self.z = encode(self.vae, frame)
        return np.concatenate([self.z, self.memory.hidden])
