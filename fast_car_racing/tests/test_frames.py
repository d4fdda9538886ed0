"""The frames and the motion of FastCarRacing against Gymnasium's CarRacing, the oracle."""

import warnings
from collections import Counter

import numba
import numpy as np
import pygame
import pytest
from gymnasium.envs.box2d import car_racing
from gymnasium.envs.box2d.car_dynamics import Car
from gymnasium.envs.box2d.car_racing import CarRacing

from fast_car_racing import car, downscale, polygons, renderer
from fast_car_racing.compare import compare_track
from fast_car_racing.drivers import DRIVERS
from fast_car_racing.env import FastCarRacing
from fast_car_racing.renderer import Renderer
from fast_car_racing.startup_check import (
    UndrawnCarRacing,
    drawing_difference,
    motion_difference,
)


def both(env: CarRacing, drawing: Renderer) -> tuple[np.ndarray, np.ndarray]:
    return drawing.draw(env), CarRacing._render(env, "state_pixels")


@pytest.fixture
def backend():
    """Sets pygame's smoothscale backend, and resets it after the test."""
    before = pygame.transform.get_smoothscale_backend()
    yield pygame.transform.set_smoothscale_backend
    pygame.transform.set_smoothscale_backend(before)


@pytest.mark.parametrize(("seed", "driver"), list(enumerate(DRIVERS)))
def test_short_drives_have_gymnasiums_output(seed, driver):
    seen = Counter()
    assert compare_track(100 + seed, driver, 70, seen) == []
    assert seen["frames"] == 70 and seen["zoom phase"] > 40


@pytest.mark.parametrize("options", [{"continuous": False}, {"domain_randomize": True}])
def test_options_of_car_racing(options):
    envs = [cls(**options) for cls in (CarRacing, FastCarRacing)]
    for reset_options in (None, {"randomize": False}):
        frames = [env.reset(seed=5, options=reset_options)[0] for env in envs]
        np.testing.assert_array_equal(*frames)
        for _ in range(20):
            action = 3 if "continuous" in options else np.array([0.1, 0.5, 0.0])
            left, right = (env.step(action) for env in envs)
            np.testing.assert_array_equal(left[0], right[0])
            assert left[1:] == right[1:]


def test_some_frames_of_long_drives():
    """Every twentieth frame of 500 steps by each driver."""
    for seed, driver in enumerate(DRIVERS):
        env, rng = UndrawnCarRacing(), np.random.default_rng(seed)
        env.reset(seed=40 + seed)
        drawing = Renderer(env)
        for step in range(500):
            ended = env.step(DRIVERS[driver](env, step, rng))[2]
            if step % 20 == 0 or ended:
                np.testing.assert_array_equal(*both(env, drawing))
            if ended:
                break


def test_edge_of_the_playfield():
    env, rng = UndrawnCarRacing(), np.random.default_rng(0)
    env.reset(seed=3)
    drawing = Renderer(env)
    edge = car_racing.PLAYFIELD
    for _ in range(40):
        x, y = rng.uniform(-edge - 5, edge + 5, 2)
        x, y = (np.sign(x) * edge, y) if rng.random() < 0.5 else (x, np.sign(y) * edge)
        env.car.hull.position = x, y
        angle = rng.choice([0, np.pi / 2, np.pi, rng.uniform(-9, 9)])
        for body in env.car.drawlist:
            body.angle = angle
        env.t, env.reward = rng.uniform(0, 2), rng.uniform(-1000, 2000)
        np.testing.assert_array_equal(*both(env, drawing))


def test_extreme_indicators():
    """Bars that leave the dashboard, or reach the score, where Gymnasium has to draw."""
    env = UndrawnCarRacing()
    env.reset(seed=3)
    drawing = Renderer(env)
    for spin, omega in ((12.0, 900.0), (-12.0, -300.0), (20.0, 5e4)):
        env.car.hull.angularVelocity = spin
        env.car.wheels[1].omega = omega
        np.testing.assert_array_equal(*both(env, drawing))
    env.car.hull.angularVelocity = 40.0
    assert drawing.draw(env) is None


@pytest.mark.parametrize("name", ["GENERIC", "SSE2"])
def test_smoothscale_backends(name, backend):
    try:
        backend(name)
    except ValueError:
        pytest.skip(f"this pygame has no {name}")
    assert drawing_difference(name) == ""


@pytest.mark.parametrize(("length", "size"), [(1000, 96), (800, 96)])
@pytest.mark.parametrize("bits", [14, 16])
def test_weights_of_each_pixel_sum_to_one(length, size, bits):
    """No pixel is lost or counted twice."""
    cells, _ = downscale.axis_weights(length, size, bits)
    weight = np.zeros(length)
    for first, last, head, tail in cells:
        weight[first] += head
        weight[first + 1 : last] += 1 << bits
        weight[last] += tail
    assert (weight[:-1] == 1 << bits).all() and weight[-1] > 0.9 * (1 << bits)


def test_self_crossing_polygons_are_filled_as_by_sdl_gfx():
    """Tracks have no such outlines, but small ones may cross themselves once rounded."""
    rng = np.random.default_rng(1)
    inner = polygons._fill_any
    fill_any = numba.njit(lambda *arguments: inner(*arguments))
    for _ in range(100):
        points = rng.integers([0, 100], [12, 112], (4, 2))
        surface = pygame.Surface((1000, 800))
        pygame.gfxdraw.filled_polygon(surface, points.tolist(), (255, 255, 255))
        spans, counts = np.zeros((800, 16), np.int64), np.zeros(800, np.int64)
        fill_any(spans, counts, np.empty(4, np.int64), points, 1)
        ours = np.zeros((800, 1000), bool)
        for y in range(800):
            for span in spans[y, : counts[y]]:
                ours[y, span & 1023 : (span >> 10 & 1023) + 1] = True
        np.testing.assert_array_equal(ours.T, pygame.surfarray.array3d(surface)[:, :, 0] > 0)


def test_wrong_drawing_falls_back_to_gymnasium(monkeypatch):
    """The start-up check finds a camera that is off by one pixel, and warns."""
    true_view = renderer._view

    def shifted(*arguments):
        view = true_view(*arguments)
        view[3] += 1  # the camera, by one pixel of the surface
        return view

    monkeypatch.setattr(renderer, "_view", shifted)
    drawing_difference.cache_clear()
    try:
        with pytest.warns(UserWarning, match="Gymnasium's own slow renderer"):
            env = FastCarRacing()
        frame, _ = env.reset(seed=1)
        np.testing.assert_array_equal(frame, CarRacing().reset(seed=1)[0])
        assert env._renderer is None
    finally:
        drawing_difference.cache_clear()


def test_wrong_motion_falls_back_to_gymnasium(monkeypatch):
    """The start-up check finds brakes that are too strong, and warns."""
    monkeypatch.setattr(car, "BRAKE_FORCE", 15.001)
    motion_difference.cache_clear()
    try:
        with pytest.warns(UserWarning, match="Gymnasium's own slow car: the car's motion differs"):
            env = FastCarRacing()
        env.reset(seed=1)
        assert type(env.car) is Car
    finally:
        motion_difference.cache_clear()


def blended_in_a_row(drawing: Renderer) -> int:
    """The most pixels that one row of the last frame blended."""
    rows = (drawing.narrow[y, :count] for y, count in enumerate(drawing.counts))
    runs = (row[(row >> 26 & 3) == 1] for row in rows)
    return max(((run >> 10 & 1023) - (run & 1023) + 1).sum() for run in runs)


def test_rows_that_blend_more_colors_than_a_byte_can_count():
    """The side of a patch of grass that is almost level is blended in hundreds of columns."""
    env = UndrawnCarRacing()
    env.reset(seed=3)
    drawing = Renderer(env)
    most = 0
    for i in range(20):
        for body in env.car.drawlist:
            body.position, body.angle = env.track[10 * i][2:], 0.001 + i * np.pi / 2
        env.t = 5.0
        np.testing.assert_array_equal(*both(env, drawing))
        most = max(most, blended_in_a_row(drawing))
    assert most > 256


def test_long_scores():
    env = UndrawnCarRacing()
    env.reset(seed=3)
    drawing = Renderer(env)
    for env.reward in (-12345.0, 1234567.0, 1000.0, -0.4):
        np.testing.assert_array_equal(*both(env, drawing))


def test_unknown_backend_falls_back_to_gymnasium(monkeypatch):
    monkeypatch.setattr(pygame.transform, "get_smoothscale_backend", lambda: "MMX")
    with pytest.warns(UserWarning, match="backend MMX is not known"):
        assert FastCarRacing().reset(seed=1)[0].shape == (96, 96, 3)


def test_startup_check_is_silent_and_runs_once():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        FastCarRacing()
        hits = drawing_difference.cache_info().hits
        FastCarRacing()
    assert drawing_difference.cache_info().hits == hits + 1


def test_gymnasiums_drawing_is_not_used(monkeypatch):
    """Otherwise the comparison would compare Gymnasium with itself."""
    env = FastCarRacing()
    monkeypatch.setattr(CarRacing, "_render_road", lambda *_: pytest.fail("Gymnasium drew"))
    env.reset(seed=2)
    assert type(env.car) is car.FastCar
    for _ in range(60):
        env.step(np.array([0.0, 0.5, 0.0]))


def test_frames_are_not_shared():
    env = FastCarRacing()
    first, _ = env.reset(seed=1)
    kept = first.copy()
    env.step(np.array([1.0, 1.0, 0.0]))
    np.testing.assert_array_equal(first, kept)
    assert first.flags.c_contiguous and first.flags.writeable
