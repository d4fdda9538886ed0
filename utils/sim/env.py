"""CarRacing-v3 with frames of 64×64 pixels.

Collection, validation and testing all use the same `rollout` and `resize_frame`.
"""

from collections.abc import Generator
from typing import Any, Protocol

import gymnasium
import numpy as np

from utils.data.episodes import Episode

MAX_STEPS = 1000  # Gymnasium's own limit for CarRacing-v3
# Two renderers of the same environment, with identical frames.
ENVIRONMENTS = {"fast": "fast_car_racing:FastCarRacing-v3", "gymnasium": "CarRacing-v3"}


class Driver(Protocol):
    """Anything that drives. Scripted drivers look at the environment, others at the frame."""

    def reset(self, environment: gymnasium.Env) -> None:
        """Prepare for an episode on the environment's current track."""

    def act(self, frame: np.ndarray) -> np.ndarray:
        """Frame uint8 (64, 64, 3) -> action float32 (3): steer −1..1, gas 0..1, brake 0..1."""
        ...


def make_environment(name: str = "fast", render_mode: str | None = None) -> gymnasium.Env:
    """The environment without wrappers; `rollout` has its own time limit."""
    return gymnasium.make(
        ENVIRONMENTS[name], render_mode=render_mode, disable_env_checker=True
    ).unwrapped


def resize_frame(frame: np.ndarray) -> np.ndarray:
    """Resize a frame from 96×96 to 64×64 by exact area averaging, in integers.

    Each output pixel covers 1.5 × 1.5 input pixels. Along each axis three inputs give two outputs
    with weights (2, 1, 0) / 3 and (0, 1, 2) / 3. The result is rounded to nearest.

    Args:
        frame: uint8 (96, 96, 3).

    Returns uint8 (64, 64, 3).
    """
    x = frame.astype(np.uint16)
    rows = np.empty((64, 96, 3), np.uint16)
    rows[0::2] = 2 * x[0::3] + x[1::3]
    rows[1::2] = x[1::3] + 2 * x[2::3]
    out = np.empty((64, 64, 3), np.uint16)
    out[:, 0::2] = 2 * rows[:, 0::3] + rows[:, 1::3]
    out[:, 1::2] = rows[:, 1::3] + 2 * rows[:, 2::3]
    return ((out + 4) // 9).astype(np.uint8)


def rollout(
    environment: gymnasium.Env, track: int, max_steps: int, provenance: dict[str, Any]
) -> Generator[np.ndarray, np.ndarray, Episode]:
    """One episode on the track with seed `track`, truncated after `max_steps` steps.

    A generator: yields each frame, uint8 (64, 64, 3), takes the action for it by `send`, and
    returns the episode.
    """
    observation, _ = environment.reset(seed=track)
    frames, actions, rewards = [resize_frame(observation)], [], []
    terminated, lap_finished = False, False
    while not terminated and len(actions) < max_steps:
        action = np.asarray((yield frames[-1]), np.float32)
        observation, reward, terminated, _, info = environment.step(action)
        frames.append(resize_frame(observation))
        actions.append(action)
        rewards.append(reward)
        lap_finished = bool(info.get("lap_finished", False))
    ends = np.zeros((2, len(actions)), bool)
    ends[0, -1], ends[1, -1] = terminated, not terminated
    return Episode(
        frames=np.stack(frames),
        actions=np.stack(actions),
        rewards=np.asarray(rewards, np.float32),
        terminated=ends[0],
        truncated=ends[1],
        lap_finished=lap_finished,
        seed=track,
        provenance=provenance,
    )


def drive_episode(
    environment: gymnasium.Env,
    driver: Driver,
    track: int,
    max_steps: int,
    provenance: dict[str, Any],
) -> Episode:
    """One episode with one driver; see `rollout`."""
    steps = rollout(environment, track, max_steps, provenance)
    frame = next(steps)
    driver.reset(environment)
    while True:
        try:
            frame = steps.send(driver.act(frame))
        except StopIteration as end:
            return end.value
