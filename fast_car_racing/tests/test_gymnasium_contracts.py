"""What Gymnasium's own tests ask of every registered environment, asked of ours.

Read from tests/envs of Gymnasium 1.4.0: registration, specifications, `make`, rollouts, pickling,
rendering. test_vectors.py does the same for `make_vec`. The ids are FastCarRacing-v3, with and
without `frame_skip`, and the replaced CarRacing-v3.
"""

import os
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env, data_equivalence
from gymnasium.wrappers import (
    FrameStackObservation,
    GrayscaleObservation,
    HumanRendering,
    OrderEnforcing,
    PassiveEnvChecker,
    RecordEpisodeStatistics,
    RenderCollection,
    TimeLimit,
)

import fast_car_racing
from fast_car_racing.env import FastCarRacing

FAST_ID = fast_car_racing.ENV_ID
STRAIGHT = np.array([0.0, 1.0, 0.0], np.float32)

pytestmark = pytest.mark.usefixtures("replaced")


ids = pytest.mark.parametrize("env_id", [FAST_ID, "CarRacing-v3"])
options = pytest.mark.parametrize(
    "options", [{}, {"frame_skip": 3}, {"continuous": False}, {"domain_randomize": True}], ids=str
)


def has_wrapper(env: gymnasium.Env, wrapper: type) -> bool:
    while isinstance(env, gymnasium.Wrapper):
        if isinstance(env, wrapper):
            return True
        env = env.env
    return False


def assert_equal_rollouts(left: gymnasium.Env, right: gymnasium.Env, steps: int) -> None:
    """Both give equal results, from reset on, for the same sampled actions."""
    left.action_space.seed(7)
    assert data_equivalence(left.reset(seed=7), right.reset(seed=7), exact=True)
    for _ in range(steps):
        action = left.action_space.sample()
        results = left.step(action), right.step(action)
        assert data_equivalence(*results, exact=True)
        observation, reward, terminated, truncated, info = results[0]
        assert observation in left.observation_space
        assert isinstance(reward, float) and isinstance(info, dict)
        assert isinstance(terminated, bool) and isinstance(truncated, bool)
        if terminated or truncated:
            assert data_equivalence(left.reset(seed=8), right.reset(seed=8), exact=True)


# --- registration ----------------------------------------------------------------------------


@ids
def test_id_and_specification_make_the_same_environment(env_id):
    specification = gymnasium.spec(env_id)
    assert specification is gymnasium.registry[env_id]
    by_id, by_specification = gymnasium.make(env_id), gymnasium.make(specification)
    assert by_id.spec == by_specification.spec and by_id.spec.id == env_id
    assert type(by_id.unwrapped) is type(by_specification.unwrapped) is FastCarRacing


@ids
def test_specification_as_json_makes_the_same_environment_with_its_wrappers(env_id):
    env = gymnasium.make(env_id, render_mode="rgb_array", frame_skip=2, max_episode_steps=9)
    env = RecordEpisodeStatistics(FrameStackObservation(GrayscaleObservation(env), 3))
    copy = EnvSpec.from_json(env.spec.to_json())
    assert copy == env.spec and len(copy.additional_wrappers) == 3
    assert copy.kwargs["frame_skip"] == 2
    again = gymnasium.make(copy)
    assert again.render_mode == "rgb_array" and again.unwrapped.frame_skip == 2
    observations = [one.reset(seed=3)[0] for one in (env, again)]
    np.testing.assert_array_equal(*observations)
    assert observations[0].shape == (3, 96, 96)
    for _ in range(9):
        results = [one.step(STRAIGHT) for one in (env, again)]
        np.testing.assert_array_equal(results[0][0], results[1][0])
        assert results[0][1:4] == results[1][1:4]
    assert results[0][3] and results[0][4]["episode"]["l"] == 9
    while isinstance(env, gymnasium.Wrapper):  # every level
        assert gymnasium.make(env.spec).spec == env.spec
        env = env.env


def test_listed_and_printed():
    assert FAST_ID in gymnasium.pprint_registry(disable_print=True)
    text = gymnasium.spec(FAST_ID).pprint(disable_print=True, print_all=True)
    assert f"id={FAST_ID}" in text and "entry_point=fast_car_racing.env:FastCarRacing" in text


@pytest.mark.parametrize(
    ("env_id", "said"),
    [
        ("FastCarRacing-v9", r"It provides versioned environments: \[ `v3` \]"),
        ("FastCarRacing-v2", r"Please use `FastCarRacing-v3` instead"),
        ("FastCarRacin-v3", r"Did you mean: `FastCarRacing`\?"),
    ],
)
def test_wrong_ids_name_the_right_one(env_id, said):
    with pytest.raises(gymnasium.error.Error, match=said):
        gymnasium.make(env_id)


def test_unversioned_id_makes_the_newest():
    with pytest.warns(UserWarning, match="latest versioned environment `FastCarRacing-v3`"):
        assert gymnasium.make("FastCarRacing").spec.id == FAST_ID


# --- make ------------------------------------------------------------------------------------


@ids
def test_wrappers_of_make(env_id):
    env = gymnasium.make(env_id)
    assert all(has_wrapper(env, kind) for kind in (TimeLimit, OrderEnforcing, PassiveEnvChecker))
    assert env.spec.max_episode_steps == 1000
    assert gymnasium.make(env_id, max_episode_steps=100).spec.max_episode_steps == 100
    env = gymnasium.make(env_id, max_episode_steps=-1, disable_env_checker=True)
    assert not has_wrapper(env, TimeLimit) and not has_wrapper(env, PassiveEnvChecker)


@ids
def test_unknown_arguments_are_refused(env_id):
    with pytest.raises(TypeError, match="got an unexpected keyword argument 'frameskip'"):
        gymnasium.make(env_id, frameskip=2)


@ids
def test_unknown_render_mode_warns(env_id):
    with pytest.warns(UserWarning, match="render_mode='ansi' that is not in the possible"):
        gymnasium.make(env_id, render_mode="ansi")


@ids
@options
def test_passive_checker_finds_nothing(env_id, options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gymnasium.make(env_id, **options)
        env.reset()
        env.step(env.action_space.sample())
        env.close()
        env.close()  # twice is as once


@options
def test_environment_checker_that_makes_copies_by_the_specification(options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*Box action space.*")  # CarRacing's own
        check_env(gymnasium.make(FAST_ID, **options).unwrapped, skip_render_check=True)


# --- rollouts --------------------------------------------------------------------------------


@options
def test_same_seed_same_rollout(options):
    pair = [gymnasium.make(FAST_ID, **options) for _ in range(2)]
    assert_equal_rollouts(*pair, steps=50)


@options
def test_pickled_with_its_wrappers(options):
    env = gymnasium.make(FAST_ID, **options)
    env.reset(seed=1)
    assert_equal_rollouts(env, pickle.loads(pickle.dumps(env)), steps=12)


def test_resets_without_a_seed_continue_the_random_numbers():
    envs = [gymnasium.make(FAST_ID) for _ in range(2)]
    tracks = []
    for env in envs:
        env.reset(seed=5)
        assert env.unwrapped.np_random_seed == 5
        tracks.append([])
        for _ in range(2):
            env.reset()
            tracks[-1].append(env.unwrapped.track)
    assert tracks[0] == tracks[1] and tracks[0][0] != tracks[0][1]


@pytest.mark.parametrize("frame_skip", [1, 3])
def test_actions_beyond_a_bound_act_as_the_bound(frame_skip):
    envs = [gymnasium.make(FAST_ID, frame_skip=frame_skip).unwrapped for _ in range(2)]
    for env in envs:
        env.reset(seed=42)
    for bound, sign in ((envs[0].action_space.high, 1), (envs[0].action_space.low, -1)):
        for axis in range(3):
            beyond = bound.copy()
            beyond[axis] += 100 * sign
            frames = [
                env.step(action)[0] for env, action in zip(envs, (bound, beyond), strict=True)
            ]
            np.testing.assert_array_equal(*frames)


@pytest.mark.parametrize("frame_skip", [1, 3])
def test_discrete_actions_are_checked(frame_skip):
    env = gymnasium.make(FAST_ID, continuous=False, frame_skip=frame_skip)
    env.reset(seed=1)
    for bad in (env.action_space.start + env.action_space.n, np.zeros(3, np.float32)):
        with pytest.raises(gymnasium.error.InvalidAction):
            env.step(bad)
    env.step(env.action_space.sample())


def test_colours_are_drawn_anew_unless_told_not_to():
    env = gymnasium.make(FAST_ID, domain_randomize=True).unwrapped

    def colours() -> np.ndarray:
        return np.array([env.road_color, env.bg_color, env.grass_color])

    before = colours()
    frame, _ = env.reset(seed=1, options={"randomize": False})
    np.testing.assert_array_equal(before, colours())
    other, _ = env.reset(seed=1)
    assert (before != colours()).all()
    assert not np.array_equal(frame, other)


# --- rendering -------------------------------------------------------------------------------


@ids
@pytest.mark.parametrize("suffix", ["", "_list"])
@pytest.mark.parametrize(("mode", "size"), [("rgb_array", (400, 600)), ("state_pixels", (96, 96))])
def test_frames_of_each_render_mode(env_id, mode, size, suffix):
    assert mode in FastCarRacing.metadata["render_modes"]
    env = gymnasium.make(env_id, render_mode=mode + suffix)
    assert env.render_mode == mode + suffix and env.unwrapped.render_mode == mode
    assert has_wrapper(env, RenderCollection) == bool(suffix)
    env.reset(seed=1)
    env.step(STRAIGHT)
    frames = env.render() if suffix else [env.render()]
    assert len(frames) == (2 if suffix else 1)
    for frame in frames:
        assert frame.shape == (*size, 3) and frame.dtype == np.uint8
    env.close()


def test_human_mode_is_the_environments_own():
    env = gymnasium.make(FAST_ID, render_mode="human")
    assert not has_wrapper(env, HumanRendering) and env.render_mode == "human"
    env.close()


def test_rendering_starts_the_display_but_not_the_sound():
    code = (
        "import gymnasium, pygame\n"
        "env = gymnasium.make('fast_car_racing:FastCarRacing-v3', render_mode='rgb_array')\n"
        "env.reset(seed=0)\n"
        "env.render()\n"
        "assert pygame.mixer.get_init() is None\n"
    )
    path = str(Path(fast_car_racing.__file__).resolve().parents[1])
    subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": path}, check=True)
