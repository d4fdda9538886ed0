"""Five scripted drivers, to compare and to time environments with."""

from collections.abc import Callable

import numpy as np
from gymnasium.envs.box2d.car_racing import CarRacing

Driver = Callable[[CarRacing, int, np.random.Generator], np.ndarray]


def follow_line(env: CarRacing, speed: float = 45.0) -> np.ndarray:
    """Steer to a point of the centre line four tiles ahead. speed: in world units per second."""
    car = env.car.hull
    track = np.array(env.track)[:, 2:]
    here = np.array(car.position)
    nearest = np.argmin(((track - here) ** 2).sum(axis=1))
    ahead = track[(nearest + 4) % len(track)] - here
    error = np.arctan2(-ahead[0], ahead[1]) - car.angle
    error = (error + np.pi) % (2 * np.pi) - np.pi
    slow = speed / (1 + 1.5 * abs(error))
    now = np.hypot(*car.linearVelocity)
    gas, brake = (0.4, 0.0) if now < slow else (0.0, 0.2 if now > slow + 10 else 0.0)
    return np.array([np.clip(-1.5 * error, -1, 1), gas, brake], np.float32)


def random(env: CarRacing, step: int, rng: np.random.Generator) -> np.ndarray:
    """A new random action every ten steps, more gas than brake."""
    if step % 10 == 0:
        env.held_action = rng.uniform([-1, 0, 0], [1, 1, 0.4]).astype(np.float32)
    return env.held_action


def noisy(env: CarRacing, step: int, rng: np.random.Generator) -> np.ndarray:
    """Along the centre line with noise on every action."""
    action = follow_line(env) + rng.normal(0, [0.3, 0.2, 0.05])
    return np.clip(action, [-1, 0, 0], 1).astype(np.float32)


def knocked(env: CarRacing, step: int, rng: np.random.Generator) -> np.ndarray:
    """Along the centre line, but steered off it for 20 steps of every 80."""
    if step % 80 < 60:
        return follow_line(env)
    side = 1 if step // 80 % 2 else -1
    return np.array([side, 0.8, 0], np.float32)


def fast(env: CarRacing, step: int, rng: np.random.Generator) -> np.ndarray:
    """Along the centre line, too fast for its corners."""
    return follow_line(env, speed=95.0)


def throttle(env: CarRacing, step: int, rng: np.random.Generator) -> np.ndarray:
    """Full gas: straight on and off the playfield with odd seeds, spinning with even ones."""
    if env.np_random_seed % 2:
        return np.array([0, 1, 0], np.float32)
    return np.array([1 if step // 150 % 2 else -1, 1, step % 60 > 45], np.float32)


DRIVERS: dict[str, Driver] = {
    "random": random,
    "noisy": noisy,
    "knocked": knocked,
    "fast": fast,
    "throttle": throttle,
}
