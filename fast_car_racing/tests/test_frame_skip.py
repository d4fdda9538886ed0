"""`frame_skip` against the plain loop over Gymnasium's CarRacing-v3."""

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.box2d.car_racing import PLAYFIELD, CarRacing
from gymnasium.wrappers import TimeLimit
from hypothesis import given, settings
from hypothesis import strategies as st

from fast_car_racing.env import FastCarRacing


def repeat(env: gymnasium.Env, action, frame_skip: int) -> tuple:
    """The plain loop that frame_skip replaces."""
    total = 0.0
    for _ in range(frame_skip):
        observation, reward, terminated, truncated, info = env.step(action)
        total += reward
        if terminated or truncated:
            break
    return observation, total, terminated, truncated, info


def assert_equal_steps(left: tuple, right: tuple) -> None:
    np.testing.assert_array_equal(left[0], right[0])
    assert left[1:] == right[1:]
    assert [type(value) for value in left[1:]] == [type(value) for value in right[1:]]


def make_pair(frame_skip: int, max_frames: int = 1000, **options):
    """Gymnasium's environment with its time limit, and ours."""
    original = TimeLimit(CarRacing(**options), max_frames)
    return original, FastCarRacing(frame_skip=frame_skip, max_frames=max_frames, **options)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    frame_skip=st.integers(2, 9),
    seed=st.integers(0, 10**6),
    max_frames=st.integers(1, 30),
    continuous=st.booleans(),
    domain_randomize=st.booleans(),
)
def test_equals_the_loop(frame_skip, seed, max_frames, continuous, domain_randomize):
    pair = make_pair(
        frame_skip, max_frames, continuous=continuous, domain_randomize=domain_randomize
    )
    rng = np.random.default_rng(seed)
    frames = [env.reset(seed=seed)[0] for env in pair]
    np.testing.assert_array_equal(*frames)
    while True:
        action = rng.uniform([-1, 0, 0], 1) if continuous else int(rng.integers(5))
        left, right = repeat(pair[0], action, frame_skip), pair[1].step(action)
        assert_equal_steps(left, right)
        if left[2] or left[3]:
            break


@pytest.mark.parametrize("frame_skip", [2, 3, 4])
def test_episode_that_ends_between_drawn_frames(frame_skip):
    """The car leaves the playfield in each frame of a step in turn, first to last."""
    ends = set()
    for distance in range(1, 4 * frame_skip):
        pair = make_pair(frame_skip)
        for env in pair:
            env.reset(seed=7)
            for body in env.unwrapped.car.drawlist:
                body.position = (PLAYFIELD - 0.4 * distance, 0.0)
                body.linearVelocity = (40.0, 0.0)
        for _ in range(6):
            left = repeat(pair[0], np.array([0.0, 0.2, 0.0]), frame_skip)
            assert_equal_steps(left, pair[1].step(np.array([0.0, 0.2, 0.0])))
            assert pair[0].unwrapped.reward == pair[1].reward
            if left[2]:
                ends.add(pair[0]._elapsed_steps % frame_skip)
                assert left[4] == {"lap_finished": False}
                break
    assert len(ends) == frame_skip


def test_lap_that_ends_between_drawn_frames():
    pair = make_pair(5)
    for env in pair:
        env.reset(seed=3)
        env.step(np.array([0.0, 1.0, 0.0])) if env is pair[1] else repeat(
            env, np.array([0.0, 1.0, 0.0]), 5
        )
        env.unwrapped.new_lap = True
    left, right = repeat(pair[0], np.zeros(3), 5), pair[1].step(np.zeros(3))
    assert_equal_steps(left, right)
    assert left[2] and left[4] == {"lap_finished": True}


def test_time_limit_of_make():
    """1000 frames as CarRacing-v3 has, also where frame_skip does not divide them."""
    env = gymnasium.make("fast_car_racing:FastCarRacing-v3", frame_skip=7)
    env.reset(seed=1)
    truncated = [env.step(np.zeros(3, np.float32))[3] for _ in range(143)]
    assert truncated == 142 * [False] + [True] and env.unwrapped._frames == 1000
    env.reset(seed=1)
    assert not env.step(np.zeros(3, np.float32))[3]


def test_without_a_limit():
    env = FastCarRacing(frame_skip=50, max_frames=None)
    env.reset(seed=1)
    assert not any(env.step(np.zeros(3))[3] for _ in range(25))


def test_skipped_frames_are_not_drawn(monkeypatch):
    env = FastCarRacing(frame_skip=4)
    env.reset(seed=1)
    drawn = []
    draw = env._renderer.draw
    monkeypatch.setattr(env._renderer, "draw", lambda env: drawn.append(env.t) or draw(env))
    for _ in range(3):
        env.step(np.zeros(3))
    assert len(drawn) == 3


def test_after_an_invalid_action_reset_draws():
    env = FastCarRacing(continuous=False, frame_skip=4)
    env.reset(seed=1)
    with pytest.raises(gymnasium.error.InvalidAction):
        env.step(7)
    np.testing.assert_array_equal(env.reset(seed=2)[0], CarRacing().reset(seed=2)[0])


def test_nan_gas_raises_as_in_the_loop():
    pair = make_pair(4)
    for env in pair:
        env.reset(seed=1)
        with pytest.raises(ValueError, match="cannot convert float NaN to integer"):
            repeat(env, np.array([0, np.nan, 0]), 4 if env is pair[0] else 1)


def test_films_show_the_last_frame():
    pair = make_pair(3, render_mode="rgb_array")
    for env in pair:
        env.reset(seed=2)
    for _ in range(4):
        repeat(pair[0], np.array([1.0, 1.0, 0.0]), 3)
        pair[1].step(np.array([1.0, 1.0, 0.0]))
        np.testing.assert_array_equal(pair[0].render(), pair[1].render())


@pytest.mark.parametrize("bad", [0, -1, 1.5, "2", None])
def test_frame_skip_is_a_positive_integer(bad):
    with pytest.raises(ValueError, match="frame_skip must be a positive integer"):
        FastCarRacing(frame_skip=bad)
