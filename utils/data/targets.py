"""What M is asked to predict: where a lap ends, when a drive is lost, and smoothed rewards."""

import numpy as np

from models.rnn import STEP_REWARD

WHOLE_LAP_POINTS = 930.0  # points of 1000: as if up to 20 tiles were missed
NO_TILE_STEPS = 75  # steps: 1.5 s, in which a slow car passes ten tiles


def lap_steps(rewards: np.ndarray) -> int:
    """Steps until the last new tile of a lap that is (nearly) whole; all T if it is not.

    Args: rewards float32 (T), points as on file.

    A car that missed a tile drives on after its lap, over tiles that give nothing any more: to M,
    which cannot know that, good driving would look like a car that is lost.
    """
    tiles = np.maximum(rewards, STEP_REWARD).astype(np.float64) - STEP_REWARD
    if tiles.sum() < WHOLE_LAP_POINTS:
        return len(rewards)
    return int(np.flatnonzero(tiles > 0)[-1]) + 1


def failed_steps(rewards: np.ndarray, left: np.ndarray) -> np.ndarray:
    """Where a drive is lost, bool (T): off the playfield, or no new tile in NO_TILE_STEPS steps.

    A crash costs the rest of a lap, which a dream of some seconds does not show; and M hardly
    ever sees a car leave the playfield. So standing in the grass is failing as well, from the
    last tile on: what M is asked for is hindsight, of which it can learn the chances.
    """
    steps = len(rewards)
    tiles = np.flatnonzero(rewards > 0)
    following = np.append(tiles, steps + NO_TILE_STEPS)[np.searchsorted(tiles, np.arange(steps))]
    lost = following - np.arange(steps) > NO_TILE_STEPS
    last = tiles[-1] + 1 if len(tiles) else 0
    if steps - last < NO_TILE_STEPS:  # the drive ended before anyone could tell
        lost[last:] = False
    return lost | left


def smooth_rewards(rewards: np.ndarray, width: int) -> np.ndarray:
    """Mean of the last `width` rewards at every step, float32 (T); −0.1 each before the first.

    Tiles come every few steps at speed. Whether one comes at this very step is a coin toss that
    no model can predict, and a loss that punishes optimism takes most of its value away;
    whether some came lately is known.
    """
    padded = np.concatenate([np.full(width - 1, STEP_REWARD), rewards.astype(np.float64)])
    total = np.cumsum(np.concatenate([[0.0], padded]))
    return ((total[width:] - total[:-width]) / width).astype(np.float32)
