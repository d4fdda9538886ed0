"""Traces of an agent's drives: curvature and pushes, checked by hand."""

import math
from typing import Any

import numpy as np
import pytest

from tools.analysis.trace import Push, Trial, curvature_of, run_trial
from utils.data.splits import VALIDATION
from utils.sim.env import make_environment
from utils.sim.rollouts import drive_batch
from utils.sim.tasks import DriveBatch, DriveTask


def test_a_circle_has_the_curvature_of_its_radius_however_its_points_are_spaced() -> None:
    angles = np.sort(np.random.default_rng(0).uniform(0, 2 * np.pi, 200))
    line = np.stack([3 + 25 * np.cos(angles), -7 + 25 * np.sin(angles)], axis=1)
    np.testing.assert_allclose(curvature_of(line), 1 / 25, rtol=1e-6)
    np.testing.assert_allclose(curvature_of(line[::-1]), 1 / 25, rtol=1e-6)  # to the right


def test_a_stadium_is_straight_on_its_sides_and_round_at_its_ends() -> None:
    side, half = np.arange(0.0, 100.0, 3.5), np.linspace(0, np.pi, 20)
    radius = 15.0
    line = np.concatenate(
        [
            np.stack([side, np.full_like(side, -radius)], 1),
            np.stack([103.5 + radius * np.sin(half), -radius * np.cos(half)], 1),
            np.stack([side[::-1], np.full_like(side, radius)], 1),
            np.stack([-3.5 - radius * np.sin(half), radius * np.cos(half)], 1),
        ]
    )
    curvature = curvature_of(line)
    np.testing.assert_allclose(curvature[5:24], 0, atol=1e-9)
    np.testing.assert_allclose(curvature[len(side) + 5 : len(side) + 15], 1 / radius, rtol=1e-6)


def driving_environment() -> Any:
    environment = make_environment()
    environment.reset(seed=VALIDATION[0])
    for _ in range(60):
        environment.step(np.float32([0.1, 0.6, 0.0]))
    return environment


def velocities(car: Any) -> np.ndarray:
    return np.array([tuple(body.linearVelocity) for body in (car.hull, *car.wheels)])


@pytest.mark.parametrize("side", [1, -1])
def test_a_sideways_push_adds_its_velocity_to_every_part_of_the_car(side: int) -> None:
    pushed, free = driving_environment(), driving_environment()
    before, angle = velocities(pushed.car), pushed.car.hull.angle
    Push("sideways", 30.0).apply(pushed.car, side)
    right = np.array([math.cos(angle), math.sin(angle)])  # the hull points along its own y axis
    np.testing.assert_allclose(velocities(pushed.car) - before, [side * 30 * right] * 5, atol=1e-3)
    for environment in (pushed, free):
        environment.step(np.float32([0, 0, 0]))
    moved = np.array(pushed.car.hull.position) - np.array(free.car.hull.position)
    assert 0.3 < side * moved @ right <= 30 / 50  # units in 1/50 s; the tyres hold against it


def test_a_spin_rotates_the_car_as_a_rigid_body() -> None:
    car = driving_environment().car
    turning, before = car.hull.angularVelocity, velocities(car)
    arms = np.array([tuple(wheel.worldCenter - car.hull.worldCenter) for wheel in car.wheels])
    Push("spin", 5.0).apply(car, 1)
    assert car.hull.angularVelocity == pytest.approx(turning + 5)
    change = velocities(car) - before
    np.testing.assert_allclose(change[0], 0, atol=1e-6)
    np.testing.assert_allclose(np.hypot(*change[1:].T), 5 * np.hypot(*arms.T), rtol=1e-4)
    np.testing.assert_allclose((change[1:] * arms).sum(1), 0, atol=1e-3)  # nothing is torn off
    assert (arms[:, 0] * change[1:, 1] - arms[:, 1] * change[1:, 0] > 0).all()  # to the left


def test_recording_does_not_change_a_drive_but_a_push_does() -> None:
    group = DriveBatch((DriveTask(VALIDATION[1], "scripted", 320),))
    ((_, plain),) = drive_batch(group)
    recorded, pushed = (run_trial(Trial(group, push))[0] for push in (Push(), Push("spin", 9.0)))
    assert recorded.result.score == plain.score and recorded.result.steps == 320
    first = recorded.pushes[0]
    assert pushed.pushes[0] == first and 100 <= first < 200
    # The same drive up to the push, another from its very step on.
    np.testing.assert_array_equal(recorded.speed[:first], pushed.speed[:first])
    assert recorded.speed[first] != pushed.speed[first]
    assert (recorded.visited > 0).sum() > 30 and recorded.wheels.min() >= 0
