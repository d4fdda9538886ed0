"""Checks, once in a process, that drawing and motion are those of the installed Gymnasium.

Another version of Gymnasium, pygame or Box2D may draw or drive in another way. The environment then
warns and uses Gymnasium's code.
"""

import math
from collections.abc import Iterator
from functools import lru_cache
from types import SimpleNamespace

import Box2D
import numpy as np
from gymnasium.envs.box2d import car_racing
from gymnasium.envs.box2d.car_dynamics import Car
from gymnasium.envs.box2d.car_racing import CarRacing

from fast_car_racing.car import make_fast
from fast_car_racing.downscale import FRACTION_BITS
from fast_car_racing.renderer import Renderer, averaged_score


class UndrawnCarRacing(CarRacing):
    """CarRacing that draws nothing: the physics alone."""

    def _render(self, mode: str):
        return None


@lru_cache(maxsize=4)
def drawing_difference(backend: str) -> str:
    """Compare six observations with Gymnasium's; returns what differs, "" if nothing does.

    backend: of pygame's smoothscale, the one in use. Takes about 0.2 s.
    """
    if backend not in FRACTION_BITS:
        return f"pygame's smoothscale backend {backend} is not known"
    for reward in range(-100, 1000):  # the scores of an ordinary episode, in 20 ms
        averaged_score(f"{reward:04.0f}", backend)
    env = _driven_env()
    renderer = Renderer(env)
    for number, _ in enumerate(_poses(env)):
        frame = renderer.draw(env)
        if frame is None or not np.array_equal(frame, CarRacing._render(env, "state_pixels")):
            return f"frame {number} of the start-up check differs"
    return ""


@lru_cache(maxsize=1)
def film_difference() -> str:
    """Compare six frames of `rgb_array` with Gymnasium's; "" if nothing differs."""
    env = _driven_env()
    renderer = Renderer(env)
    for number, _ in enumerate(_poses(env)):
        frame = renderer.draw_film(env)
        if frame is None or not np.array_equal(frame, CarRacing._render(env, "rgb_array")):
            return f"film frame {number} of the start-up check differs"
    return ""


def _driven_env() -> UndrawnCarRacing:
    env = UndrawnCarRacing()
    env.reset(seed=1)
    for i in range(60):
        env.step(np.array([math.sin(i / 5), 0.5, 0.3 * (i > 40)]))
    return env


def _poses(env: CarRacing) -> Iterator[None]:
    """Move the car to six places that need all rules of drawing; yields after each move."""
    edge = car_racing.PLAYFIELD
    for t, (x, y), angle, score in (
        (0.02, env.track[0][2:], env.track[0][1], 0.0),
        (0.5, env.track[40][2:], 1.0, -12.3),
        (3.0, env.track[80][2:], math.pi / 2, 987.6),
        (4.0, env.track[120][2:], -2.2, 45.0),
        (5.0, (edge - 8, -edge + 8), 0.7, -99.9),
        (6.0, (0.0, edge - 1), 12.0, 5.0),
    ):
        env.t, env.reward = t, score
        hull = env.car.hull
        for body in (*env.car.wheels, hull):
            arm = hull.GetLocalVector(body.position - hull.position) if body is not hull else (0, 0)
            body.position, body.angle = (x + arm[0], y + arm[1]), angle
        yield


@lru_cache(maxsize=1)
def motion_difference() -> str:
    """Drive both cars the same way for four seconds; returns what differs, "" if nothing does."""
    drives = [_drive(fast) for fast in (False, True)]
    for step, (left, right) in enumerate(zip(*drives, strict=True)):
        if left != right:
            return f"the car's motion differs at step {step} of the start-up check"
    return ""


def _drive(fast: bool) -> Iterator[list]:
    """The states of a car that accelerates, brakes and skids, on road and on grass."""
    car = Car(Box2D.b2World((0, 0)), 0.3, 1.0, 2.0)
    if fast:
        make_fast(car)
    road = [SimpleNamespace(road_friction=1.0)]
    for step in range(200):
        car.steer(math.sin(step / 9))
        car.gas(1.5 * math.sin(step / 40))
        car.brake(max(0.0, math.sin(step / 17) - 0.05) * (step % 90 > 50))
        for number, wheel in enumerate(car.wheels):
            wheel.tiles = road if (step // 30 + number) % 3 else []
        car.step(1 / 50)
        car.world.Step(1 / 50, 180, 60)
        yield (
            [
                (*body.position, body.angle, *body.linearVelocity, body.angularVelocity)
                for body in car.drawlist
            ]
            + [
                (wheel.omega, wheel.phase, wheel.gas, wheel.joint.motorSpeed)
                for wheel in car.wheels
            ]
            + [car.fuel_spent]
            + [(list(trace.poly), trace.grass) for trace in car.particles]
        )
