"""What happens on the real track besides the frames: tiles, speeds, wheels on grass, pushes.

A `Witness` is a wrapper around an environment, so that the one real rollout serves the study of an
agent as it serves everything else. The driver knows nothing of it.
"""

from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np

from utils.sim import rollouts as driving
from utils.sim.tasks import DriveBatch, DriveResult, DriveTask

REACH = 3  # tiles to either side that a curvature is measured over: 21 units in all
WINDOW = 150  # steps after a push, 3 s, in which the drive has to go on
FIRST_PUSH = (100, 200)  # steps: the first push comes between these
PAUSE = (50, 150)  # steps from the end of a push's window to the next push
LAP_END = 60  # tiles before the end of the lap in which nobody is pushed: too few are left to win
UNITS = {"sideways": "units/s", "spin": "rad/s"}
FRESH = 25  # steps: a car that had a new tile so lately drives normally


@dataclass(frozen=True)
class Push:
    """What happens to the whole car at once: every part of it gets the same jump of velocity."""

    kind: str = "none"
    strength: float = 0.0

    def __str__(self) -> str:
        return f"{self.kind} {self.strength:g} {UNITS[self.kind]}" if self.strength else "no push"

    def give(self, car: Any, side: int) -> None:
        """Push a CarRacing car to its right (`side` 1) or left (−1); a spin: to its left (1)."""
        bodies, jump = (car.hull, *car.wheels), side * self.strength
        centre, across = car.hull.worldCenter, car.hull.GetWorldVector((1, 0))
        for body in bodies:
            if self.kind == "sideways":
                body.linearVelocity = body.linearVelocity + jump * across
            elif self.kind == "spin":  # as one rigid body about the hull's centre
                arm, before = body.worldCenter - centre, body.linearVelocity
                body.linearVelocity = (before.x - jump * arm.y, before.y + jump * arm.x)
                body.angularVelocity += jump


@dataclass(frozen=True)
class Trace:
    """What was witnessed of a drive of T steps on a track of N tiles."""

    outcome: DriveResult
    curvature: np.ndarray  # float (N), 1/unit, of the centre line at each tile
    visited: np.ndarray  # int (N), steps done when the tile was visited, −1 if it never was
    speed: np.ndarray  # float (T), units/s after each step
    wheels: np.ndarray  # int (T), wheels on the road after each step
    pushes: tuple[int, ...]  # steps done before each push


def curvature_of(line: np.ndarray) -> np.ndarray:
    """Unsigned curvature of a closed line, float (N), from its points, float (N, 2).

    It is that of the circle through a point and the points REACH before and after it (Menger):
    4 × area / product of the sides, exact on a circle however the points are spaced.
    """
    before, after = np.roll(line, REACH, axis=0), np.roll(line, -REACH, axis=0)
    to, on = line - before, after - line
    twice_area = np.abs(to[:, 0] * on[:, 1] - to[:, 1] * on[:, 0])
    sides = np.hypot(*to.T) * np.hypot(*on.T) * np.hypot(*(after - before).T)
    return 2 * twice_area / sides


class Witness(gymnasium.Wrapper):
    """Notes what happens in a CarRacing environment, and pushes the car at random moments.

    A push comes only in normal driving: all wheels on the road, a new tile lately, the lap's end
    not near. The moments follow from `rng` alone, so that until the first one all pushes of a
    track meet the same drive; without strength (`Push()`) they are noted and nothing happens.
    """

    def __init__(
        self, environment: gymnasium.Env, push: Push, max_steps: int, rng: np.random.Generator
    ):
        super().__init__(environment)
        self.push, self.max_steps, self.rng = push, max_steps, rng

    def reset(self, **options: Any) -> tuple[np.ndarray, dict[str, Any]]:
        """As the environment's; begins a new trace."""
        observation, info = self.env.reset(**options)
        track = self.unwrapped
        self.curvature = curvature_of(np.asarray(track.track)[:, 2:4])
        self.visited = np.full(len(track.road), -1)
        self.speed: list[float] = []
        self.wheels: list[int] = []
        self.pushes: list[int] = []
        self.due = int(self.rng.integers(*FIRST_PUSH))
        self._note_tiles()
        return observation, info

    def step(self, action: np.ndarray) -> tuple:
        """As the environment's, perhaps after a push."""
        if self._is_due():
            side = int(self.rng.choice((-1, 1)))
            self.push.give(self.unwrapped.car, side)
            self.pushes.append(len(self.speed))
            self.due = len(self.speed) + WINDOW + int(self.rng.integers(*PAUSE))
        outcome = self.env.step(action)
        car = self.unwrapped.car
        self.speed.append(float(np.hypot(*car.hull.linearVelocity)))
        self.wheels.append(sum(len(wheel.tiles) > 0 for wheel in car.wheels))
        self._note_tiles()
        return outcome

    def _note_tiles(self) -> None:
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
            self.due <= now <= self.max_steps - WINDOW
            and self.wheels[-1] == 4
            and now - self.visited[self.newest] <= FRESH
            and self.newest < len(self.visited) - LAP_END
        )

    def trace(self, outcome: DriveResult) -> Trace:
        """What was witnessed since the last reset."""
        return Trace(
            outcome,
            self.curvature,
            self.visited,
            np.array(self.speed, np.float32),
            np.array(self.wheels, np.int8),
            tuple(self.pushes),
        )


@dataclass(frozen=True)
class Trial:
    """Drives that one process does under the same push."""

    group: DriveBatch
    push: Push

    def __str__(self) -> str:
        return f"{self.group} ({self.push})"


def run_trial(trial: Trial) -> list[Trace]:
    """Drive the episodes of a trial, write the files that are asked for; traces in order."""
    witnesses: dict[int, Witness] = {}

    def watch(task: DriveTask, environment: gymnasium.Env) -> Witness:
        rng = np.random.default_rng([task.seed, task.track])
        witnesses[task.track] = Witness(environment, trial.push, task.max_steps, rng)
        return witnesses[task.track]

    traces = {
        task.track: witnesses[task.track].trace(driving.save_result(task, episode))
        for task, episode in driving.drive_batch(trial.group, watch)
    }
    return [traces[task.track] for task in trial.group.tasks]
