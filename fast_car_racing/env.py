"""Gymnasium's CarRacing-v3 with the same frames, at twenty times the speed.

    env = gymnasium.make("fast_car_racing:FastCarRacing-v3")

Physics, tracks, rewards and ends are Gymnasium's own code. The observation comes from another
renderer, which gives the same bytes, and the car's forces from Python floats (car.py):
docs/environment.md tells how and how that was checked.
"""

import math
import warnings
from functools import lru_cache

import gymnasium
import numpy as np
import pygame
from gymnasium.envs.box2d import car_dynamics, car_racing
from gymnasium.envs.box2d.car_racing import CarRacing
from pygame.math import Vector2

from fast_car_racing import downscale as shrinking
from fast_car_racing import polygons as rasterizer
from fast_car_racing import scene
from fast_car_racing.car import FastCar, car_differs
from fast_car_racing.spans import HEIGHT, MAX_CORNERS

SHAPES = 8  # polygons of a car: four wheels, then four parts of the hull
NARROW, WIDE = 56, 2056  # commands that a row has room for

ACROSS = (1, 0)  # turned into the world: a body's cosine and sine


@lru_cache(maxsize=1)
def _font() -> pygame.font.Font:
    pygame.font.init()
    return pygame.font.Font(pygame.font.get_default_font(), 42)


def _write(text: str) -> pygame.Surface:
    try:
        return _font().render(text, True, (255, 255, 255), (0, 0, 0))
    except pygame.error:  # an environment's close() has ended pygame, and with it the font
        _font.cache_clear()
        return _font().render(text, True, (255, 255, 255), (0, 0, 0))


@lru_cache(maxsize=2048)
def _score(text: str, backend: str) -> tuple[tuple, int]:
    """The score as pygame writes it, as shrinking.shrink wants it, and the last column it needs."""
    drawn = _write(text)
    box = drawn.get_rect()
    box.center = (60, car_racing.WINDOW_H - car_racing.WINDOW_H * 2.5 / 40.0)
    hidden = max(0, -box.left)
    grey = np.asarray(drawn.get_view("2"))[hidden:]  # the palette goes from black to white
    averages = np.empty((box.height, box.width // shrinking.WHOLE + 3), np.int64)
    axes = shrinking.axes(backend)
    low, high = shrinking.average_text(grey, box.left + hidden, axes, averages)
    return (averages, low, high, box.top), int(shrinking.FIRST[high])


def _grass_corners() -> np.ndarray:
    """The playfield and its 400 patches of grass, in drawing order: (401, 4, 2) in world units."""
    edge, side = car_racing.PLAYFIELD, car_racing.GRASS_DIM
    squares = [[(edge, edge), (edge, -edge), (-edge, -edge), (-edge, edge)]]
    for x in range(-20, 20, 2):
        for y in range(-20, 20, 2):
            right, left, low, high = side * x + side, side * x + 0, side * y + 0, side * y + side
            squares.append([(right, low), (left, low), (left, high), (right, high)])
    return np.array(squares)


class Renderer:
    """Draws the `state_pixels` of one environment; `begin` once for each track.

    Raises KeyError if pygame's smoothscale backend is not one of `shrinking.BITS`.
    """

    def __init__(self):
        self.backend = pygame.transform.get_smoothscale_backend()
        # Most frames fit into the narrow table, which fits into the processor's cache.
        self.narrow = np.empty((HEIGHT, NARROW), np.int64)
        self.wide = np.empty((HEIGHT, WIDE), np.int64)
        self.counts = np.zeros(HEIGHT, np.int64)
        self.view = np.empty(40)

    def begin(self, env: CarRacing) -> None:
        """Lay out what is fixed for a track: corners, colours, the shapes of the car."""
        grass = _grass_corners()
        road = np.array([poly for poly, _ in env.road_poly], np.float64)
        self.corners = np.concatenate([grass, road])
        centers = self.corners.mean(axis=1, keepdims=True)
        reach = np.linalg.norm(self.corners - centers, axis=2).max(axis=1)
        self.circles = np.column_stack([centers[:, 0], reach])  # a circle around each polygon
        self.scratch = rasterizer.scratch_for(len(self.corners))
        self.colors = np.empty((len(self.corners), 3))
        self.colors[0], self.colors[1 : len(grass)] = env.bg_color, env.grass_color
        self.colors[len(grass) :] = [color for _, color in env.road_poly]
        self._share_colors(env, self.colors[len(grass) :])
        self.shapes = np.full((SHAPES + 1, MAX_CORNERS, 2), np.nan, np.float32)
        fixtures = [fixture for part in env.car.drawlist for fixture in part.fixtures]
        for shape, fixture in zip(self.shapes[:-1], fixtures, strict=True):
            vertices = fixture.shape.vertices
            shape[: len(vertices)] = vertices
        self._set_palette()

    def _share_colors(self, env: CarRacing, colors: np.ndarray) -> None:
        """Let tiles keep their colours in our array: driving over a tile changes its colour."""
        tiles = {id(tile.color): tile for tile in env.road}
        for i, (poly, color) in enumerate(env.road_poly):
            if id(color) in tiles:
                tiles[id(color)].color = colors[i]
                env.road_poly[i] = (poly, colors[i])

    def _set_palette(self) -> None:
        packed = shrinking.pack(np.array(scene.FIXED_COLORS + tuple(map(tuple, self.colors))))
        self.palette = packed[np.sort(np.unique(packed, return_index=True)[1])]
        self.memory = shrinking.memory_for(self.palette, self.backend)

    def draw(self, env: CarRacing) -> np.ndarray | None:
        """The observation, uint8 (96, 96, 3), or None where Gymnasium should draw it."""
        self.view[:] = _view(env)
        score, last_column = _score(f"{env.reward:04.0f}", self.backend)
        for commands in (self.narrow, self.wide):
            outcome = scene.draw_scene(
                commands, self.counts, self.scratch, self.view, self.corners, self.circles,
                self.colors, self.shapes, self.palette, last_column,
            )  # fmt: skip
            if outcome != scene.CROWDED:
                break
        if outcome != scene.DRAWN:
            return None
        frame = np.empty((shrinking.SIZE, 3 * shrinking.SIZE), np.uint8)
        drawn = shrinking.shrink(commands, self.counts, score, self.memory, frame.view(np.int32))
        return frame.reshape(shrinking.SIZE, shrinking.SIZE, 3) if drawn else None


def _view(env: CarRacing) -> list[float]:
    """What moves, as scene.draw_scene wants it, by CarRacing._render's own formulas."""
    hull, wheels = env.car.hull, env.car.wheels
    angle = -hull.angle
    zoom = 0.1 * car_racing.SCALE * max(1 - env.t, 0) + car_racing.ZOOM * car_racing.SCALE * min(
        env.t, 1
    )
    x, y = hull.position
    # pygame's own sine and cosine: it takes some angles for right ones
    cos, sin = Vector2(1, 0).rotate_rad(angle)
    left, bottom = Vector2(-x * zoom, -y * zoom).rotate_rad(angle)
    speed_x, speed_y = hull.linearVelocity
    view = [cos, sin, zoom, car_racing.WINDOW_W / 2 + left, car_racing.WINDOW_H / 4 + bottom]
    view.append(math.sqrt(speed_x * speed_x + speed_y * speed_y))
    view += [wheel.omega for wheel in wheels]
    view += (wheels[0].joint.angle, hull.angularVelocity)
    for body in (*wheels, hull):
        place, axis = body.position, body.GetWorldVector(ACROSS)
        view += (place.x, place.y, axis.x, axis.y)
    for wheel in wheels:
        view += _tread(wheel.phase)
    return view


def _tread(phase: float) -> tuple[float, float]:
    """Front and rear end of the light part of a tyre turned by `phase`; NaN where it is hidden."""
    sin1, sin2 = math.sin(phase), math.sin(phase + 1.2)
    if sin1 > 0 and sin2 > 0:
        return math.nan, math.nan
    cos1, cos2 = math.cos(phase), math.cos(phase + 1.2)
    if sin1 > 0:
        cos1 = math.copysign(1, cos1)
    if sin2 > 0:
        cos2 = math.copysign(1, cos2)
    radius, size = car_dynamics.WHEEL_R, car_dynamics.SIZE
    return radius * cos1 * size, radius * cos2 * size


class _Undrawn(CarRacing):
    """CarRacing without pictures, for the start-up check."""

    def _render(self, mode: str):
        return None


def _poses(env: CarRacing):
    """Put the car of `env` where a drawing rule could show: yields nothing, once for each pose."""
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


@lru_cache(maxsize=4)
def drawing_differs(backend: str) -> str:
    """Compare a few frames with Gymnasium's drawing; says what differs, "" if nothing does.

    backend: of pygame's smoothscale, in use now. Takes about 0.2 s, once in a process.
    """
    if backend not in shrinking.BITS:
        return f"pygame's smoothscale backend {backend} is not known"
    env = _Undrawn()
    env.reset(seed=1)
    for i in range(60):
        env.step(np.array([math.sin(i / 5), 0.5, 0.3 * (i > 40)]))
    renderer = Renderer()
    renderer.begin(env)
    for reward in range(-100, 1000):  # all that an episode will want, in 20 ms
        _score(f"{reward:04.0f}", backend)
    for number, _ in enumerate(_poses(env)):
        frame = renderer.draw(env)
        if frame is None or not np.array_equal(frame, CarRacing._render(env, "state_pixels")):
            return f"frame {number} of the start-up check differs"
    return ""


class FastCarRacing(CarRacing):
    """CarRacing with the same arguments, observations, rewards and ends, drawn by `Renderer`.

    Where the start-up check finds that Gymnasium, pygame or this machine draw or drive differently,
    it warns and leaves that to Gymnasium.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._renderer: Renderer | None = None
        drawing = drawing_differs(pygame.transform.get_smoothscale_backend())
        car = car_differs()
        self._draws_itself, self._drives_itself = not drawing, not car
        for part, difference in (("renderer", drawing), ("car", car)):
            if difference:
                warnings.warn(
                    f"FastCarRacing uses Gymnasium's own slow {part}: {difference} "
                    f"(gymnasium {gymnasium.__version__}, pygame {pygame.version.ver}).",
                    stacklevel=2,
                )

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        """As CarRacing.reset."""
        self._renderer = None  # the track will be new
        outcome = super().reset(seed=seed, options=options)
        if self._drives_itself:
            self.car.__class__ = FastCar  # CarRacing.reset lets nobody choose the class
        return outcome

    def _render(self, mode: str):
        if mode != "state_pixels" or not self._draws_itself or self.car is None:
            return super()._render(mode)
        if self._renderer is None:
            self._renderer = Renderer()
            self._renderer.begin(self)
        frame = self._renderer.draw(self)
        return super()._render(mode) if frame is None else frame
