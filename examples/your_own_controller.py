"""A controller of your own on the real track: change `act` and run this file.

    python -m examples.your_own_controller
    python -m examples.your_own_controller --tracks 4 --observation latent

The track is CarRacing-v3 with the observation that the world model uses: the 64×64 frame, or
with `--observation latent` the 288 numbers [z, h] that V and M of --run-dir compute from it. The
controller here steers towards the grey of the road. It scores 400 to 900 points.
"""

import argparse

import gymnasium
import numpy as np

from utils.output import protect_output

FIRST_TRACK = 80_000_000  # validation tracks
CAR_COLUMN = 31.5  # the car is always in the middle of the frame, at about row 47
ROWS_AHEAD = (30, 36)  # where the controller looks at the road
GAS_STEPS = 40  # full gas at the start only


def act(observation: np.ndarray, step: int) -> np.ndarray:
    """The action for an observation: steering −1 … 1, gas 0 … 1, brake 0 … 1.

    Args:
        observation: frame uint8 (64, 64, 3), or [z, h] float32 (288,).
        step: steps since the start of the drive, each 1/50 s.
    """
    if observation.ndim == 1:  # [z, h]: straight ahead until you write something better
        return np.array([0.0, 0.1, 0.0], np.float32)
    ahead = observation[slice(*ROWS_AHEAD)].astype(int)
    red, green = ahead[..., 0], ahead[..., 1]
    road = np.argwhere(np.abs(red - green) < 12)[:, 1]  # grass is greener than grey
    offset = road.mean() - CAR_COLUMN if len(road) else 0.0
    steer = np.clip(offset / 8, -1, 1)
    gas = 0.5 if step < GAS_STEPS else 0.1 * (abs(steer) < 0.3)
    return np.array([steer, gas, 0.0], np.float32)


def drive(track: int, observation: str, run_dir: str, steps: int) -> float:
    """The score of `act` on one track."""
    env = gymnasium.make(
        "envs:RealCarRacing-v0", run_dir=run_dir, observation=observation, max_episode_steps=steps
    )
    seen, _ = env.reset(seed=track)
    score, step, done = 0.0, 0, False
    while not done:
        seen, reward, terminated, truncated, _ = env.step(act(seen, step))
        score, step, done = score + float(reward), step + 1, terminated or truncated
    env.close()
    return score


def main() -> None:
    """Drive some tracks and print the scores."""
    protect_output()
    parser = argparse.ArgumentParser(
        prog="python -m examples.your_own_controller",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--run-dir", default="pretrained", help="V and M (default: pretrained)")
    parser.add_argument("--observation", default="pixels", choices=("pixels", "latent"))
    parser.add_argument("--tracks", type=int, default=2, help="tracks to drive (default: 2)")
    parser.add_argument("--steps", type=int, default=1000, help="limit of a drive (1000)")
    flags = parser.parse_args()
    for track in range(FIRST_TRACK, FIRST_TRACK + flags.tracks):
        score = drive(track, flags.observation, flags.run_dir, flags.steps)
        print(f"track {track}: {score:.0f}")


if __name__ == "__main__":
    main()
