"""Mirrored frames and actions are those of driving to the other side."""

import numpy as np
import pytest

from utils.data.mirror import PANEL, mirror_actions, mirror_frames
from utils.sim.env import make_environment, resize_frame


def drive(steer: float, gas: float, steps: int) -> np.ndarray:
    """Frames uint8 (steps, 64, 64, 3): straight on until the camera is near, then to one side."""
    environment = make_environment()
    environment.reset(seed=3)
    for _ in range(55):
        environment.step(np.array([0, 0.5 * (gas > 0), 0], np.float32))
    actions = np.tile(np.float32([steer, gas, 0]), (steps, 1))
    return np.stack([resize_frame(environment.step(action)[0]) for action in actions])


@pytest.mark.parametrize("gas", [0.0, 0.3])
def test_the_gauges_are_those_of_a_car_that_steers_to_the_other_side(gas: float) -> None:
    left, right = (drive(steer, gas, 20)[:, PANEL:].astype(int) for steer in (-0.6, 0.6))
    mirrored = mirror_frames(drive(-0.6, gas, 20))[:, PANEL:].astype(int)
    # The steering gauge alone differs by more than 60 of 255 in some pixels.
    assert np.abs(left - right).max(axis=(1, 2, 3))[5:].min() > 60
    assert np.abs(mirrored - right).mean() < 0.1 * np.abs(left - right).mean()


def test_the_mirror_image_of_the_mirror_image_is_the_frame() -> None:
    frames = drive(0.4, 0.3, 20)
    mirrored = mirror_frames(frames)
    np.testing.assert_array_equal(mirrored[:, :PANEL], frames[:, :PANEL, ::-1])
    np.testing.assert_array_equal(mirror_frames(mirrored), frames)
    actions = np.random.default_rng(0).uniform(0, 1, (5, 3)).astype(np.float32)
    np.testing.assert_array_equal(mirror_actions(mirror_actions(actions)), actions)
    assert mirror_actions(actions).dtype == np.float32
