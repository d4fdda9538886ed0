"""Checks of what users pass to the environments, and of forked processes."""

import operator
import os
from typing import Any

import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.spaces import Box, Space
from jax._src.xla_bridge import backends_are_initialized  # JAX has no public name for it

ACTION_SPACE = Box(np.array([-1, 0, 0], np.float32), np.ones(3, np.float32))  # steer, gas, brake
FRAME_SHAPE = (64, 64, 3)
OBSERVATIONS = ("latent", "pixels")
MAX_SEED = 2**32 - 1  # JAX's keys are made of 32 bits: a larger seed would repeat a smaller one
FORKED = (
    "JAX cannot run in a process forked from one that has used it: give gymnasium.make_vec "
    'vectorization_mode="vector_entry_point", which is faster, or start the processes by "spawn", '
    'as with vector_kwargs={"context": "spawn"} or SubprocVecEnv(..., start_method="spawn")'
)


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
    """ResetNeeded if there is no state yet; RuntimeError if JAX cannot compute in this process."""
    check_not_forked()
    if state is None:
        raise ResetNeeded("call reset() before step() or render()")


def was_forked() -> bool:
    """Whether this process was forked from one in which JAX had started, by whomever.

    JAX's threads do not survive a fork: computing anything in such a process would hang for ever.
    """
    return _forked


def check_not_forked() -> None:
    """RuntimeError if JAX cannot compute in this process."""
    if _forked:
        raise RuntimeError(FORKED)


def _note_fork() -> None:
    global _forked
    _forked = _forked or backends_are_initialized()


def _has_one_thread() -> bool:
    try:
        return len(os.listdir("/proc/self/task")) == 1
    except OSError:  # not Linux, where processes are not forked by default
        return False


# A forked process may import this module first: JAX has started there, but has no threads.
_forked = backends_are_initialized() and _has_one_thread()
os.register_at_fork(after_in_child=_note_fork)
