"""The targets that M learns to predict, computed from an episode's rewards and ends.

CarRacing-v3 rewards each step with −0.1 points and each of a track's N tiles, when it is first
touched, with 1000 / N more. Leaving the playfield ends the episode with a reward of −100.
"""

import numpy as np

from models.rnn import STEP_REWARD

WHOLE_LAP_POINTS = 930.0  # of the 1000 for all tiles: a lap with at most 20 tiles missed
NO_TILE_STEPS = 75  # 1.5 s, in which even a slow car passes ten tiles


def lap_steps(rewards: np.ndarray) -> int:
    """Number of steps up to the last tile of a whole lap; T if the episode has no whole lap.

    Gymnasium ends an episode only when all tiles are touched. A car that missed one keeps driving
    over old tiles without reward. To M, which cannot know why, such steps of good driving would
    look like failure, so they are not used.

    Three tiles of 320 points are a whole lap, which here ends with step 5. One is not:

    >>> lap_steps(np.float32([320, -0.1, 320, -0.1, 320, -0.1, -0.1]))
    5
    >>> lap_steps(np.float32([320, -0.1, -0.1]))
    3

    Args:
        rewards: float32 (T), points as in the episode file.
    """
    tiles = clip_penalty(rewards).astype(np.float64) - STEP_REWARD
    if tiles.sum() < WHOLE_LAP_POINTS:
        return len(rewards)
    return int(np.flatnonzero(tiles > 0)[-1]) + 1


def clip_penalty(rewards: np.ndarray) -> np.ndarray:
    """Rewards without the −100 for leaving the playfield, which `failed_steps` covers.

    >>> print(clip_penalty(np.float32([3.2, -0.1, -100])))
    [ 3.2 -0.1 -0.1]
    """
    return np.maximum(rewards, STEP_REWARD)


def smooth_rewards(rewards: np.ndarray, width: int) -> np.ndarray:
    """Mean of the last `width` rewards at every step, float32 (T); before the episode, −0.1.

    At speed a tile comes every few steps. M can tell whether some came lately, but not whether
    one comes at exactly this step; with an asymmetric loss, that uncertainty would cost most of
    the predicted reward.

    >>> print(smooth_rewards(np.float32([-0.1, 3.5, -0.1, -0.1]), width=2))
    [-0.1  1.7  1.7 -0.1]
    """
    padded = np.concatenate([np.full(width - 1, STEP_REWARD), rewards.astype(np.float64)])
    total = np.cumsum(np.concatenate([[0.0], padded]))
    return ((total[width:] - total[:-width]) / width).astype(np.float32)


def failed_steps(rewards: np.ndarray, left_playfield: np.ndarray) -> np.ndarray:
    """Whether the drive has failed at each step, bool (T).

    A step has failed if the car leaves the playfield at it, or if no new tile follows within
    NO_TILE_STEPS steps. Failure begins right after the last tile: the label uses hindsight, and M
    learns its probability. Cars rarely leave the playfield but often get stuck on the grass,
    where a dream of a few seconds would otherwise show no loss.

    If the episode ends less than NO_TILE_STEPS steps after its last tile, the steps after that
    tile count as not failed, because the outcome is unknown.

    A car that touches tiles at steps 0 and 10 of 200 and then gets stuck has failed from step 11:

    >>> rewards = np.full(200, -0.1)
    >>> rewards[[0, 10]] = 3.2
    >>> print(np.flatnonzero(failed_steps(rewards, np.zeros(200, bool)))[[0, -1]])
    [ 11 199]

    Had the episode ended at step 60, nothing would have failed:

    >>> print(failed_steps(rewards[:60], np.zeros(60, bool)).any())
    False

    Args:
        rewards: float32 (T), points as in the episode file.
        left_playfield: bool (T).
    """
    steps = len(rewards)
    tiles = np.flatnonzero(rewards > 0)
    next_tile = np.append(tiles, steps + NO_TILE_STEPS)[np.searchsorted(tiles, np.arange(steps))]
    failed = next_tile - np.arange(steps) > NO_TILE_STEPS
    after_last = tiles[-1] + 1 if len(tiles) else 0
    if steps - after_last < NO_TILE_STEPS:
        failed[after_last:] = False
    return failed | left_playfield
