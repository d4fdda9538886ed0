"""Gymnasium's CarRacing-v3 with the same frames, drawn some thirty times faster.

    env = gymnasium.make("utils.fast_car_racing:FastCarRacing-v3")

Physics, tracks, rewards and ends are Gymnasium's own code. Only the observation comes from another
renderer, which gives the same bytes: docs/environment.md tells how and how that was checked.
"""

import math
import warnings
from functools import lru_cache

import gymnasium
import numpy as np
import pygame
from gymnasium.envs.box2d import car_dynamics, car_racing
from gymnasium.envs.box2d.car_racing import CarRacing

from utils import rasterizer, shrinking

ENV_ID = "FastCarRacing-v3"
SHAPES = 8  # fixtures of a car: four wheels, then four parts of the hull


class _Score:
    """The score in the lower left corner, as pygame writes it."""

    @staticmethod
    @lru_cache(maxsize=4096)
    def bitmap(text: str) -> tuple[np.ndarray, np.ndarray]:
        """int64 0xRRGGBB pixels (height, width), and int64 (left, top) on the surface."""
        pygame.font.init()
        font = _Score.font()
        drawn = font.render(text, True, (255, 255, 255), (0, 0, 0))
        box = drawn.get_rect()
        box.center = (60, car_racing.WINDOW_H - car_racing.WINDOW_H * 2.5 / 40.0)
        surface = pygame.Surface(box.size)
        surface.blit(drawn, (0, 0))
        rgb = pygame.surfarray.array3d(surface).astype(np.int64).transpose(1, 0, 2)
        hidden = max(0, -box.left)
        pixels = rgb[:, hidden:, 0] << 16 | rgb[:, hidden:, 1] << 8 | rgb[:, hidden:, 2]
        return np.ascontiguousarray(pixels), np.array([box.left + hidden, box.top])

    @staticmethod
    @lru_cache(maxsize=1)
    def font() -> pygame.font.Font:
        return pygame.font.Font(pygame.font.get_default_font(), 42)


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
        bits = shrinking.BITS[pygame.transform.get_smoothscale_backend()]
        columns, column_recip = shrinking.shrinking_axis(rasterizer.WIDTH, shrinking.SIZE, bits)
        rows, row_recip = shrinking.shrinking_axis(rasterizer.HEIGHT, shrinking.SIZE, bits)
        ranges = shrinking.cell_ranges(columns, rasterizer.WIDTH)
        whole = shrinking.whole_pixels(columns)
        self.filters = columns, ranges, whole, column_recip, rows, row_recip, bits
        height, most = rasterizer.HEIGHT, rasterizer.MAX_COMMANDS
        self.commands = np.empty((height, most), np.int64)
        self.counts = np.zeros(height, np.int64)
        self.scratch = (
            np.empty((height, rasterizer.MAX_CORNERS), np.int64),
            np.zeros(height, np.int64),
            np.empty((height, 2), np.int64),
        )
        self.buffers = (
            np.empty(3 * shrinking.SIZE, np.uint8),
            np.empty(shrinking.SIZE, np.uint8),
            np.empty((shrinking.SIZE, shrinking.LANES), np.uint32),
            np.empty(4 * most, np.int64),
            np.empty(3 * shrinking.SIZE, np.uint16),
        )
        self.view = np.empty(12)
        self.bodies = np.empty((SHAPES, 4), np.float32)
        self.treads = np.empty((4, 4, 2), np.float32)

    def begin(self, env: CarRacing) -> None:
        """Lay out what is fixed for a track: corners, colours, the shapes of the car."""
        grass = _grass_corners()
        road = np.array([poly for poly, _ in env.road_poly], np.float64)
        self.corners = np.concatenate([grass, road])
        centers = self.corners.mean(axis=1, keepdims=True)
        reach = np.linalg.norm(self.corners - centers, axis=2).max(axis=1)
        self.circles = np.column_stack([centers[:, 0], reach])  # a circle around each polygon
        self.colors = np.empty((len(self.corners), 3))
        self.colors[0], self.colors[1 : len(grass)] = env.bg_color, env.grass_color
        self.colors[len(grass) :] = [color for _, color in env.road_poly]
        self._share_colors(env, self.colors[len(grass) :])
        self.shapes = np.full((SHAPES, rasterizer.MAX_CORNERS, 2), np.nan, np.float32)
        fixtures = [fixture for part in env.car.drawlist for fixture in part.fixtures]
        for shape, fixture in zip(self.shapes, fixtures, strict=True):
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
        rgb = np.array(rasterizer.FIXED_COLORS + tuple(map(tuple, self.colors.astype(np.int64))))
        packed = rgb[:, 0] << 16 | rgb[:, 1] << 8 | rgb[:, 2]
        first = np.sort(np.unique(packed, return_index=True)[1])
        self.palette, rgb = packed[first], rgb[first]
        columns, _, _, recip, _, _, bits = self.filters
        self.plain_averages = shrinking.plain_cells(rgb, columns, recip, bits)

    def draw(self, env: CarRacing) -> np.ndarray | None:
        """The observation, uint8 (96, 96, 3), or None where Gymnasium should draw it."""
        self._look(env)
        drawn = rasterizer.draw_scene(
            self.commands, self.counts, self.scratch, self.view, self.corners, self.circles,
            self.colors, self.shapes, self.bodies, self.treads, self.palette,
        )  # fmt: skip
        if not drawn:
            return None
        text, place = _Score.bitmap(f"{env.reward:04.0f}")
        frame = np.empty((shrinking.SIZE, 3 * shrinking.SIZE), np.uint8)
        shrinking.shrink(
            self.commands, self.counts, self.palette, self.plain_averages, text, place,
            self.filters, self.buffers, frame,
        )  # fmt: skip
        return frame.reshape(shrinking.SIZE, shrinking.SIZE, 3)

    def _look(self, env: CarRacing) -> None:
        """Camera, car and indicators, by the formulas of CarRacing._render and Car.draw."""
        hull, wheels = env.car.hull, env.car.wheels
        angle = -hull.angle
        zoom = 0.1 * car_racing.SCALE * max(1 - env.t, 0)
        zoom += car_racing.ZOOM * car_racing.SCALE * min(env.t, 1)
        x, y = hull.position
        cos, sin = pygame.math.Vector2(1, 0).rotate_rad(angle)
        shift = pygame.math.Vector2(-x * zoom, -y * zoom).rotate_rad(angle)
        speed = math.hypot(*hull.linearVelocity)
        view = self.view
        view[:5] = cos, sin, zoom, 500 + shift[0], 200 + shift[1]
        view[5:] = (
            speed, *(w.omega for w in wheels), wheels[0].joint.angle, hull.angularVelocity
        )  # fmt: skip
        for i, body in enumerate((*wheels, hull)):
            self.bodies[i : None if i == 4 else i + 1] = (
                *body.position,
                *body.GetWorldVector((1, 0)),
            )
        for tread, wheel in zip(self.treads, wheels, strict=True):
            _place_tread(tread, wheel.phase)


def _place_tread(tread: np.ndarray, phase: float) -> None:
    """Corners of the light part of a tyre that has turned by `phase`; NaN where it is hidden."""
    sin1, sin2 = math.sin(phase), math.sin(phase + 1.2)
    if sin1 > 0 and sin2 > 0:
        tread[0, 0] = np.nan
        return
    cos1, cos2 = math.cos(phase), math.cos(phase + 1.2)
    if sin1 > 0:
        cos1 = np.sign(cos1)
    if sin2 > 0:
        cos2 = np.sign(cos2)
    width, radius, size = car_dynamics.WHEEL_W, car_dynamics.WHEEL_R, car_dynamics.SIZE
    high, low = radius * cos1 * size, radius * cos2 * size
    tread[:] = (
        (-width * size, high), (width * size, high), (width * size, low), (-width * size, low)
    )  # fmt: skip


class FastCarRacing(CarRacing):
    """CarRacing with the same arguments, observations, rewards and ends, drawn by `Renderer`."""

    _renderer = None

    def reset(self, **kwargs):
        self._renderer = None  # the track is new
        return super().reset(**kwargs)

    def _render(self, mode: str):
        if mode != "state_pixels" or "t" not in self.__dict__:
            return super()._render(mode)
        if self._renderer is None:
            self._renderer = Renderer()
            self._renderer.begin(self)
        frame = self._renderer.draw(self)
        if frame is None:
            return super()._render(mode)
        return frame
