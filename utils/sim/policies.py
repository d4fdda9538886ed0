"""Drivers without a model: Brownian noise, and a script that reads the track's geometry.

They make training data and baselines. V and M learn only from frames, actions, rewards and ends.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np

TILE_LENGTH = 3.5  # distance between track points, Box2D units (TRACK_DETAIL_STEP / SCALE)


class OUNoise:
    """Ornstein-Uhlenbeck noise: mean-reverting, with a correlation time of 1 / `rate` steps."""

    def __init__(self, rng: np.random.Generator, scale: np.ndarray | float, rate: float, size: int):
        self.rng, self.rate, self.size = rng, rate, size
        # `scale` is the standard deviation of the stationary process.
        self.step = np.asarray(scale) * math.sqrt(rate * (2 - rate))
        self.value = np.zeros(size)

    def sample(self) -> np.ndarray:
        """The next value, float64 (size)."""
        kick = self.step * self.rng.standard_normal(self.size)
        self.value = (1 - self.rate) * self.value + kick
        return self.value


def clip_action(action: np.ndarray) -> np.ndarray:
    """Clip to the action space: steer −1..1, gas 0..1, brake 0..1; float32 (3)."""
    return np.clip(action, (-1, 0, 0), (1, 1, 1)).astype(np.float32)


class RandomDriver:
    """Brownian noise on all three controls, with a mean that makes the car move.

    The mean varies between episodes: mostly gas, sometimes both pedals or neither. No other driver
    shows M such actions.
    """

    SCALE = np.array([0.4, 0.25, 0.25])  # standard deviation of steer, gas, brake

    def __init__(self, rng: np.random.Generator):
        self.mean = np.array([0.0, rng.uniform(0.1, 0.6), rng.uniform(-0.5, 0.3)])
        self.noise = OUNoise(rng, self.SCALE, rate=math.exp(rng.uniform(math.log(0.03), 0)), size=3)

    def reset(self, environment: gymnasium.Env) -> None:
        """Nothing to do: the driver does not depend on the track."""

    def act(self, frame: np.ndarray) -> np.ndarray:
        """The next action of the random walk; the frame is ignored."""
        return clip_action(self.mean + self.noise.sample())


class Centerline:
    """The track's centre line and the highest safe speed at each of its N points.

    The points are in driving order: counterclockwise, as tracks are built, or clockwise.

    Attributes: `xy` float64 (N, 2) in Box2D units, `speed` float64 (N) in units/s.
    """

    TOP_SPEED = 105.0  # units/s
    GRIP = 220.0  # highest lateral acceleration, units/s²
    BRAKING = 91.0  # highest deceleration, units/s²

    def __init__(self, track: list[tuple[float, float, float, float]], clockwise: bool = False):
        points = np.asarray(track)
        self.xy = points[::-1, 2:4] if clockwise else points[:, 2:4]
        forward = np.roll(self.xy, -1, axis=0) - self.xy
        heading = np.arctan2(forward[:, 1], forward[:, 0])
        turn = np.roll(heading, -3) - heading
        curvature = np.abs((turn + np.pi) % (2 * np.pi) - np.pi) / (3 * TILE_LENGTH)
        limit = np.minimum(self.TOP_SPEED, np.sqrt(self.GRIP / np.maximum(curvature, 1e-6)))
        # Backwards around the loop, twice, so that braking for the first corner is included.
        for index in list(range(len(limit)))[::-1] * 2:
            after = limit[(index + 1) % len(limit)]
            limit[index] = min(limit[index], math.sqrt(after**2 + 2 * self.BRAKING * TILE_LENGTH))
        self.speed = limit

    def nearest(self, position: np.ndarray, around: int | None) -> int:
        """Index of the point nearest to `position`.

        A track can pass close to itself, so the search is limited to points near the index
        `around` unless the car is far from all of them.
        """
        if around is not None:
            window = (around + np.arange(-15, 30)) % len(self.xy)
            distance = np.hypot(*(self.xy[window] - position).T)
            if distance.min() < 25.0:
                return int(window[distance.argmin()])
        return int(np.hypot(*(self.xy - position).T).argmin())


@dataclasses.dataclass(frozen=True)
class DrivingStyle:
    """Parameters of the scripted driver; the defaults drive without disturbances."""

    pace: float = 1.0  # factor on the highest safe speed
    steer_noise: float = 0.0  # standard deviation of correlated noise on steering
    pedal_noise: float = 0.0  # the same on gas and brake
    noise_rate: float = 0.1  # 1 / correlation time in steps; at 1 the noise is white
    freeze_chance: float = 0.0  # per step: hold a random steering and gas for 0.4 to 1.4 s
    swerve_chance: float = 0.0  # per step: steer off the line for 0.3 to 0.8 s
    pedal_chance: float = 0.0  # per step: hold random pedals for about a second
    gas_limit: float = 0.87  # near 1 the rear wheels spin
    clockwise: bool = False  # turn around at the start and drive the other way


def sample_style(mode: str, rng: np.random.Generator) -> DrivingStyle:
    """A random style for one episode of mode "recovery" or "aggressive".

    The data must show M the consequences of bad actions. If every car turns where the road turns,
    M learns that the road straightens whatever the action is, and CMA-ES exploits any action that
    M never saw, such as trembling wheels or a held brake. So the noise ranges from slow to white,
    and mode "recovery" also freezes the controls, swerves and holds the pedals.

    Half of the episodes are driven clockwise. Tracks run counterclockwise, so in the usual
    direction sharp right turns are too rare for V and M to learn.
    """
    clockwise = bool(rng.random() < 0.5)
    rate = math.exp(rng.uniform(math.log(0.03), 0.0))
    # The car responds to the mean over some steps, so fast noise may be stronger than slow noise.
    steer_noise = rng.uniform(0.0, 0.2) * (1 + 4 * rate)
    if mode == "aggressive":
        return DrivingStyle(
            pace=rng.uniform(1.05, 1.6),
            steer_noise=steer_noise / 2,
            pedal_noise=rng.uniform(0.0, 0.15),
            noise_rate=rate,
            gas_limit=rng.uniform(0.8, 1.0),
            clockwise=clockwise,
        )
    return DrivingStyle(
        pace=rng.uniform(0.5, 1.0),
        steer_noise=steer_noise,
        pedal_noise=rng.uniform(0.0, 0.3),
        noise_rate=rate,
        freeze_chance=rng.uniform(0.3, 1.0) / 100,
        # From none to one every six seconds; undisturbed driving is data too.
        swerve_chance=max(0.0, rng.uniform(-0.3, 1.0)) / 300,
        pedal_chance=max(0.0, rng.uniform(-0.5, 1.0)) / 150,
        gas_limit=rng.uniform(0.4, 0.87),
        clockwise=clockwise,
    )


class HeldAction:
    """A value held for a number of steps."""

    def __init__(self, value: Sequence[float] | np.ndarray = (), steps: int = 0):
        self.value, self.steps = np.array(value), steps

    def hold(self) -> bool:
        """Whether the value is still held; counts one step."""
        held = self.steps > 0
        self.steps -= held
        return held


class ScriptedDriver:
    """Follows the centre line. With `DrivingStyle()` it scores about 930 and finishes every lap.

    It steers towards a point some tiles ahead with damping of the yaw rate, and keeps to the safe
    speed of the corners ahead. The constants come from a random search on real tracks.
    """

    def __init__(self, style: DrivingStyle, rng: np.random.Generator):
        self.style, self.rng = style, rng
        scale = np.array([style.steer_noise, style.pedal_noise, style.pedal_noise])
        self.noise = OUNoise(rng, scale, style.noise_rate, size=3)

    def reset(self, environment: gymnasium.Env) -> None:
        """Read the environment's current track."""
        world: Any = environment.unwrapped  # CarRacing, ours or Gymnasium's
        self.car = world.car
        self.line = Centerline(world.track, self.style.clockwise)
        self.index: int | None = None
        self.freeze, self.swerve, self.pedals = HeldAction(), HeldAction(), HeldAction()

    def act(self, frame: np.ndarray) -> np.ndarray:
        """The action float32 (3) for the car's position; the frame is ignored."""
        action = self._follow_line()
        rng, style = self.rng, self.style
        if self.freeze.steps == 0 and rng.random() < style.freeze_chance:
            self.freeze = HeldAction(
                [rng.normal(0, 0.15), rng.uniform(0, 0.8)], int(rng.integers(20, 70))
            )
        if self.swerve.steps == 0 and rng.random() < style.swerve_chance:
            steer = rng.choice((-1.0, 1.0)) * rng.uniform(0.3, 1.0)
            self.swerve = HeldAction([steer, rng.uniform(0, 0.8), 0.0], int(rng.integers(15, 40)))
        if self.pedals.steps == 0 and rng.random() < style.pedal_chance:
            # Half of them with the brake fully down, some long enough to stop the car.
            held = rng.uniform(0, 1, 2) * (rng.random(2) < 0.7)
            held[1] = 1.0 if rng.random() < 0.5 else held[1]
            self.pedals = HeldAction(held, int(rng.exponential(40)) + 5)
        if self.freeze.hold():
            steer, gas = self.freeze.value
            action = np.array([steer, gas, 0.0] if gas > 0.3 else [steer, *action[1:]])
        if self.swerve.hold():
            action = self.swerve.value.copy()
        if self.pedals.hold():
            action[1:] = self.pedals.value
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
