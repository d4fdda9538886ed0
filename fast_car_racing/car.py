"""Gymnasium's car with the same motion to the last bit, on Python floats instead of NumPy scalars.

An operation on a NumPy scalar takes ten times as long as on a float. The operations and their order
are those of `gymnasium.envs.box2d.car_dynamics.Car`, whose comments explain them.
"""

import math

from gymnasium.envs.box2d import car_dynamics
from gymnasium.envs.box2d.car_dynamics import ENGINE_POWER, FRICTION_LIMIT, SIZE, Car

from fast_car_racing.bodies import state_reader

INERTIA = car_dynamics.WHEEL_MOMENT_OF_INERTIA
GRASS_FRICTION = FRICTION_LIMIT * 0.6
STIFFNESS = 205000 * SIZE * SIZE
BRAKE_FORCE = 15  # radians per second


class FastCar(Car):
    """A drop-in for `Car`, made from one by `make_fast`."""

    def steer(self, s):
        """As Car.steer."""
        s = float(s)
        for wheel in self.wheels[:2]:
            wheel.steer = s

    def gas(self, gas):
        """As Car.gas."""
        gas = min(max(float(gas), 0.0), 1.0)
        for wheel in self.wheels[2:4]:
            wheel.gas += min(gas - wheel.gas, 0.1)

    def brake(self, b):
        """As Car.brake."""
        b = float(b)
        for wheel in self.wheels:
            wheel.brake = b

    def step(self, dt):
        """As Car.step."""
        power = dt * ENGINE_POWER
        for wheel, read_state in zip(self.wheels, self._wheel_readers, strict=False):
            joint = wheel.joint
            turn = wheel.steer - joint.angle
            joint.motorSpeed = math.copysign(min(50.0 * abs(turn), 3.0), turn)
            limit, grass = GRASS_FRICTION, not wheel.tiles
            for tile in wheel.tiles:
                limit = max(limit, FRICTION_LIMIT * tile.road_friction)

            _, _, sin, cos, _, vx, vy, _ = read_state()
            forward_x = 0.0 - sin
            forward_speed = forward_x * vx + cos * vy
            side_speed = cos * vx + sin * vy

            omega, radius = wheel.omega, wheel.wheel_rad
            energy = power * wheel.gas
            omega += energy / INERTIA / (abs(omega) + 5.0)
            self.fuel_spent += energy
            if wheel.brake >= 0.9:
                omega = 0.0
            elif wheel.brake > 0:
                omega -= math.copysign(min(BRAKE_FORCE * wheel.brake, abs(omega)), omega)
            wheel.phase += omega * dt

            forward_force = (-forward_speed + omega * radius) * STIFFNESS
            side_force = -side_speed * STIFFNESS
            force = math.sqrt(forward_force * forward_force + side_force * side_force)
            if force > 2.0 * limit:
                self._update_skid(wheel, grass)
            else:
                wheel.skid_start = wheel.skid_particle = None
            if force > limit:
                forward_force = forward_force / force * limit
                side_force = side_force / force * limit
            wheel.omega = omega - dt * forward_force * radius / INERTIA
            wheel.ApplyForceToCenter(
                (
                    side_force * cos + forward_force * forward_x,
                    side_force * sin + forward_force * cos,
                ),
                True,
            )

    def _update_skid(self, wheel, grass):
        """Begin or extend the skid mark of a wheel."""
        trace = wheel.skid_particle
        if trace and trace.grass == grass and len(trace.poly) < 30:
            trace.poly.append((wheel.position[0], wheel.position[1]))
        elif wheel.skid_start is None:
            wheel.skid_start = wheel.position
        else:
            wheel.skid_particle = self._create_particle(wheel.skid_start, wheel.position, grass)
            wheel.skid_start = None


def make_fast(car: Car) -> None:
    """Turn a car of Gymnasium into a `FastCar`: CarRacing.reset has no hook for the class."""
    car.__class__ = FastCar
    car._wheel_readers = [state_reader(wheel) for wheel in car.wheels]
