"""FastCarRacing against Gymnasium's CarRacing, the oracle of every frame."""

import multiprocessing
import pickle
import subprocess
import sys
import warnings
from collections import Counter
from pathlib import Path

import gymnasium
import numba
import numpy as np
import pygame
import pytest
from gymnasium.envs.box2d import car_racing
from gymnasium.envs.box2d.car_racing import CarRacing

from fast_car_racing import car as fast_car
from fast_car_racing import downscale as shrinking
from fast_car_racing import env as fast_car_racing
from fast_car_racing import polygons as rasterizer
from fast_car_racing.env import FastCarRacing, Renderer, drawing_differs

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.compare_environment import compare_track  # noqa: E402
from benchmarks.driving import STYLES  # noqa: E402


class Undrawn(CarRacing):
    def _render(self, mode: str):
        return None


def both(env: CarRacing, renderer: Renderer) -> tuple[np.ndarray, np.ndarray]:
    return renderer.draw(env), CarRacing._render(env, "state_pixels")


@pytest.fixture
def backend():
    """Puts pygame's smoothscale backend back after a test that sets it."""
    before = pygame.transform.get_smoothscale_backend()
    yield pygame.transform.set_smoothscale_backend
    pygame.transform.set_smoothscale_backend(before)


@pytest.mark.parametrize(("seed", "style"), list(enumerate(STYLES)))
def test_every_output_is_gymnasiums(seed, style):
    seen = Counter()
    assert compare_track(100 + seed, style, 70, seen) == []
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


def test_long_drives_without_drawing_each_frame():
    """Every twentieth frame of whole episodes, to see much of the world in little time."""
    for seed, style in enumerate(STYLES):
        env, renderer, random = Undrawn(), Renderer(), np.random.default_rng(seed)
        env.reset(seed=40 + seed)
        renderer.begin(env)
        for step in range(500):
            ended = env.step(STYLES[style](env, step, random))[2]
            if step % 20 == 0 or ended:
                np.testing.assert_array_equal(*both(env, renderer))
            if ended:
                break


def test_edge_of_the_playfield_from_all_sides():
    env, renderer, random = Undrawn(), Renderer(), np.random.default_rng(0)
    env.reset(seed=3)
    renderer.begin(env)
    edge = car_racing.PLAYFIELD
    for _ in range(40):
        x, y = random.uniform(-edge - 5, edge + 5, 2)
        x, y = (np.sign(x) * edge, y) if random.random() < 0.5 else (x, np.sign(y) * edge)
        env.car.hull.position = x, y
        angle = random.choice([0, np.pi / 2, np.pi, random.uniform(-9, 9)])
        for body in env.car.drawlist:
            body.angle = angle
        env.t, env.reward = random.uniform(0, 2), random.uniform(-1000, 2000)
        np.testing.assert_array_equal(*both(env, renderer))


def test_extreme_indicators():
    """Bars that leave the dashboard, or reach the score, where Gymnasium has to draw."""
    env, renderer = Undrawn(), Renderer()
    env.reset(seed=3)
    renderer.begin(env)
    for spin, omega in ((12.0, 900.0), (-12.0, -300.0), (20.0, 5e4)):
        env.car.hull.angularVelocity = spin
        env.car.wheels[1].omega = omega
        np.testing.assert_array_equal(*both(env, renderer))
    env.car.hull.angularVelocity = 40.0
    assert renderer.draw(env) is None


@pytest.mark.parametrize("name", ["GENERIC", "SSE2"])
def test_smoothscale_backends(name, backend):
    try:
        backend(name)
    except ValueError:
        pytest.skip(f"this pygame has no {name}")
    assert drawing_differs(name) == ""


@pytest.mark.parametrize(("length", "size"), [(1000, 96), (800, 96)])
@pytest.mark.parametrize("bits", [14, 16])
def test_cells_share_the_axis(length, size, bits):
    """The weights of all cells on a pixel add up to one: no pixel is lost or counted twice."""
    cells, _ = shrinking.shrinking_axis(length, size, bits)
    weight = np.zeros(length)
    for first, last, head, tail in cells:
        weight[first] += head
        weight[first + 1 : last] += 1 << bits
        weight[last] += tail
    assert (weight[:-1] == 1 << bits).all() and weight[-1] > 0.9 * (1 << bits)


def test_zigzag_polygons_as_sdl_gfx_fills_them():
    """Outlines that cross themselves do not occur on tracks, but small ones round to such."""
    random = np.random.default_rng(1)
    fill = rasterizer._zigzag
    zigzag = numba.njit(lambda *arguments: fill(*arguments))
    for _ in range(100):
        points = random.integers([0, 100], [12, 112], (4, 2))
        surface = pygame.Surface((1000, 800))
        pygame.gfxdraw.filled_polygon(surface, points.tolist(), (255, 255, 255))
        commands, counts = np.zeros((800, 16), np.int64), np.zeros(800, np.int64)
        zigzag(commands, counts, np.empty(4, np.int64), points, 1)
        ours = np.zeros((800, 1000), bool)
        for y in range(800):
            for command in commands[y, : counts[y]]:
                ours[y, command & 1023 : (command >> 10 & 1023) + 1] = True
        np.testing.assert_array_equal(ours.T, pygame.surfarray.array3d(surface)[:, :, 0] > 0)


def test_a_wrong_rule_is_noticed(monkeypatch):
    """The start-up check fails, says so, and Gymnasium draws; so the comparison can fail."""
    true_view = fast_car_racing._view

    def shifted(env):
        view = true_view(env)
        view[3] += 1  # the camera, by one pixel of the surface
        return view

    monkeypatch.setattr(fast_car_racing, "_view", shifted)
    drawing_differs.cache_clear()
    try:
        with pytest.warns(UserWarning, match="Gymnasium's own slow renderer"):
            env = FastCarRacing()
        frame, _ = env.reset(seed=1)
        np.testing.assert_array_equal(frame, CarRacing().reset(seed=1)[0])
        assert env._renderer is None
    finally:
        drawing_differs.cache_clear()


def test_a_car_that_moves_otherwise_is_noticed(monkeypatch):
    """It says so, and Gymnasium's car is driven."""
    monkeypatch.setattr(fast_car, "BRAKE_FORCE", 15.001)
    fast_car.car_differs.cache_clear()
    try:
        with pytest.warns(UserWarning, match="Gymnasium's own slow car: the car's motion differs"):
            env = FastCarRacing()
        env.reset(seed=1)
        assert type(env.car) is fast_car.Car
    finally:
        fast_car.car_differs.cache_clear()


def blended_in_a_row(renderer: Renderer) -> int:
    """The most pixels that one row of the last frame blended."""
    rows = (renderer.narrow[y, :count] for y, count in enumerate(renderer.counts))
    runs = (row[(row >> 26 & 3) == 1] for row in rows)
    return max(((run >> 10 & 1023) - (run & 1023) + 1).sum() for run in runs)


def test_rows_that_blend_more_colors_than_a_byte_names():
    """The side of a patch of grass that is almost level is blended in hundreds of columns."""
    env, renderer = Undrawn(), Renderer()
    env.reset(seed=3)
    renderer.begin(env)
    most = 0
    for i in range(20):
        for body in env.car.drawlist:
            body.position, body.angle = env.track[10 * i][2:], 0.001 + i * np.pi / 2
        env.t = 5.0
        np.testing.assert_array_equal(*both(env, renderer))
        most = max(most, blended_in_a_row(renderer))
    assert most > 256


def test_long_scores():
    env, renderer = Undrawn(), Renderer()
    env.reset(seed=3)
    renderer.begin(env)
    for env.reward in (-12345.0, 1234567.0, 1000.0, -0.4):
        np.testing.assert_array_equal(*both(env, renderer))


def test_unknown_backend_falls_back(monkeypatch):
    monkeypatch.setattr(pygame.transform, "get_smoothscale_backend", lambda: "MMX")
    with pytest.warns(UserWarning, match="backend MMX is not known"):
        assert FastCarRacing().reset(seed=1)[0].shape == (96, 96, 3)


def test_the_check_is_quiet_and_made_once():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        FastCarRacing()
        hits = drawing_differs.cache_info().hits
        FastCarRacing()
    assert drawing_differs.cache_info().hits == hits + 1


def test_drawing_is_really_ours(monkeypatch):
    """Without Gymnasium's drawing code, frames still come; and the car is ours."""
    env = FastCarRacing()
    monkeypatch.setattr(CarRacing, "_render_road", lambda *_: pytest.fail("Gymnasium drew"))
    env.reset(seed=2)
    assert type(env.car) is fast_car.FastCar
    for _ in range(60):
        env.step(np.array([0.0, 0.5, 0.0]))


def test_registered_with_limits():
    env = gymnasium.make("fast_car_racing:FastCarRacing-v3")
    assert isinstance(env.unwrapped, FastCarRacing)
    assert env.spec.max_episode_steps == 1000 and env.spec.reward_threshold == 900
    code = "import fast_car_racing.env as f, importlib; importlib.reload(f)"
    subprocess.run([sys.executable, "-W", "error::UserWarning", "-c", code], cwd=ROOT, check=True)


def test_videos_stay_gymnasiums():
    left, right = (cls(render_mode="rgb_array") for cls in (CarRacing, FastCarRacing))
    for env in (left, right):
        env.reset(seed=4)
        for _ in range(30):  # full brake from speed, for skid marks
            env.step(np.array([1.0, 1.0, 0.0]))
        for _ in range(10):
            env.step(np.array([1.0, 0.0, 1.0]))
    np.testing.assert_array_equal(left.render(), right.render())
    assert left.render().shape == (400, 600, 3)


def test_frames_are_not_shared():
    env = FastCarRacing()
    first, _ = env.reset(seed=1)
    kept = first.copy()
    env.step(np.array([1.0, 1.0, 0.0]))
    np.testing.assert_array_equal(first, kept)
    assert first.flags.c_contiguous and first.flags.writeable


def first_frame(env: FastCarRacing) -> np.ndarray:
    return env.reset(seed=11)[0]


def test_pickled_and_spawned():
    env = FastCarRacing(continuous=False)
    env.reset(seed=1)
    clone = pickle.loads(pickle.dumps(env))
    assert clone.continuous is False
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        spawned = pool.apply(first_frame, (FastCarRacing(),))
    np.testing.assert_array_equal(spawned, first_frame(CarRacing()))


def test_works_without_a_writable_cache(tmp_path):
    """numba finds no folder to keep its code in: it compiles in memory."""
    code = (
        "import numba.core.caching as c; c._CacheLocator.from_function = "
        "classmethod(lambda *a: None); "
        "[setattr(l, 'from_function', classmethod(lambda *a: None)) "
        "for l in c.CacheImpl._locator_classes]; "
        "from fast_car_racing.spans import compiled; "
        "assert compiled(lambda x: x + 1)(1) == 2"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
