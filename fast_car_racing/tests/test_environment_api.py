"""FastCarRacing in the place of CarRacing-v3: ids, options, wrappers, workers, errors."""

import multiprocessing
import os
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import cloudpickle
import gymnasium
import numpy as np
import pytest
from gymnasium.envs.box2d.car_racing import CarRacing
from gymnasium.utils.env_checker import check_env
from gymnasium.utils.env_match import check_environments_match

import fast_car_racing
from fast_car_racing.env import FastCarRacing

FAST_ID = "fast_car_racing:FastCarRacing-v3"
PARENT = Path(fast_car_racing.__file__).resolve().parents[1]


def run_python(*arguments: str, cwd: Path = PARENT) -> str:
    """The standard output of a new Python process; raises if it fails."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(PARENT)},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout


@pytest.fixture
def replaced():
    fast_car_racing.replace_car_racing()
    yield
    fast_car_racing.restore_car_racing()


def test_registered_with_gymnasiums_limits():
    specs = [gymnasium.spec(name) for name in (fast_car_racing.ENV_ID, "CarRacing-v3")]
    for field in ("max_episode_steps", "reward_threshold", "order_enforce", "nondeterministic"):
        assert getattr(specs[0], field) == getattr(specs[1], field)
    assert isinstance(gymnasium.make(FAST_ID).unwrapped, FastCarRacing)


@pytest.mark.parametrize("options", [{}, {"continuous": False}, {"domain_randomize": True}])
def test_environment_checker(options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # Gymnasium's own checker has two remarks on CarRacing, on spaces it shares with ours.
        warnings.filterwarnings("ignore", message=".*Box action space.*")
        check_env(gymnasium.make(FAST_ID, **options).unwrapped, skip_render_check=True)


def test_gymnasiums_own_comparison_of_environments():
    pair = gymnasium.make("CarRacing-v3"), gymnasium.make(FAST_ID)
    check_environments_match(*pair, num_steps=40, skip_render=True, info_comparison="equivalence")


@pytest.mark.parametrize("percent", [0.05, 0.95])
def test_lap_complete_percent(percent):
    """Both end after the same step with the same info."""
    envs = [cls(lap_complete_percent=percent) for cls in (CarRacing, FastCarRacing)]
    for env in envs:
        env.reset(seed=3)
        env.tile_visited_count = len(env.track) - 1  # all but the last tile
    for _ in range(60):
        results = [env.step(np.array([0.0, 1.0, 0.0])) for env in envs]
        np.testing.assert_array_equal(results[0][0], results[1][0])
        assert results[0][1:] == results[1][1:]


@pytest.mark.parametrize("mode", ["rgb_array", "state_pixels"])
def test_render(mode):
    """With skid marks, which only films show."""
    envs = [cls(render_mode=mode) for cls in (CarRacing, FastCarRacing)]
    for env in envs:
        env.reset(seed=4)
    for step in range(45):
        action = np.array([1.0, step < 30, step >= 30])  # full brake from speed
        for env in envs:
            env.step(action)
        if step % 5 == 0 or step > 30:
            np.testing.assert_array_equal(*(env.render() for env in envs))
    assert len(envs[0].car.particles) > 0


def test_render_human():
    """Without a screen (SDL's dummy driver): the window's pixels are equal."""
    envs = [cls(render_mode="human") for cls in (CarRacing, FastCarRacing)]
    windows = []
    for env in envs:
        env.reset(seed=4)
        env.step(np.array([0.0, 1.0, 0.0]))
        windows.append(np.array(env.screen.get_view("3")))
        env.close()
    np.testing.assert_array_equal(*windows)


def test_render_without_a_mode_warns_as_gymnasium_does():
    for name in ("CarRacing-v3", FAST_ID):
        env = gymnasium.make(name)
        env.reset(seed=1)
        with pytest.warns(UserWarning, match="without specifying any render mode"):
            assert env.unwrapped.render() is None


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_vector_environments(mode):
    pair = [
        gymnasium.make_vec(name, 2, vectorization_mode=mode) for name in ("CarRacing-v3", FAST_ID)
    ]
    results = [env.reset(seed=[5, 6]) for env in pair]
    np.testing.assert_array_equal(results[0][0], results[1][0])
    for _ in range(10):
        results = [env.step(np.array([[0.3, 1.0, 0.0], [-0.3, 0.5, 0.0]])) for env in pair]
        for left, right in zip(results[0][:4], results[1][:4], strict=True):
            np.testing.assert_array_equal(left, right)
    for env in pair:
        env.close()


@pytest.mark.parametrize(
    "action",
    [[0, np.nan, 0], [np.nan, 0, 0], [0, 0, np.nan], [np.inf, -np.inf, np.inf], [9, 9, -9]],
)
def test_actions_out_of_bounds(action):
    """Gymnasium clips the gas and raises ValueError for NaN gas, when it draws."""
    outputs = []
    for cls in (CarRacing, FastCarRacing):
        env, output = cls(), []
        env.reset(seed=1)
        try:
            for step in range(12):
                bad = np.array([0, 1, 0] if step < 3 else action, np.float64)
                frame, *rest = env.step(bad)
                output.append((frame.tobytes(), *rest))
        except ValueError as error:
            output.append(str(error))
        outputs.append(output)
    assert outputs[0] == outputs[1]
    assert (outputs[1][-1] == "cannot convert float NaN to integer") == np.isnan(action[1])


@pytest.mark.parametrize("action", [5, -1, 1.5, np.array([0, 0, 0])])
def test_discrete_actions_out_of_range(action):
    for cls in (CarRacing, FastCarRacing):
        env = cls(continuous=False)
        env.reset(seed=1)
        with pytest.raises(gymnasium.error.InvalidAction, match="invalid action"):
            env.step(action)


@pytest.mark.parametrize("action", [[0, 0, 0], np.zeros(2), np.float32(0)])
def test_actions_of_wrong_shape_raise_gymnasiums_error(action):
    errors = []
    for cls in (CarRacing, FastCarRacing):
        env = cls()
        env.reset(seed=1)
        with pytest.raises((AttributeError, IndexError)) as caught:
            env.step(action)
        errors.append((caught.type, str(caught.value)))
    assert errors[0] == errors[1]


def test_step_before_reset_raises():
    with pytest.raises(gymnasium.error.ResetNeeded):
        gymnasium.make(FAST_ID).step(np.zeros(3, np.float32))
    with pytest.raises(AssertionError):
        FastCarRacing().step(np.zeros(3, np.float32))


def first_frame(env: FastCarRacing) -> np.ndarray:
    return env.reset(seed=11)[0]


def test_pickled_with_its_arguments():
    """As CarRacing: a new environment with the same arguments, not the same state."""
    env = FastCarRacing("rgb_array", continuous=False, frame_skip=3, max_frames=None)
    env.reset(seed=1)
    for clone in (pickle.loads(pickle.dumps(env)), cloudpickle.loads(cloudpickle.dumps(env))):
        assert (clone.render_mode, clone.continuous) == ("rgb_array", False)
        assert (clone.frame_skip, clone.max_frames) == (3, None)
        np.testing.assert_array_equal(first_frame(clone), first_frame(CarRacing()))


@pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
def test_worker_processes(method):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system cannot {method}")
    with multiprocessing.get_context(method).Pool(1) as pool:
        frame = pool.apply(first_frame, (FastCarRacing(),))
    np.testing.assert_array_equal(frame, first_frame(CarRacing()))


def test_replaced_id(replaced):
    env = gymnasium.make("CarRacing-v3", continuous=False)
    assert isinstance(env.unwrapped, FastCarRacing) and env.spec.id == "CarRacing-v3"
    env = gymnasium.make("CarRacing-v3", frame_skip=4)
    assert env.unwrapped.frame_skip == 4
    envs = gymnasium.make_vec("CarRacing-v3", 2, vectorization_mode="sync")
    assert all(isinstance(env.unwrapped, FastCarRacing) for env in envs.envs)
    fast_car_racing.replace_car_racing()  # twice is as once
    fast_car_racing.restore_car_racing()
    assert type(gymnasium.make("CarRacing-v3").unwrapped) is CarRacing


@pytest.mark.parametrize("context", ["spawn", "fork", "forkserver"])
def test_replaced_id_in_workers_of_make_vec(replaced, context):
    """The workers get the replaced specification."""
    if context not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system cannot {context}")
    envs = gymnasium.make_vec(
        "CarRacing-v3", 1, vectorization_mode="async", vector_kwargs={"context": context}
    )
    assert envs.get_attr("frame_skip") == (1,)  # an attribute of the fast environment alone
    envs.close()


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_replaced_id_in_workers_that_call_make(method, tmp_path):
    """They import the main script again, so that its top level replaces the id there, too."""
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system cannot {method}")
    (tmp_path / "main.py").write_text(
        "import multiprocessing, gymnasium, fast_car_racing\n"
        "fast_car_racing.replace_car_racing()\n"
        "def kind(_):\n"
        "    return type(gymnasium.make('CarRacing-v3').unwrapped).__name__\n"
        "if __name__ == '__main__':\n"
        f"    with multiprocessing.get_context({method!r}).Pool(1) as pool:\n"
        "        print(pool.map(kind, [0]))\n"
    )
    assert run_python("main.py", cwd=tmp_path) == "['FastCarRacing']\n"


def test_reloading_the_module_is_silent():
    code = "import fast_car_racing.env as env, importlib; importlib.reload(env)"
    run_python("-W", "error::UserWarning", "-c", code)
