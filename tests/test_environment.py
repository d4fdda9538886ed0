"""The real environment: frames, rewards and ends in the right rows; the drivers without a model."""

import itertools

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.box2d.car_racing import CarRacing

from utils.data.episodes import Episode
from utils.data.splits import HOLD_OUT_EVERY, MODES, SPLITS, TEST, TRAINING, VALIDATION, is_held_out
from utils.sim.env import MAX_STEPS, drive_episode, make_environment, resize_frame
from utils.sim.policies import Centerline, DrivingStyle, OUNoise, RandomDriver, ScriptedDriver
from utils.sim.rollouts import make_driver
from utils.sim.tasks import DriveTask


class PhysicsOnly(CarRacing):
    """Gymnasium's CarRacing without its drawing, which takes 99 % of the time."""

    def _render(self, mode: str) -> np.ndarray:
        return np.zeros((96, 96, 3), np.uint8)


class Recorded:
    """Does what was done before, frame or no frame."""

    def __init__(self, actions: np.ndarray):
        self.actions = actions

    def reset(self, environment: gymnasium.Env) -> None:
        self.left = iter(self.actions)

    def act(self, frame: np.ndarray) -> np.ndarray:
        return next(self.left)


def area_average(frame: np.ndarray) -> np.ndarray:
    """Each pixel doubled, then means over blocks of three by three, rounded: exact in floats."""
    large = np.kron(frame.astype(np.float64), np.ones((2, 2, 1)))
    means = large.reshape(64, 3, 64, 3, 3).mean(axis=(1, 3))
    # Ninths are never halfway between two levels.
    return np.rint(means).astype(np.uint8)


@pytest.mark.parametrize("high", [2, 256])
def test_resizing_is_exact_area_averaging(high: int) -> None:
    frame = np.random.default_rng(high).integers(0, high, (96, 96, 3)).astype(np.uint8)
    frame *= 255 // (high - 1)
    small = resize_frame(frame)
    assert small.dtype == np.uint8
    np.testing.assert_array_equal(small, area_average(frame))


def test_resizing_keeps_plain_colours() -> None:
    for level in (0, 1, 254, 255):
        np.testing.assert_array_equal(
            resize_frame(np.full((96, 96, 3), level, np.uint8)), np.full((64, 64, 3), level)
        )


@pytest.fixture(scope="module")
def recorded() -> Episode:
    """Sixty steps of Gymnasium's own environment by the scripted driver: some tiles, some turns."""
    environment = make_environment("gymnasium")
    driver = ScriptedDriver(DrivingStyle(steer_noise=0.2), np.random.default_rng(0))
    episode = drive_episode(environment, driver, 80_000_001, 60, {"mode": "test"})
    environment.close()
    return episode


def test_rows_have_what_their_actions_caused(recorded: Episode) -> None:
    oracle = gymnasium.make("CarRacing-v3")
    observation, _ = oracle.reset(seed=80_000_001)
    np.testing.assert_array_equal(recorded.frames[0], area_average(observation))
    rewards = []
    for t, action in enumerate(recorded.actions):
        observation, reward, terminated, _, _ = oracle.step(action)
        rewards.append(reward)
        assert recorded.rewards[t] == np.float32(reward), t
        assert recorded.terminated[t] == terminated, t
        np.testing.assert_array_equal(recorded.frames[t + 1], area_average(observation), str(t))
    oracle.close()
    # Neighbouring rows differ, or rows shifted by one would have passed too.
    tiles = np.flatnonzero(recorded.rewards > 0)
    assert len(tiles) >= 3 and np.diff(tiles).min() > 0
    assert (recorded.rewards[tiles - 1] != recorded.rewards[tiles]).any()
    assert (recorded.frames[1:] != recorded.frames[:-1]).any(axis=(1, 2, 3)).all()
    assert (recorded.actions[1:] != recorded.actions[:-1]).any(axis=1).all()
    np.testing.assert_allclose(recorded.score, sum(rewards), rtol=1e-5)


def test_a_recording_has_the_contracts_shapes(recorded: Episode) -> None:
    assert recorded.frames.shape == (61, 64, 64, 3) and recorded.frames.dtype == np.uint8
    assert recorded.actions.shape == (60, 3) and recorded.actions.dtype == np.float32
    assert recorded.rewards.shape == (60,) and recorded.rewards.dtype == np.float32
    # It was stopped by its limit, at the last row and nowhere else.
    assert not recorded.terminated.any() and recorded.terminated.dtype == bool
    np.testing.assert_array_equal(np.flatnonzero(recorded.truncated), [59])
    assert not recorded.lap_finished
    assert (recorded.seed, recorded.provenance) == (80_000_001, {"mode": "test"})


def test_leaving_the_playfield_is_on_the_last_row() -> None:
    # Full gas with a small steering angle leaves the playfield.
    straight = Recorded(np.tile(np.array([0.02, 0.6, 0], np.float32), (MAX_STEPS, 1)))
    episode = drive_episode(PhysicsOnly(), straight, 80_000_002, MAX_STEPS, {})
    steps = len(episode.rewards)
    assert steps < MAX_STEPS
    np.testing.assert_array_equal(np.flatnonzero(episode.terminated), [steps - 1])
    assert not episode.truncated.any() and not episode.lap_finished
    assert episode.rewards[-1] == -100 and (episode.rewards[:-1] > -0.2).all()
    assert len(episode.frames) == steps + 1 == len(episode.actions) + 1


@pytest.mark.parametrize("track", [80_000_000, 80_000_003])
def test_scripted_driver_laps(track: int) -> None:
    task = DriveTask(track, "scripted", MAX_STEPS)
    episode = drive_episode(PhysicsOnly(), make_driver(task), track, MAX_STEPS, {})
    assert episode.score > 850
    assert episode.lap_finished and episode.terminated[-1] and not episode.truncated.any()
    assert episode.rewards[-1] > -100
    # A tile is worth 1000 / N and a step costs 0.1: with all tiles visited nothing else is left.
    np.testing.assert_allclose(episode.score, 1000 - 0.1 * len(episode.rewards), atol=0.05)


@pytest.mark.parametrize("mode", ["random", "recovery", "aggressive", "scripted"])
def test_actions_stay_inside_the_action_space(mode: str) -> None:
    environment = PhysicsOnly()
    for seed in range(3):
        driver = make_driver(DriveTask(seed, mode, 150, seed=seed))
        actions = drive_episode(environment, driver, 80_000_004, 150, {}).actions
        assert actions.shape == (150, 3)
        for action in actions:
            assert action in environment.action_space


def test_random_driving_moves_the_car() -> None:
    environment, distances = PhysicsOnly(), []
    for seed in range(8):
        driver = RandomDriver(np.random.default_rng(seed))
        environment.reset(seed=seed)
        start = np.array(environment.car.hull.position)
        drive_episode(environment, driver, seed, 200, {})
        distances.append(np.linalg.norm(np.array(environment.car.hull.position) - start))
    # Some episodes may stand still; most go many lengths of a car, which is 5 units.
    assert np.median(distances) > 30


def test_a_driver_depends_only_on_seed_mode_and_track() -> None:
    def first_actions(mode: str, track: int, seed: int) -> np.ndarray:
        environment = PhysicsOnly()
        return drive_episode(
            environment, make_driver(DriveTask(track, mode, 80, seed=seed)), track, 80, {}
        ).actions

    # A random driver ignores the track, so only its generator makes episodes differ.
    for mode in ("random", "recovery"):
        expected = first_actions(mode, 5, 0)
        np.testing.assert_array_equal(first_actions(mode, 5, 0), expected)
        for track, seed in ((5, 1), (6, 0)):
            assert (first_actions(mode, track, seed) != expected).any(), (mode, track, seed)
        assert (first_actions("aggressive", 5, 0) != expected).any()


def test_aggressive_driving_is_faster_and_recovery_leaves_the_road() -> None:
    def drive_as(style: DrivingStyle) -> tuple[float, float]:
        """The highest share of the allowed speed, and the farthest from the centre line."""
        environment = PhysicsOnly()
        driver = ScriptedDriver(style, np.random.default_rng(0))
        shares, distances = [], []
        act = driver.act

        def watch(frame: np.ndarray) -> np.ndarray:
            hull = environment.car.hull
            away = np.hypot(*(driver.line.xy - np.array(hull.position)).T)
            shares.append(np.hypot(*hull.linearVelocity) / driver.line.speed[away.argmin()])
            distances.append(away.min())
            return act(frame)

        driver.act = watch
        drive_episode(environment, driver, 80_000_005, 400, {})
        return max(shares), max(distances)

    styles = (
        DrivingStyle(),
        DrivingStyle(pace=1.5),
        DrivingStyle(swerve_chance=0.02),
        DrivingStyle(freeze_chance=0.02),
    )
    usual, aggressive, swerving, frozen = map(drive_as, styles)
    assert usual[0] < 1.25 < aggressive[0]
    assert (
        usual[1] < 6.7 < min(aggressive[1], swerving[1], frozen[1])
    )  # half the road is 6.67 units


def test_centerline_slows_for_corners_in_time() -> None:
    # A long straight, then a half circle of radius 20: 7 / 20 of a radian for every two tiles.
    straight = [(0.0, 0.0, 0.0, 3.5 * i) for i in range(100)]
    bend = [
        (0.0, 0.0, -20 + 20 * np.cos(a), 350 + 20 * np.sin(a)) for a in np.arange(0, 3.1, 0.175)
    ]
    back = [(0.0, 0.0, -40.0, 350 - 3.5 * i) for i in range(100)]
    line = Centerline(straight + bend + back)
    corner = line.speed[104:112]
    np.testing.assert_allclose(corner, np.sqrt(220 * 20), rtol=0.02)  # v² / r = grip
    assert line.speed[20] == Centerline.TOP_SPEED
    # Nowhere does it have to lose more speed to the next tile than the brakes can.
    after = np.roll(line.speed, -1)
    assert (line.speed**2 <= after**2 + 2 * 91 * 3.5 + 1e-6).all()


def test_noise_is_stationary_and_correlated() -> None:
    noise = OUNoise(np.random.default_rng(0), np.array([0.5, 2.0]), rate=0.1, size=2)
    values = np.array([noise.sample() for _ in range(60_000)])[100:]
    np.testing.assert_allclose(values.std(axis=0), [0.5, 2.0], rtol=0.05)
    np.testing.assert_allclose(values.mean(axis=0) / [0.5, 2.0], 0, atol=0.1)
    for lag in (1, 10):
        correlation = np.corrcoef(values[lag:, 0], values[:-lag, 0])[0, 1]
        np.testing.assert_allclose(correlation, 0.9**lag, atol=0.05)
    assert abs(np.corrcoef(values.T)[0, 1]) < 0.1


def test_tracks_of_all_purposes_are_disjoint() -> None:
    assert set(TRAINING) == set(MODES) and len(MODES) == 5
    assert SPLITS == {"validation": VALIDATION, "test": TEST}
    ranges = sorted((*TRAINING.values(), VALIDATION, TEST), key=lambda r: r.start)
    for before, after in itertools.pairwise(ranges):
        assert before.step == after.step == 1
        assert before.stop <= after.start
    assert all(len(r) == 10_000_000 for r in ranges)


def test_one_track_in_ten_is_held_out() -> None:
    for tracks in TRAINING.values():
        held_out = [is_held_out(track) for track in tracks[:100]]
        assert sum(held_out) == 100 // HOLD_OUT_EVERY == 10
        # Two episodes suffice for both uses.
        assert held_out[:2] == [False, True]
