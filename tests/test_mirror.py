"""Mirror images of drives: the game itself, driven to one side and to the other, is the oracle."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from test_episodes import small_episode

from utils.environment import make_environment, shrink
from utils.episodes import EPISODE_ARRAYS, Entry, scan, with_mirror_images, write_episode
from utils.frame_batches import read_frames
from utils.mirror import DASHBOARD, mirror_actions, mirror_frames


@pytest.fixture(scope="module")
def turns() -> dict[float, np.ndarray]:
    """Frames uint8 (20, 64, 64, 3) of a turn to the left and of the same to the right."""
    frames = {}
    environment = make_environment()
    for steer in (-0.4, 0.4):
        environment.reset(seed=7)
        for _ in range(60):  # past the zoom-in, straight ahead
            environment.step(np.float32([0, 0.3, 0]))
        turn = [environment.step(np.float32([steer, 0.1, 0]))[0] for _ in range(20)]
        frames[steer] = np.stack([shrink(frame) for frame in turn])
    return frames


def test_a_turn_to_the_left_is_a_mirrored_turn_to_the_right(turns: dict) -> None:
    left, right = turns[-0.4], turns[0.4]
    dashboards = [frames[:, DASHBOARD:].astype(int) for frames in (left, right)]
    mirrored = mirror_frames(left)[:, DASHBOARD:].astype(int)
    assert np.abs(dashboards[0] - dashboards[1]).max() > 100  # the bars are on different sides
    # Ends of bars fall between pixels in another way.
    difference = np.abs(mirrored - dashboards[1])
    assert difference.max() < 60 and difference.mean() < 0.5
    assert np.abs(dashboards[0] - dashboards[1]).mean() > 4 * difference.mean()


def test_the_car_is_its_own_mirror_image() -> None:
    environment = make_environment()
    environment.reset(seed=7)
    for _ in range(60):
        frame, *_ = environment.step(np.float32([0, 0, 0]))
    frame = shrink(frame)
    around = frame[40:DASHBOARD, 29:35].astype(int)
    red = (around[..., 0] > 120) & (around[..., 1] < 60)
    assert red.sum() > 5, "no car where it is looked for"
    image = mirror_frames(frame)[40:DASHBOARD, 29:35]
    assert np.abs(image[red].astype(int) - around[red]).max() < 30


def test_twice_mirrored_is_what_was_there() -> None:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (3, 64, 64, 3), np.uint8)
    once = mirror_frames(frames)
    assert once.flags.c_contiguous and once.dtype == np.uint8
    np.testing.assert_array_equal(mirror_frames(once), frames)
    np.testing.assert_array_equal(once[:, :DASHBOARD], frames[:, :DASHBOARD, ::-1])
    actions = rng.uniform(-1, 1, (5, 3)).astype(np.float32)
    np.testing.assert_array_equal(mirror_actions(mirror_actions(actions)), actions)
    np.testing.assert_array_equal(mirror_actions(actions)[:, 0], -actions[:, 0])
    np.testing.assert_array_equal(mirror_actions(actions)[:, 1:], actions[:, 1:])


def test_entries_are_read_both_ways(tmp_path: Path) -> None:
    write_episode(tmp_path / "random" / "7.npz", small_episode())
    entries: list[Entry] = with_mirror_images(scan(tmp_path, EPISODE_ARRAYS))
    assert [entry.mirrored for entry in entries] == [False, True]
    assert dataclasses.replace(entries[1], mirrored=False) == entries[0]
    plain, image = map(read_frames, entries)
    np.testing.assert_array_equal(plain, small_episode().frames)
    np.testing.assert_array_equal(image, mirror_frames(plain))
