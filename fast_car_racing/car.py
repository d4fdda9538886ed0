"""Gymnasium's car with the same motion to the last bit, on Python floats in place of NumPy scalars.

A NumPy scalar takes ten times as long as a float for the same operation. The order of operations is
that of `gymnasium.envs.box2d.car_dynamics.Car`, whose comments explain them.
"""

import math
from functools import lru_cache
from types import SimpleNamespace

import Box2D
from gymnasium.envs.box2d import car_dynamics
from gymnasium.envs.box2d.car_dynamics import ENGINE_POWER, FRICTION_LIMIT, SIZE, Car

INERTIA = car_dynamics.WHEEL_MOMENT_OF_INERTIA
GRASS_FRICTION = FRICTION_LIMIT * 0.6
STIFFNESS = 205000 * SIZE * SIZE
BRAKE_FORCE = 15  # radians per second
AHEAD = (0, 1)


class FastCar(Car):
    """A drop-in for `Car`: make a car fast by `car.__class__ = FastCar`."""

    def steer(self, s):
        """As Car.steer."""
        super().steer(float(s))

    def gas(self, gas):
        """As Car.gas."""
        gas = min(max(float(gas), 0.0), 1.0)
        for wheel in self.wheels[2:4]:
            wheel.gas += min(gas - wheel.gas, 0.1)

    def brake(self, b):
        """As Car.brake."""
        super().brake(float(b))

    def step(self, dt):
        """As Car.step."""
        power = dt * ENGINE_POWER
        for wheel in self.wheels:
            turn = wheel.steer - wheel.joint.angle
            wheel.joint.motorSpeed = _sign(turn) * min(50.0 * abs(turn), 3.0)
            friction = [FRICTION_LIMIT * tile.road_friction for tile in wheel.tiles]
            limit = max(GRASS_FRICTION, *friction) if friction else GRASS_FRICTION

            ahead, speed = wheel.GetWorldVector(AHEAD), wheel.linearVelocity
            ahead_x, ahead_y, speed_x, speed_y = ahead.x, ahead.y, speed.x, speed.y
            forward = ahead_x * speed_x + ahead_y * speed_y
            sideward = ahead_y * speed_x + -ahead_x * speed_y

            omega = wheel.omega
            omega += power * wheel.gas / INERTIA / (abs(omega) + 5.0)
            self.fuel_spent += power * wheel.gas
            if wheel.brake >= 0.9:
                omega = 0.0
            elif wheel.brake > 0:
                omega -= _sign(omega) * min(BRAKE_FORCE * wheel.brake, abs(omega))
            wheel.phase += omega * dt

            along = (-forward + omega * wheel.wheel_rad) * STIFFNESS
            across = -sideward * STIFFNESS
            force = math.sqrt(along * along + across * across)
            self._mark_skid(wheel, force > 2.0 * limit, not friction)
            if force > limit:
                along = along / force * limit
                across = across / force * limit
            wheel.omega = omega - dt * along * wheel.wheel_rad / INERTIA
            wheel.ApplyForceToCenter(
                (across * ahead_y + along * ahead_x, across * -ahead_x + along * ahead_y), True
            )

    def _mark_skid(self, wheel, skids, grass):
        trace = wheel.skid_particle
        if not skids:
            wheel.skid_start = wheel.skid_particle = None
        elif trace and trace.grass == grass and len(trace.poly) < 30:
            trace.poly.append((wheel.position[0], wheel.position[1]))
        elif wheel.skid_start is None:
            wheel.skid_start = wheel.position
        else:
            wheel.skid_particle = self._create_particle(wheel.skid_start, wheel.position, grass)
            wheel.skid_start = None


def _sign(number: float) -> int:
    return (number > 0) - (number < 0)


@lru_cache(maxsize=1)
def car_differs() -> str:
    """Drive both cars the same way for a few seconds; says what differs, "" if nothing does."""
    courses = [_course(car_class) for car_class in (Car, FastCar)]
    for step, (left, right) in enumerate(zip(*courses, strict=True)):
        if left != right:
            return f"the car's motion differs at step {step} of the start-up check"
    return ""


def _course(car_class: type[Car]):
    """The states that a car goes through: gas, brakes, skids, on road and on grass."""
    car = Car(Box2D.b2World((0, 0)), 0.3, 1.0, 2.0)
    car.__class__ = car_class
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
