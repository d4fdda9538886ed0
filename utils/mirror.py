"""Every drive a second time, as it would look and be done on the mirror image of its track.

Tracks run counterclockwise: sharp turns to the right are a few in a hundred frames, V blurs what it
hardly ever saw, and the agent leaves the road there (docs/experiments.md, section 9). Car, road
and physics are symmetric, so the mirror image of a drive is as good as another drive.
"""

import numpy as np

# Of the 64×64 frame: what lies in the dashboard's row, column by column. The bars of steering and
# yaw rate grow to either side from a middle of their own; score, speed and wheels stay in place.
DASHBOARD = 56  # first row
SIDED_BARS = (slice(24, 40), slice(40, 56))  # columns of the steering's bar, and of the yaw rate's


def mirror_frames(frames: np.ndarray) -> np.ndarray:
    """Frames uint8 (..., 64, 64, 3), left and right exchanged. Twice is what was there before."""
    mirrored = np.ascontiguousarray(frames[..., ::-1, :])
    mirrored[..., DASHBOARD:, :, :] = frames[..., DASHBOARD:, :, :]
    for columns in SIDED_BARS:
        bar = frames[..., DASHBOARD:, columns, :]
        mirrored[..., DASHBOARD:, columns, :] = bar[..., ::-1, :]
    return mirrored


def mirror_actions(actions: np.ndarray) -> np.ndarray:
    """Actions float32 (..., 3): steering to the other side, the same pedals."""
    return actions * np.float32([-1, 1, 1])
