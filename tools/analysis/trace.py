"""Traces of real drives: tiles, speed, wheels on the road, and pushes that disturb the car.

`RecordingWrapper` wraps the environment, so that the rollout code of utils/sim is used unchanged.
The driver does not see it.
"""

from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np

from utils.sim import rollouts as driving
from utils.sim.tasks import DriveBatch, DriveResult, DriveTask

CURVATURE_SPAN = 3  # tiles to either side that the curvature is measured over: 21 units in total
RECOVERY_STEPS = 150  # steps after a push, 3 s, within which the drive has to recover
FIRST_PUSH = (100, 200)  # step of the first push, drawn from this range
PAUSE = (50, 150)  # steps between the end of a recovery and the next push, drawn from this range
NO_PUSH_TILES = 60  # last tiles of a lap, without pushes: too few remain to show a recovery
UNITS = {"sideways": "units/s", "spin": "rad/s"}
MAX_TILE_AGE = 25  # steps since the last new tile within which a drive counts as normal


@dataclass(frozen=True)
class Push:
    """A sudden change of the velocity of the whole car: sideways in units/s or a spin in rad/s."""

    kind: str = "none"
    strength: float = 0.0

    def __str__(self) -> str:
        return f"{self.kind} {self.strength:g} {UNITS[self.kind]}" if self.strength else "no push"

    def apply(self, car: Any, side: int) -> None:
        """Push a car to its right (`side` 1) or left (−1), or spin it to its left (1) or right."""
        bodies, jump = (car.hull, *car.wheels), side * self.strength
        centre, across = car.hull.worldCenter, car.hull.GetWorldVector((1, 0))
        for body in bodies:
            if self.kind == "sideways":
                body.linearVelocity = body.linearVelocity + jump * across
            elif self.kind == "spin":  # a rigid rotation about the hull's centre
                arm, before = body.worldCenter - centre, body.linearVelocity
                body.linearVelocity = (before.x - jump * arm.y, before.y + jump * arm.x)
                body.angularVelocity += jump


@dataclass(frozen=True)
class Trace:
    """The record of a drive of T steps on a track of N tiles."""

    result: DriveResult
    curvature: np.ndarray  # float (N), 1/unit, of the centre line at each tile
    visited: np.ndarray  # int (N), number of steps before the tile was visited, −1 if it was not
    speed: np.ndarray  # float (T), units/s after each step
    wheels: np.ndarray  # int (T), wheels on the road after each step
    pushes: tuple[int, ...]  # number of steps before each push


def curvature_of(line: np.ndarray) -> np.ndarray:
    """Unsigned curvature of a closed line, float (N), from its points, float (N, 2).

    Menger's curvature, of the circle through a point and the points CURVATURE_SPAN before and after
    it: 4 × area / product of the sides. It is exact on a circle, however its points are spaced.
    """
    before, after = np.roll(line, CURVATURE_SPAN, axis=0), np.roll(line, -CURVATURE_SPAN, axis=0)
    to, on = line - before, after - line
    twice_area = np.abs(to[:, 0] * on[:, 1] - to[:, 1] * on[:, 0])
    sides = np.hypot(*to.T) * np.hypot(*on.T) * np.hypot(*(after - before).T)
    return 2 * twice_area / sides


class RecordingWrapper(gymnasium.Wrapper):
    """Records a CarRacing drive and pushes the car at random moments.

    The car is pushed only in normal driving: all wheels on the road, a new tile within the last
    MAX_TILE_AGE steps, and more than NO_PUSH_TILES tiles to go. The moments depend on `rng` alone,
    so all kinds of pushes on a track share the drive up to the first push. A push of strength 0
    (`Push()`) is recorded without effect.
    """

    def __init__(
        self, environment: gymnasium.Env, push: Push, max_steps: int, rng: np.random.Generator
    ):
        super().__init__(environment)
        self.push, self.max_steps, self.rng = push, max_steps, rng

    def reset(self, **options: Any) -> tuple[np.ndarray, dict[str, Any]]:
        """Reset the environment and start a new trace."""
        observation, info = self.env.reset(**options)
        track = self.unwrapped
        self.curvature = curvature_of(np.asarray(track.track)[:, 2:4])
        self.visited = np.full(len(track.road), -1)
        self.speed: list[float] = []
        self.wheels: list[int] = []
        self.pushes: list[int] = []
        self.due = int(self.rng.integers(*FIRST_PUSH))
        self._record_tiles()
        return observation, info

    def step(self, action: np.ndarray) -> tuple:
        """Step the environment, after a push if one is due."""
        if self._is_due():
            side = int(self.rng.choice((-1, 1)))
            self.push.apply(self.unwrapped.car, side)
            self.pushes.append(len(self.speed))
            self.due = len(self.speed) + RECOVERY_STEPS + int(self.rng.integers(*PAUSE))
        outcome = self.env.step(action)
        car = self.unwrapped.car
        self.speed.append(float(np.hypot(*car.hull.linearVelocity)))
        self.wheels.append(sum(len(wheel.tiles) > 0 for wheel in car.wheels))
        self._record_tiles()
        return outcome

    def _record_tiles(self) -> None:
        track = self.unwrapped
        if track.tile_visited_count == (self.visited >= 0).sum():
            return
        now = np.array([tile.road_visited for tile in track.road])
        new = now & (self.visited < 0)
        self.visited[new] = len(self.speed)
        self.newest = int(np.flatnonzero(new)[-1])

    def _is_due(self) -> bool:
        now = len(self.speed)
        return (
            self.due <= now <= self.max_steps - RECOVERY_STEPS
            and self.wheels[-1] == 4
            and now - self.visited[self.newest] <= MAX_TILE_AGE
            and self.newest < len(self.visited) - NO_PUSH_TILES
        )

    def trace(self, result: DriveResult) -> Trace:
        """The trace since the last reset."""
        return Trace(
            result,
            self.curvature,
            self.visited,
            np.array(self.speed, np.float32),
            np.array(self.wheels, np.int8),
            tuple(self.pushes),
        )


@dataclass(frozen=True)
class Trial:
    """A batch of drives in one process, all with the same push."""

    group: DriveBatch
    push: Push

    def __str__(self) -> str:
        return f"{self.group} ({self.push})"


def run_trial(trial: Trial) -> list[Trace]:
    """Drive the episodes of a trial and write their files; returns their traces in order."""
    recorders: dict[int, RecordingWrapper] = {}

    def wrap(task: DriveTask, environment: gymnasium.Env) -> RecordingWrapper:
        rng = np.random.default_rng([task.seed, task.track])
        recorders[task.track] = RecordingWrapper(environment, trial.push, task.max_steps, rng)
        return recorders[task.track]

    traces = {
        task.track: recorders[task.track].trace(driving.save_result(task, episode))
        for task, episode in driving.drive_batch(trial.group, wrap)
    }
    return [traces[task.track] for task in trial.group.tasks]
