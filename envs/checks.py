"""Checks of what users pass to the environments, and of forked processes."""

import operator
import os
from typing import Any

import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.spaces import Box, Space

ACTION_SPACE = Box(np.array([-1, 0, 0], np.float32), np.ones(3, np.float32))  # steer, gas, brake
FRAME_SHAPE = (64, 64, 3)
OBSERVATIONS = ("latent", "pixels")
MAX_SEED = 2**32 - 1  # JAX's keys are made of 32 bits: a larger seed would repeat a smaller one

_models_loaded_in: int | None = None  # the process that first ran JAX for an environment


def check_observation(observation: str) -> None:
    """ValueError unless the environments have this observation."""
    if observation not in OBSERVATIONS:
        raise ValueError(f"observation must be one of {OBSERVATIONS}, not {observation!r}")


def observation_space(observation: str, sizes: dict[str, int]) -> Space:
    """[z, h], unbounded as z is, or a frame. `sizes` are those of M's checkpoint header."""
    if observation == "pixels":
        return Box(0, 255, FRAME_SHAPE, np.uint8)
    return Box(-np.inf, np.inf, (sizes["latent"] + sizes["hidden"],), np.float32)


def check_actions(actions: Any, shape: tuple[int, ...]) -> np.ndarray:
    """The actions as float32; ValueError unless they have this shape and no NaN."""
    try:
        array = np.asarray(actions, np.float32)
    except (TypeError, ValueError):
        raise ValueError(f"actions must be numbers of shape {shape}, not {actions!r}") from None
    if array.shape != shape:
        raise ValueError(f"actions must have shape {shape}, not {array.shape}: {actions!r}")
    if np.isnan(array).any():
        raise ValueError(f"actions of shape {shape} must not contain NaN: {actions!r}")
    return array


def check_seed(seed: Any) -> int:
    """The seed as an int; ValueError unless it is an integer from 0 to `MAX_SEED`."""
    try:
        number = operator.index(seed)
    except TypeError:
        raise ValueError(f"a seed must be an integer, not {seed!r}") from None
    if not 0 <= number <= MAX_SEED:
        raise ValueError(f"a seed must be between 0 and {MAX_SEED}, not {number}")
    return number


def check_was_reset(state: Any) -> None:
    """ResetNeeded if there is no state yet."""
    if state is None:
        raise ResetNeeded("call reset() before step() or render()")


def was_forked() -> bool:
    """Whether this process was forked from one that has run an environment's models.

    JAX's threads do not survive a fork: computing anything in such a process would hang for ever.
    The first call marks the process as one that runs models.
    """
    global _models_loaded_in
    if _models_loaded_in is None:
        _models_loaded_in = os.getpid()
    return _models_loaded_in != os.getpid()


FORKED = (
    "JAX cannot run in a process forked from one that has used it: give gymnasium.make_vec "
    'vectorization_mode="vector_entry_point", which is faster, or '
    'vector_kwargs={"context": "spawn"}'
)
