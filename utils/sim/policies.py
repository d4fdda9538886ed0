"""Drivers that need no model: Brownian noise, and a script that reads the track's geometry.

The script exists to make data and yardsticks. V and M see only frames, actions, rewards and ends.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np

TILE_LENGTH = 3.5  # distance between track points, Box2D units (TRACK_DETAIL_STEP / SCALE)


class OUNoise:
    """Mean-reverting Brownian motion (Ornstein–Uhlenbeck): correlated over 1 / `rate` steps."""

    def __init__(self, rng: np.random.Generator, scale: np.ndarray | float, rate: float, size: int):
        self.rng, self.rate, self.size = rng, rate, size
        # Chosen so that `scale` is the standard deviation of the stationary process.
        self.step = np.asarray(scale) * math.sqrt(rate * (2 - rate))
        self.value = np.zeros(size)

    def sample(self) -> np.ndarray:
        """The next value, float64 (size)."""
        kick = self.step * self.rng.standard_normal(self.size)
        self.value = (1 - self.rate) * self.value + kick
        return self.value


def clip_action(action: np.ndarray) -> np.ndarray:
    """Into the action space: steer −1..1, gas 0..1, brake 0..1; float32 (3)."""
    return np.clip(action, (-1, 0, 0), (1, 1, 1)).astype(np.float32)


class RandomDriver:
    """Brownian noise on all three controls, biased so that the car moves.

    The bias varies between episodes: mostly gas, sometimes both pedals or a standing car, which
    no driver with a purpose would show M.
    """

    SCALE = np.array([0.4, 0.25, 0.25])  # standard deviation of steer, gas, brake

    def __init__(self, rng: np.random.Generator):
        self.mean = np.array([0.0, rng.uniform(0.1, 0.6), rng.uniform(-0.5, 0.3)])
        self.noise = OUNoise(rng, self.SCALE, rate=math.exp(rng.uniform(math.log(0.03), 0)), size=3)

    def reset(self, environment: gymnasium.Env) -> None:
        """Nothing to prepare: it does not look at the track."""

    def act(self, frame: np.ndarray) -> np.ndarray:
        """The next action of the random walk, whatever the frame."""
        return clip_action(self.mean + self.noise.sample())


class Centerline:
    """The track's centre line and how fast the car may be at each of its N points.

    `xy` float64 (N, 2) in Box2D units, `speed` float64 (N) in units/s.
    """

    TOP_SPEED = 105.0  # units/s
    GRIP = 220.0  # lateral acceleration that the tyres bear, units/s²
    BRAKING = 91.0  # deceleration that the brakes reach, units/s²

    def __init__(self, track: list[tuple[float, float, float, float]]):
        points = np.asarray(track)
        self.xy = points[:, 2:4]
        forward = np.roll(self.xy, -1, axis=0) - self.xy
        heading = np.arctan2(forward[:, 1], forward[:, 0])
        turn = np.roll(heading, -3) - heading
        curvature = np.abs((turn + np.pi) % (2 * np.pi) - np.pi) / (3 * TILE_LENGTH)
        limit = np.minimum(self.TOP_SPEED, np.sqrt(self.GRIP / np.maximum(curvature, 1e-6)))
        # Backward along the loop, twice so that the braking for the first corners is known.
        for index in list(range(len(limit)))[::-1] * 2:
            after = limit[(index + 1) % len(limit)]
            limit[index] = min(limit[index], math.sqrt(after**2 + 2 * self.BRAKING * TILE_LENGTH))
        self.speed = limit

    def nearest(self, position: np.ndarray, around: int | None) -> int:
        """Index of the point nearest to `position`, near point `around` if that is close.

        A track can pass close to itself; the search stays local unless the car is far off.
        """
        if around is not None:
            window = (around + np.arange(-15, 30)) % len(self.xy)
            distance = np.hypot(*(self.xy[window] - position).T)
            if distance.min() < 25.0:
                return int(window[distance.argmin()])
        return int(np.hypot(*(self.xy - position).T).argmin())


@dataclasses.dataclass(frozen=True)
class DrivingStyle:
    """How the scripted driver drives."""

    pace: float = 1.0  # factor on the speed that the corner allows
    steer_noise: float = 0.0  # standard deviation of correlated noise on steering
    pedal_noise: float = 0.0  # the same on gas and brake
    noise_rate: float = 0.1  # 1 / correlation time in steps; at 1 every step is independent
    doze_chance: float = 0.0  # per step: the wheel is left as it is for a second or so
    knock_chance: float = 0.0  # per step: the wheel is taken away for a third of a second or more
    stamp_chance: float = 0.0  # per step: both pedals are held anyhow for about as long
    gas_limit: float = 0.87  # near 1 the rear wheels spin


def sample_style(mode: str, rng: np.random.Generator) -> DrivingStyle:
    """A style for one episode of the mode "recovery" or "aggressive", varied between episodes.

    A driver that always does what fits teaches M that the road comes back by itself, whatever one
    does; and a search finds whatever M was never shown: trembling wheels, a brake held down. So
    noise runs from slow to trembling, the pedals are sometimes held anyhow, and the driver dozes
    off: if every car turns where the road turns, M learns that roads straighten out by themselves.
    """
    rate = math.exp(rng.uniform(math.log(0.03), 0.0))
    # The car feels the mean over some steps: trembling may be strong, drifting may not.
    steer_noise = rng.uniform(0.0, 0.2) * (1 + 4 * rate)
    if mode == "aggressive":
        return DrivingStyle(
            pace=rng.uniform(1.05, 1.6),
            steer_noise=steer_noise / 2,
            pedal_noise=rng.uniform(0.0, 0.15),
            noise_rate=rate,
            gas_limit=rng.uniform(0.8, 1.0),
        )
    return DrivingStyle(
        pace=rng.uniform(0.5, 1.0),
        steer_noise=steer_noise,
        pedal_noise=rng.uniform(0.0, 0.3),
        noise_rate=rate,
        doze_chance=rng.uniform(0.3, 1.0) / 100,
        # From nothing at all to one every six seconds: undisturbed driving is data too.
        knock_chance=max(0.0, rng.uniform(-0.3, 1.0)) / 300,
        stamp_chance=max(0.0, rng.uniform(-0.5, 1.0)) / 150,
        gas_limit=rng.uniform(0.4, 0.87),
    )


class HeldAction:
    """A value that is held for a number of steps."""

    def __init__(self, value: Sequence[float] | np.ndarray = (), steps: int = 0):
        self.value, self.steps = np.array(value), steps

    def hold(self) -> bool:
        """Whether the value still holds; counts one step."""
        held = self.steps > 0
        self.steps -= held
        return held


class ScriptedDriver:
    """Follows the centre line. With `DrivingStyle()` it scores about 930 and finishes every lap.

    The law and its constants were found by random search on real tracks: aim at a point some
    tiles ahead, damp the yaw, keep to the speed that the corners ahead allow.
    """

    def __init__(self, style: DrivingStyle, rng: np.random.Generator):
        self.style, self.rng = style, rng
        scale = np.array([style.steer_noise, style.pedal_noise, style.pedal_noise])
        self.noise = OUNoise(rng, scale, style.noise_rate, size=3)

    def reset(self, environment: gymnasium.Env) -> None:
        """Learn the environment's current track."""
        world: Any = environment.unwrapped  # CarRacing, ours or Gymnasium's
        self.car = world.car
        self.line = Centerline(world.track)
        self.index: int | None = None
        self.doze, self.knock, self.stamp = HeldAction(), HeldAction(), HeldAction()

    def act(self, frame: np.ndarray) -> np.ndarray:
        """The action float32 (3) for the car's present place; the frame is not looked at."""
        action = self._follow_line()
        rng, style = self.rng, self.style
        if self.doze.steps == 0 and rng.random() < style.doze_chance:
            self.doze = HeldAction(
                [rng.normal(0, 0.15), rng.uniform(0, 0.8)], int(rng.integers(20, 70))
            )
        if self.knock.steps == 0 and rng.random() < style.knock_chance:
            steer = rng.choice((-1.0, 1.0)) * rng.uniform(0.3, 1.0)
            self.knock = HeldAction([steer, rng.uniform(0, 0.8), 0.0], int(rng.integers(15, 40)))
        if self.stamp.steps == 0 and rng.random() < style.stamp_chance:
            # Half of them with the brake fully down, some until the car has stood for a while.
            pedals = rng.uniform(0, 1, 2) * (rng.random(2) < 0.7)
            pedals[1] = 1.0 if rng.random() < 0.5 else pedals[1]
            self.stamp = HeldAction(pedals, int(rng.exponential(40)) + 5)
        if self.doze.hold():
            steer, gas = self.doze.value
            action = np.array([steer, gas, 0.0] if gas > 0.3 else [steer, *action[1:]])
        if self.knock.hold():
            action = self.knock.value.copy()
        if self.stamp.hold():
            action[1:] = self.stamp.value
        return clip_action(action + self.noise.sample())

    def _follow_line(self) -> np.ndarray:
        hull, line, count = self.car.hull, self.line, len(self.line.xy)
        position = np.array(hull.position)
        speed = math.hypot(*hull.linearVelocity)
        self.index = line.nearest(position, self.index)
        aim = line.xy[(self.index + int(6 + 0.01 * speed)) % count] - position
        # The hull points along its own y axis; a positive angle is to the left.
        angle = math.atan2(aim[1], aim[0]) - math.pi / 2 - hull.angle
        error = (angle + math.pi) % (2 * math.pi) - math.pi
        missing = self.style.pace * line.speed[(self.index + 2) % count] - speed
        steer = np.clip(-1.16 * error + 0.038 * hull.angularVelocity, -1, 1)
        gas = np.clip(0.18 * missing, 0, self.style.gas_limit) * (1 - 0.8 * abs(steer))
        brake = np.clip(-0.025 * missing - 0.02, 0, 0.8)
        return np.array([steer, gas, brake])
