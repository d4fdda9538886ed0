"""The state of a body, read from its memory, against Box2D's own properties."""

import struct

import numpy as np
import pytest
from gymnasium.envs.box2d.car_racing import CarRacing

from fast_car_racing import bodies
from fast_car_racing.env import FastCarRacing
from fast_car_racing.startup_check import UndrawnCarRacing, drawing_difference, motion_difference


def test_state_is_that_of_box2ds_properties():
    env = UndrawnCarRacing()
    env.reset(seed=0)
    readers = [bodies.state_reader(body) for body in env.car.drawlist]
    for steer in (0.3, -1.0, 1.0):
        for _ in range(30):
            env.step(np.array([steer, 0.5, 0.0]))
        for body, read_state in zip(env.car.drawlist, readers, strict=True):
            cos, sin = body.GetWorldVector((1, 0))
            turn = (sin, cos, body.angle)
            motion = (*body.linearVelocity, body.angularVelocity)
            assert read_state() == (*body.position, *turn, *motion)
            assert 0.0 not in read_state()


def test_another_arrangement_of_a_body_falls_back_to_gymnasium(monkeypatch):
    """As if Box2D had a transform more at the start of a body."""
    monkeypatch.setattr(bodies, "_STATE", struct.Struct("28x 4f 28x f 4x 3f"))
    checks = (drawing_difference, motion_difference)
    for check in checks:
        check.cache_clear()
    try:
        with (
            pytest.warns(UserWarning, match="Gymnasium's own slow renderer"),
            pytest.warns(UserWarning, match="Gymnasium's own slow car"),
        ):
            env = FastCarRacing()
        original = CarRacing()
        frames = [environment.reset(seed=1)[0] for environment in (env, original)]
        np.testing.assert_array_equal(*frames)
        action = np.array([0.5, 1.0, 0.0])
        for left, right in zip(env.step(action), original.step(action), strict=True):
            np.testing.assert_array_equal(left, right)
    finally:
        for check in checks:
            check.cache_clear()
