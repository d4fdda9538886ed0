"""Compare FastCarRacing-v3 with Gymnasium's CarRacing-v3, byte by byte.

    python -m fast_car_racing.compare            # 40 tracks, 20,000 frames: about 5 minutes
    python -m fast_car_racing.compare --tracks 5 --frames 2000

Both environments get the same seeds and actions, from five scripted drivers in turn. Compares
each observation, reward, end and info; exits with 1 if any differs.
"""

import argparse
import sys
from collections import Counter

import gymnasium
import numpy as np
from gymnasium.envs.box2d.car_racing import PLAYFIELD

import fast_car_racing
from fast_car_racing.drivers import DRIVERS


def situations(env) -> list[str]:
    """What a frame of `env` shows, to count what was compared."""
    hull = env.car.hull
    x, y = hull.position
    shown = {
        "zoom phase": env.t < 1,
        "edge of the playfield": max(abs(x), abs(y)) > PLAYFIELD - 20,
        "spin": abs(hull.angularVelocity) > 2.5,
        "on grass": not any(wheel.tiles for wheel in env.car.wheels),
        "red and white border": any(
            abs(poly[0][0] - x) + abs(poly[0][1] - y) < 20
            for poly, color in env.road_poly
            if color[0] == 255
        ),
    }
    return [name for name, yes in shown.items() if yes]


def compare_track(seed: int, driver: str, steps: int, seen: Counter, **options) -> list[str]:
    """Drive one track in both environments; counts into `seen` and returns the differences."""
    original = gymnasium.make("CarRacing-v3", **options)
    ours = gymnasium.make(fast_car_racing.ENV_ID, **options)
    rng = np.random.default_rng(seed)
    results = [env.reset(seed=seed) for env in (original, ours)]
    differences = [] if np.array_equal(results[0][0], results[1][0]) else [f"{seed}: reset"]
    for step in range(steps):
        action = DRIVERS[driver](original.unwrapped, step, rng)
        left, right = original.step(action), ours.step(action)
        seen["frames"] += 1
        seen.update(situations(original.unwrapped))
        if not np.array_equal(left[0], right[0]):
            differences.append(f"track {seed}, step {step}: {(left[0] != right[0]).sum()} levels")
        if left[1:] != right[1:]:
            differences.append(f"track {seed}, step {step}: {left[1:]} is not {right[1:]}")
        if left[2] or left[3]:
            seen["truncated" if left[3] else f"ended with {left[4]}"] += 1
            break
    return differences


def main() -> int:
    """Compare until there are enough tracks and frames."""
    parser = argparse.ArgumentParser(
        prog="python -m fast_car_racing.compare",
        description="Compare FastCarRacing-v3 with Gymnasium's CarRacing-v3, byte by byte.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--frames", type=int, default=20_000, help="least number of frames")
    parser.add_argument("--tracks", type=int, default=40, help="least number of tracks")
    parser.add_argument("--first-track", type=int, default=0, help="seed of the first track")
    arguments = parser.parse_args()
    seen: Counter = Counter()
    differences, track = [], 0
    while track < arguments.tracks or seen["frames"] < arguments.frames:
        driver = list(DRIVERS)[track % len(DRIVERS)]
        steps = 1000 if track < len(DRIVERS) else 500  # the first ones up to the time limit
        found = compare_track(arguments.first_track + track, driver, steps, seen)
        print(f"{track:3d} {driver:9s} {seen['frames']:6d} frames, {len(found)} differences")
        differences += found
        track += 1
    print(f"\n{track} tracks: {dict(seen)}")
    print(f"{len(differences)} differences", *differences[:20], sep="\n")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
