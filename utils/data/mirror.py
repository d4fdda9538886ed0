"""The mirror image of driving: what is left becomes right.

CarRacing is symmetric, so the mirror image of an episode is an episode on the mirrored track.
Tracks run counterclockwise: without mirror images, sharp right turns are too rare to learn.
"""

import numpy as np

PANEL = 56  # first row of the panel with the gauges, of 64
STEERING, YAW = slice(25, 39), slice(39, 57)  # columns of the gauges that go to both sides


def mirror_frames(frames: np.ndarray) -> np.ndarray:
    """The mirror images of frames, uint8 (n, 64, 64, 3).

    The gauges of score, speed and wheels keep their places, and those of steering and yaw rate are
    each mirrored in their own place. What a fast spin's yaw gauge shows beyond its place is lost.
    """
    mirrored = frames[:, :, ::-1].copy()
    panel = frames[:, PANEL:]
    mirrored[:, PANEL:, : STEERING.start] = panel[:, :, : STEERING.start]
    mirrored[:, PANEL:, YAW] = panel[:, :, YAW][:, :, ::-1]
    mirrored[:, PANEL:, YAW.stop :] = 0
    return mirrored


def mirror_actions(actions: np.ndarray) -> np.ndarray:
    """The same actions to the other side, float32 (n, 3): steer, gas, brake."""
    return actions * np.array([-1, 1, 1], actions.dtype)
