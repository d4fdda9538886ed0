"""Draws a CarRacing world to the bytes that Gymnasium draws.

docs/environment.md of the repository has the rules of pygame that the compiled modules follow.
"""

import math
import struct
from functools import lru_cache

import numpy as np
import pygame
from gymnasium.envs.box2d import car_dynamics, car_racing
from gymnasium.envs.box2d.car_racing import CarRacing
from pygame.math import Vector2

from fast_car_racing import downscale, painting, scene
from fast_car_racing.bodies import state_reader
from fast_car_racing.polygons import make_workspace
from fast_car_racing.spans import HEIGHT, MAX_CORNERS, WIDTH

CAR_PARTS = 8  # four wheels, then four polygons of the hull
NARROW, WIDE = 56, 2056  # spans that a row has room for
VIEW = struct.Struct("40d")  # of `scene.draw_scene`
RGB_MASKS = (0xFF0000, 0xFF00, 0xFF)  # the pixels that `painting.paint` writes


@lru_cache(maxsize=1)
def _font() -> pygame.font.Font:
    pygame.font.init()
    return pygame.font.Font(pygame.font.get_default_font(), 42)


def _render_text(text: str) -> pygame.Surface:
    try:
        return _font().render(text, True, (255, 255, 255), (0, 0, 0))
    except pygame.error:  # an environment's close() ended pygame, and the font with it
        _font.cache_clear()
        return _font().render(text, True, (255, 255, 255), (0, 0, 0))


@lru_cache(maxsize=256)
def score_text(text: str) -> tuple[pygame.Surface, pygame.Rect]:
    """The score as pygame draws it, and its place on the surface."""
    drawn = _render_text(text)
    box = drawn.get_rect()
    box.center = (60, car_racing.WINDOW_H - car_racing.WINDOW_H * 2.5 / 40.0)
    return drawn, box


@lru_cache(maxsize=2048)
def averaged_score(text: str, backend: str) -> tuple[tuple, int]:
    """The score as an argument of `downscale`, and the last column of the surface that it needs."""
    drawn, box = score_text(text)
    hidden = max(0, -box.left)
    grey = np.asarray(drawn.get_view("2"))[hidden:]  # the palette goes from black to white
    averages = np.empty((box.height, box.width // downscale.WHOLE_PIXELS + 3), np.int64)
    axes = downscale.make_axes(backend)
    low, high = downscale.average_text(grey, box.left + hidden, axes, averages)
    return (averages, low, high, box.top), int(downscale.FIRST[high])


@lru_cache(maxsize=1)
def _grass_corners() -> np.ndarray:
    """The playfield and its 400 patches of grass in drawing order: (401, 4, 2) in world units."""
    edge, side = car_racing.PLAYFIELD, car_racing.GRASS_DIM
    squares = [[(edge, edge), (edge, -edge), (-edge, -edge), (-edge, edge)]]
    for x in range(-20, 20, 2):
        for y in range(-20, 20, 2):
            right, left, low, high = side * x + side, side * x + 0, side * y + 0, side * y + side
            squares.append([(right, low), (left, low), (left, high), (right, high)])
    return np.array(squares)


class Renderer:
    """Draws one track of one environment, from the state that the environment has.

    Raises KeyError if pygame's smoothscale backend is not one of `downscale.FRACTION_BITS`.
    """

    def __init__(self, env: CarRacing):
        self.backend = pygame.transform.get_smoothscale_backend()
        # Most frames fit into the narrow table, which fits into the processor's cache.
        self.narrow = downscale.aligned_zeros((HEIGHT, NARROW), np.int64)
        self.wide: np.ndarray | None = None
        self.counts = np.zeros(HEIGHT, np.int64)
        self.view = np.empty(40)
        self._set_ground(env)
        self._set_car(env)
        colors = np.array(scene.FIXED_COLORS + tuple(map(tuple, self.ground[2])))
        packed = downscale.pack_colors(colors)
        self.palette = packed[np.sort(np.unique(packed, return_index=True)[1])]
        self.buffers = downscale.make_buffers(self.palette, self.backend)

    def _set_ground(self, env: CarRacing) -> None:
        grass = _grass_corners()
        road = np.array([poly for poly, _ in env.road_poly], np.float64)
        corners = np.concatenate([grass, road])
        centers = corners.mean(axis=1, keepdims=True)
        radii = np.linalg.norm(corners - centers, axis=2).max(axis=1)
        circles = np.column_stack([centers[:, 0], radii])
        self.workspace = make_workspace(len(corners))
        colors = np.empty((len(corners), 3))
        colors[0], colors[1 : len(grass)] = env.bg_color, env.grass_color
        colors[len(grass) :] = [color for _, color in env.road_poly]
        self._share_colors(env, colors[len(grass) :])
        self.ground = (corners, circles, colors)

    def _share_colors(self, env: CarRacing, colors: np.ndarray) -> None:
        """Make the tiles' colours views of `colors`: a tile changes its colour when driven on."""
        tiles = {id(tile.color): tile for tile in env.road}
        for i, (poly, color) in enumerate(env.road_poly):
            if id(color) in tiles:
                tiles[id(color)].color = colors[i]
                env.road_poly[i] = (poly, colors[i])

    def _set_car(self, env: CarRacing) -> None:
        self.car = env.car
        self.state_readers = [state_reader(body) for body in env.car.drawlist]
        self.shapes = np.full((CAR_PARTS + 1, MAX_CORNERS, 2), np.nan, np.float32)
        fixtures = [fixture for part in env.car.drawlist for fixture in part.fixtures]
        for shape, fixture in zip(self.shapes[:-1], fixtures, strict=True):
            vertices = fixture.shape.vertices
            shape[: len(vertices)] = vertices

    def draw(self, env: CarRacing) -> np.ndarray | None:
        """The observation, uint8 (96, 96, 3), or None where Gymnasium has to draw it."""
        if not self._set_view(env):
            return None
        score, last_column = averaged_score(f"{env.reward:04.0f}", self.backend)
        spans = self._draw_spans(self.ground, self.shapes, last_column)
        if spans is None:
            return None
        frame = np.empty((downscale.SIZE, 3 * downscale.SIZE), np.uint8)
        if not downscale.downscale(spans, self.counts, score, self.buffers, frame.view(np.int32)):
            return None
        return frame.reshape(downscale.SIZE, downscale.SIZE, 3)

    def draw_film(self, env: CarRacing) -> np.ndarray | None:
        """The frame of `rgb_array`, uint8 (400, 600, 3), or None where Gymnasium has to draw it.

        Compiled code paints the polygons, pygame draws skid marks and text and scales the surface.
        """
        surface = pygame.Surface((WIDTH, HEIGHT), depth=32, masks=(*RGB_MASKS, 0))
        if not self._set_view(env) or not self._paint(surface, self.ground, self.shapes[:0]):
            return None
        self._draw_skid_marks(env, surface)
        if not self._paint(surface, tuple(array[:0] for array in self.ground), self.shapes):
            return None
        surface = pygame.transform.flip(surface, False, True)
        text, box = score_text(f"{env.reward:04.0f}")
        surface.blit(text, box)
        width, height = car_racing.VIDEO_W, car_racing.VIDEO_H
        scaled = pygame.transform.smoothscale(surface, (width, height))
        levels = bytearray(pygame.image.tobytes(scaled, "RGB"))  # a bytearray can be written to
        return np.frombuffer(levels, np.uint8).reshape(height, width, 3)

    def _set_view(self, env: CarRacing) -> bool:
        """Write the view of `scene.draw_scene`. False after a NaN action: Gymnasium then raises."""
        view = _view(env, [read_state() for read_state in self.state_readers])
        if not math.isfinite(sum(view)):
            return False
        VIEW.pack_into(self.view, 0, *view, *_treads(env))
        return True

    def _draw_spans(
        self, ground: tuple[np.ndarray, ...], shapes: np.ndarray, last_column: int
    ) -> np.ndarray | None:
        """The table that `scene.draw_scene` filled, None where Gymnasium has to draw."""
        arguments = (*ground, shapes, self.palette, last_column)
        spans = self.narrow
        result = scene.draw_scene(spans, self.counts, self.workspace, self.view, *arguments)
        if result == scene.ROW_FULL:
            if self.wide is None:
                self.wide = np.empty((HEIGHT, WIDE), np.int64)
            spans = self.wide
            result = scene.draw_scene(spans, self.counts, self.workspace, self.view, *arguments)
        return spans if result == scene.DRAWN else None

    def _paint(
        self, surface: pygame.Surface, ground: tuple[np.ndarray, ...], shapes: np.ndarray
    ) -> bool:
        """Paint the ground, or the car and the dashboard on top of what is there."""
        spans = self._draw_spans(ground, shapes, -1)
        if spans is None:
            return False
        pixels = np.asarray(surface.get_view("2")).view(np.uint32).T
        first = 1 if len(shapes) else 0  # the first span of each row is the background
        painting.paint(spans, first, self.counts, self.palette, pixels)
        return True

    def _draw_skid_marks(self, env: CarRacing, surface: pygame.Surface) -> None:
        angle, (zoom, left, bottom) = -env.car.hull.angle, self.view[2:5].tolist()
        for trace in env.car.particles:
            rotated = [Vector2(point).rotate_rad(angle) for point in trace.poly]
            points = [(point.x * zoom + left, point.y * zoom + bottom) for point in rotated]
            pygame.draw.lines(surface, trace.color, False, points, 2)


def _view(env: CarRacing, states: list[tuple[float, ...]]) -> list[float]:
    """The first 32 numbers of `scene.draw_scene`'s view, by the formulas of CarRacing._render.

    states: of the four wheels and the hull, by `state_reader`.
    """
    wheels = env.car.wheels
    x, y, _, _, angle, speed_x, speed_y, spin = states[-1]
    zoom = 0.1 * car_racing.SCALE * max(1 - env.t, 0) + car_racing.ZOOM * car_racing.SCALE * min(
        env.t, 1
    )
    # pygame's own sine and cosine: it rounds angles that are almost right ones.
    cos, sin = Vector2(1, 0).rotate_rad(-angle)
    left, bottom = Vector2(-x * zoom, -y * zoom).rotate_rad(-angle)
    view = [cos, sin, zoom, car_racing.WINDOW_W / 2 + left, car_racing.WINDOW_H / 4 + bottom]
    view.append(math.sqrt(speed_x * speed_x + speed_y * speed_y))
    view += [wheel.omega for wheel in wheels]
    view += (wheels[0].joint.angle, spin)
    for state in states:
        view += state[:4]
    return view


def _treads(env: CarRacing) -> list[float]:
    """Front and rear end of the light part of each tyre, NaN where it is not visible."""
    return [end for wheel in env.car.wheels for end in _tread(wheel.phase)]


def _tread(phase: float) -> tuple[float, float]:
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
