"""Gymnasium's car with the same motion to the last bit, on Python floats instead of NumPy scalars.

An operation on a NumPy scalar takes ten times as long as on a float. The operations and their order
are those of `gymnasium.envs.box2d.car_dynamics.Car`, whose comments explain them.
"""

import math

from gymnasium.envs.box2d import car_dynamics
from gymnasium.envs.box2d.car_dynamics import ENGINE_POWER, FRICTION_LIMIT, SIZE, Car

INERTIA = car_dynamics.WHEEL_MOMENT_OF_INERTIA
GRASS_FRICTION = FRICTION_LIMIT * 0.6
STIFFNESS = 205000 * SIZE * SIZE
BRAKE_FORCE = 15  # radians per second
FORWARD = (0, 1)


class FastCar(Car):
    """A drop-in for `Car`: `car.__class__ = FastCar` makes a car fast."""

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

            forward, velocity = wheel.GetWorldVector(FORWARD), wheel.linearVelocity
            forward_x, forward_y, vx, vy = forward.x, forward.y, velocity.x, velocity.y
            forward_speed = forward_x * vx + forward_y * vy
            side_speed = forward_y * vx + -forward_x * vy

            omega = wheel.omega
            omega += power * wheel.gas / INERTIA / (abs(omega) + 5.0)
            self.fuel_spent += power * wheel.gas
            if wheel.brake >= 0.9:
                omega = 0.0
            elif wheel.brake > 0:
                omega -= _sign(omega) * min(BRAKE_FORCE * wheel.brake, abs(omega))
            wheel.phase += omega * dt

            forward_force = (-forward_speed + omega * wheel.wheel_rad) * STIFFNESS
            side_force = -side_speed * STIFFNESS
            force = math.sqrt(forward_force * forward_force + side_force * side_force)
            self._update_skid(wheel, force > 2.0 * limit, not friction)
            if force > limit:
                forward_force = forward_force / force * limit
                side_force = side_force / force * limit
            wheel.omega = omega - dt * forward_force * wheel.wheel_rad / INERTIA
            wheel.ApplyForceToCenter(
                (
                    side_force * forward_y + forward_force * forward_x,
                    side_force * -forward_x + forward_force * forward_y,
                ),
                True,
            )

    def _update_skid(self, wheel, skids, grass):
        """Begin, extend or end the skid mark of a wheel."""
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
