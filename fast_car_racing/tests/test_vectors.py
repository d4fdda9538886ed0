"""What Gymnasium's own tests ask of `make_vec`, asked of our ids."""

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import GrayscaleObservation

import fast_car_racing

FAST_ID = fast_car_racing.ENV_ID
STRAIGHT = np.array([0.0, 1.0, 0.0], np.float32)

pytestmark = pytest.mark.usefixtures("replaced")


@pytest.mark.parametrize("env_id", [FAST_ID, "CarRacing-v3"])
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_vector_gives_what_single_environments_give(env_id, mode):
    envs = gymnasium.make_vec(
        env_id, 2, vectorization_mode=mode, wrappers=[GrayscaleObservation], frame_skip=2
    )
    assert envs.num_envs == 2 and envs.spec.id == env_id
    assert envs.observation_space.shape == (2, 96, 96)
    singles = [GrayscaleObservation(gymnasium.make(env_id, frame_skip=2)) for _ in range(2)]
    frames, _ = envs.reset(seed=20)
    for number, env in enumerate(singles):
        np.testing.assert_array_equal(frames[number], env.reset(seed=20 + number)[0])
    actions = np.array([[0.5, 1, 0], [-0.5, 1, 0]], np.float32)
    for _ in range(5):
        frames, rewards, *_ = envs.step(actions)
        for number, env in enumerate(singles):
            frame, reward, *_ = env.step(actions[number])
            np.testing.assert_array_equal(frames[number], frame)
            assert rewards[number] == reward
    envs.close()


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_envs": 3},
        {"vectorization_mode": "sync", "vector_kwargs": {"copy": False}},
        {"wrappers": (GrayscaleObservation,)},
        {"render_mode": "rgb_array", "max_episode_steps": 5, "frame_skip": 4},
    ],
    ids=str,
)
def test_specification_of_a_vector_makes_the_same_vector(arguments):
    envs = gymnasium.make_vec(FAST_ID, **arguments)
    again = gymnasium.make_vec(envs.spec)
    assert type(envs) is type(again) is gymnasium.vector.SyncVectorEnv
    assert envs.spec == again.spec and envs.num_envs == again.num_envs
    for field in ("observation_space", "action_space", "render_mode"):
        assert getattr(envs, field) == getattr(again, field)
    assert envs.get_attr("frame_skip") == again.get_attr("frame_skip")


def test_vector_has_no_entry_point_of_its_own():
    """As CarRacing-v3; Gymnasium says so."""
    with pytest.raises(gymnasium.error.Error, match="doesn't have a vector entry point"):
        gymnasium.make_vec(FAST_ID, 2, vectorization_mode="vector_entry_point")


@pytest.mark.parametrize("autoreset", list(AutoresetMode))
def test_autoreset_after_the_time_limit(autoreset):
    envs = gymnasium.make_vec(
        FAST_ID,
        1,
        vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": autoreset},
        max_episode_steps=2,
    )
    envs.reset(seed=4)
    single = gymnasium.make(FAST_ID)
    single.reset(seed=4)
    for _ in range(2):
        frame, _, _, truncated, infos = envs.step(STRAIGHT[None])
        last = single.step(STRAIGHT)[0]
    assert truncated[0]
    if autoreset is AutoresetMode.SAME_STEP:
        np.testing.assert_array_equal(infos["final_obs"][0], last)
    else:
        np.testing.assert_array_equal(frame[0], last)
        if autoreset is AutoresetMode.NEXT_STEP:
            frame, *_ = envs.step(STRAIGHT[None])
        else:
            frame, _ = envs.reset(options={"reset_mask": np.array([True])})
    np.testing.assert_array_equal(frame[0], single.reset()[0])
    envs.close()
