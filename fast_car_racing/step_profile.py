"""Where the time of one `FastCarRacing.step` goes: `python -m fast_car_racing.benchmark --profile`.

A timer runs around each part. Medians over the steps, because other work on the machine makes some
steps slow.
"""

import contextlib
import platform
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from fast_car_racing import downscale, scene
from fast_car_racing.drivers import follow_line
from fast_car_racing.env import FastCarRacing

WARM_UP = 56  # frames before the clock starts: Gymnasium zooms in during the first 50
PHYSICS, LISTENER = "Box2D's world.Step", "Gymnasium's contact listener"
CAR, STATE = "car: forces on the wheels", "camera and state of the car"
SCENE, DOWNSCALE = "scene.draw_scene: corners and spans", "downscale.downscale: rows and cells"
REST = "the rest of CarRacing.step, the score, the timers"
PARTS = (PHYSICS, LISTENER, CAR, STATE, SCENE, DOWNSCALE, REST)
WHOLE = "whole step"


class Stopwatch:
    """Adds up the seconds that each part takes, without those of the parts inside it."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self._inner = [0.0]  # seconds of the parts inside each part that is running

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function that also counts its time."""

        def call(*args: Any, **kwargs: Any) -> Any:
            self._inner.append(0.0)
            begin = time.perf_counter()
            result = function(*args, **kwargs)
            elapsed = time.perf_counter() - begin
            self.seconds[part] += elapsed - self._inner.pop()
            self._inner[-1] += elapsed
            return result

        return call


@contextlib.contextmanager
def stopwatch(env: FastCarRacing) -> Iterator[Stopwatch]:
    """Time the parts of the steps of an environment that has drawn a frame."""
    watch = Stopwatch()
    places = (
        (env.world, "Step", PHYSICS),
        (env.world.contactListener, "BeginContact", LISTENER),
        (env.world.contactListener, "EndContact", LISTENER),
        (env.car, "step", CAR),
        (env._renderer, "_set_view", STATE),
        (scene, "draw_scene", SCENE),
        (downscale, "downscale", DOWNSCALE),
        (env, "step", REST),
    )
    with contextlib.ExitStack() as stack:
        for owner, name, part in places:
            timed = watch.timed(part, getattr(owner, name))
            stack.enter_context(mock.patch.object(owner, name, timed))
        yield watch


def measure_parts(tracks: int, steps: int) -> dict[str, float]:
    """Median microseconds of each part of a step and of the whole, along the centre line."""
    env = FastCarRacing()
    samples: dict[str, list[float]] = {part: [] for part in (*PARTS, WHOLE)}
    for track in range(tracks):
        env.reset(seed=track)
        for _ in range(WARM_UP):
            env.step(follow_line(env))
        with stopwatch(env) as watch:
            for _ in range(steps):
                action = follow_line(env)
                watch.seconds.clear()
                env.step(action)
                for part in PARTS:
                    samples[part].append(watch.seconds[part])
                samples[WHOLE].append(watch.seconds.total())
    return {part: 1e6 * float(np.median(times)) for part, times in samples.items()}


def processor() -> str:
    """The processor's name."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def profile_table(parts: dict[str, float]) -> str:
    """Microseconds of the parts, and their share of the whole step."""
    lines = [f"Median time of a step, {processor()}", f"{'':52s}{'µs':>6s}{'share':>8s}"]
    for part, time_spent in parts.items():
        lines.append(f"{part:52s}{time_spent:6.1f}{time_spent / parts[WHOLE]:8.0%}")
    return "\n".join(lines)
