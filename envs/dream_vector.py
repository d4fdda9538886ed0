"""Thousands of dreams at once, as a `gymnasium.vector.VectorEnv`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from jaxtyping import Array, Bool

from envs import DREAM_STEPS
from envs.checks import (
    ACTION_SPACE,
    MAX_SEED,
    check_actions,
    check_not_forked,
    check_seed,
    check_was_reset,
    observation_space,
)
from envs.dream import METADATA, EnvState, load_dream


class DreamCarRacingVector(VectorEnv):
    """`num_envs` dreams, computed together on JAX's device; returns NumPy arrays.

    Other keyword arguments are those of `load_dream`. A dream is truncated after
    `max_episode_steps`. Supports all three of Gymnasium's autoreset modes; with DISABLED, reset
    ended dreams by `reset(options={"reset_mask": ...})`.
    """

    def __init__(
        self,
        run_dir: str | Path,
        num_envs: int = 1,
        max_episode_steps: int = DREAM_STEPS,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
        **arguments: Any,
    ):
        check_not_forked()
        self.dream = load_dream(run_dir, **arguments)
        self.num_envs, self.max_episode_steps = num_envs, max_episode_steps
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = {**METADATA, "autoreset_mode": self.autoreset_mode}
        self.render_mode = render_mode
        sizes = {"latent": self.dream.rnn.latent, "hidden": self.dream.rnn.hidden}
        self.single_observation_space = observation_space(self.dream.observation, sizes)
        self.single_action_space = ACTION_SPACE
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.state: EnvState | None = None
        self.steps = np.zeros(num_envs, np.int64)  # of each dream since its reset
        self.ended = np.zeros(num_envs, bool)  # dreams that the next step or reset begins anew

    def reset(
        self,
        *,
        seed: int | Sequence[int] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start new dreams: all, or those of options["reset_mask"], bool (num_envs,).

        An integer seeds dream i with seed + i; every dream's seed is between 0 and 2³² − 1. Without
        a seed, new dreams are determined by the keys of the old ones.
        """
        check_not_forked()
        seeds = None if seed is None else self._check_seeds(seed)
        super().reset(seed=None if seed is None else int(seeds[0]))
        mask = (options or {}).get("reset_mask", np.ones(self.num_envs, bool))
        if np.shape(mask) != (self.num_envs,) or np.asarray(mask).dtype != bool or not np.any(mask):
            raise ValueError(f"reset_mask must be bool ({self.num_envs},) and not all False")
        if seeds is None and self.state is not None:
            new = self.dream.reset_from(self.state)
        else:
            if seeds is None:
                size = self.num_envs
                seeds = self.np_random.integers(MAX_SEED + 1, size=size, dtype=np.uint32)
            new = self.dream.reset(seeds)
        self.state = _where(mask, new, new if self.state is None else self.state)
        self.steps[mask], self.ended[mask] = 0, False
        return self._observations(), {}

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """One imagined step of 1/50 s in every dream. Actions are clipped to the action space."""
        check_was_reset(self.state)
        resets, before = self.ended, self.state
        if resets.any() and self.autoreset_mode == AutoresetMode.DISABLED:
            raise ResetNeeded("dreams have ended: reset them with options={'reset_mask': ...}")
        actions = check_actions(actions, self.action_space.shape)
        self.state, *outcome = self.dream.step(before, actions)
        rewards, failed, end = (np.array(array) for array in outcome)
        if resets.any():  # NEXT_STEP: for ended dreams this step is a reset; actions are ignored
            self.state = _where(resets, self.dream.reset_from(before), self.state)
            rewards[resets], failed[resets] = 0.0, False
        self.steps = np.where(resets, 0, self.steps + 1)
        truncated = self.steps >= self.max_episode_steps
        self.ended = failed | truncated
        if self.ended.any() and self.autoreset_mode == AutoresetMode.SAME_STEP:
            infos = self._reset_ended(end)
        else:
            infos = _vector_info("end_probability", end, ~resets)
        return self._observations(), rewards, failed, truncated, infos

    def render(self) -> tuple[np.ndarray, ...] | None:
        """V's decoding of each dream's z, uint8 (64, 64, 3) each."""
        if self.render_mode is None:
            return None
        check_was_reset(self.state)
        return tuple(np.array(self.dream.decode(self.state.dream.z)))

    def _reset_ended(self, end: np.ndarray) -> dict[str, Any]:
        """SAME_STEP: reset the ended dreams; the info keeps their last observations."""
        ended, last = self.ended, self._observations()
        final = np.full(self.num_envs, None, object)
        for i in np.flatnonzero(ended):
            final[i] = last[i]
        self.state = _where(ended, self.dream.reset_from(self.state), self.state)
        self.steps, self.ended = np.where(ended, 0, self.steps), np.zeros_like(ended)
        return {
            **_vector_info("end_probability", end, ~ended),
            "final_obs": final,
            "_final_obs": ended,
            "final_info": _vector_info("end_probability", end, ended),
            "_final_info": ended,
        }

    def _check_seeds(self, seed: int | Sequence[int]) -> np.ndarray:
        if np.ndim(seed) == 0:
            first = check_seed(seed)
            seeds = [first + i for i in range(self.num_envs)]
        else:
            seeds = list(seed)
        if len(seeds) != self.num_envs:
            raise ValueError(f"{len(seeds)} seeds for {self.num_envs} dreams")
        return np.array([check_seed(one) for one in seeds], np.uint32)

    def _observations(self) -> np.ndarray:
        return np.array(self.dream.observe(self.state))


def _vector_info(name: str, values: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
    """An info of some sub-environments, in the form of gymnasium.vector: values and a mask."""
    return {name: np.where(mask, values, 0), f"_{name}": mask}


@jax.jit
def _where(mask: Bool[Array, " n"], new: EnvState, old: EnvState) -> EnvState:
    def where(chosen: Array, *states: EnvState) -> EnvState:
        return jax.tree.map(lambda a, b: jnp.where(chosen, a, b), *states)

    return jax.vmap(where)(mask, new, old)
