"""An adapter from gymnasium.vector to the `VecEnv` of Stable-Baselines3.

    envs = gymnasium.make_vec("envs:DreamCarRacing-v0", num_envs=256, run_dir=...,
                              autoreset_mode="SameStep")
    PPO("MlpPolicy", VecMonitor(StableBaselinesEnv(envs))).learn(1_000_000)

Stable-Baselines3 is optional: pip install -r requirements/extras.txt.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from stable_baselines3.common.vec_env import VecEnv

Indices = None | int | Iterable[int]


class StableBaselinesEnv(VecEnv):
    """A gymnasium.vector environment in autoreset mode SAME_STEP as a `VecEnv`.

    The sub-environments have no attributes of their own: `get_attr` returns the vector's.
    """

    def __init__(self, envs: VectorEnv):
        if envs.metadata.get("autoreset_mode") != AutoresetMode.SAME_STEP:
            raise ValueError('Stable-Baselines3 needs autoreset_mode="SameStep"')
        self.envs = envs
        super().__init__(envs.num_envs, envs.single_observation_space, envs.single_action_space)

    def reset(self) -> np.ndarray:
        """Reset all sub-environments, with the seeds of `seed(...)` if it was called."""
        # `seed(s)` stores s, s + 1, ..., as gymnasium.vector seeds from one integer.
        observations, _ = self.envs.reset(seed=self._seeds[0])
        self._reset_seeds()
        self._reset_options()
        return observations

    def step_async(self, actions: np.ndarray) -> None:
        """Store the actions for `step_wait`."""
        self.actions = actions

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """One step; an ended episode's info has its last observation and what ended it."""
        observations, rewards, terminated, truncated, more = self.envs.step(self.actions)
        done = terminated | truncated
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for i in np.flatnonzero(done):
            infos[i]["terminal_observation"] = more["final_obs"][i]
            infos[i]["TimeLimit.truncated"] = bool(truncated[i] and not terminated[i])
        return observations, rewards.astype(np.float32), done, infos

    def close(self) -> None:
        """Close the environment."""
        self.envs.close()

    def get_images(self) -> list[np.ndarray]:
        """The rendering of every sub-environment."""
        return list(self.envs.render() or ())

    def get_attr(self, attr_name: str, indices: Indices = None) -> list[Any]:
        """The vector's attribute, once per index."""
        return [getattr(self.envs, attr_name)] * self._count(indices)

    def set_attr(self, attr_name: str, value: Any, indices: Indices = None) -> None:
        """Set an attribute of the vector; `indices` must be None."""
        if indices is not None:
            raise ValueError("sub-environments have no attributes of their own")
        setattr(self.envs, attr_name, value)

    def env_method(self, method_name: str, *args: Any, indices: Indices = None, **kwargs: Any):
        """Not supported: sub-environments have no methods of their own."""
        raise NotImplementedError(f"{method_name}: sub-environments have no methods of their own")

    def env_is_wrapped(self, wrapper_class: type, indices: Indices = None) -> list[bool]:
        """False: sub-environments cannot be wrapped."""
        return [False] * self._count(indices)

    def _count(self, indices: Indices) -> int:
        return len(list(self._get_indices(indices)))
