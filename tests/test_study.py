"""The study of an agent: geometry and pushes by hand, counts by hand, dreams step by step."""

import json
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from oracles import act, foresee, lstm_step, random_model, sample
from PIL import Image
from scripts import Workshop

from models.controller import Controller
from models.dream import DreamState
from models.rnn import MDNRNN, LSTMState, mixture_noise
from models.vae import ConvVAE
from tools.analysis import calibration as promises
from tools.analysis.score_breakdown import (
    after_pushes,
    by_curvature,
    is_lap_driven,
    losses,
    lost_at,
    misses,
    points_lost,
    wilson,
)
from tools.analysis.trace import WINDOW, Push, Trace, Trial, curvature_of, run_trial
from utils.data.episodes import Episode
from utils.data.splits import VALIDATION
from utils.data.start_states import dream_states_at
from utils.sim.agent import Agent
from utils.sim.env import make_environment
from utils.sim.rollouts import drive_batch
from utils.sim.tasks import DriveBatch, DriveResult, DriveTask
from utils.viz.video import FRAMES_PER_SECOND, WEBP_FRAME_STEP, Replay, encode_frames, write_webp

STEPS = 1000


def scripted(track: int, max_steps: int = STEPS) -> DriveBatch:
    return DriveBatch((DriveTask(track, "scripted", max_steps),))


# --- geometry -------------------------------------------------------------------------------------


def test_a_circle_has_the_curvature_of_its_radius_however_its_points_are_spaced() -> None:
    angles = np.sort(np.random.default_rng(0).uniform(0, 2 * np.pi, 200))
    line = np.stack([3 + 25 * np.cos(angles), -7 + 25 * np.sin(angles)], axis=1)
    np.testing.assert_allclose(curvature_of(line), 1 / 25, rtol=1e-6)
    np.testing.assert_allclose(curvature_of(line[::-1]), 1 / 25, rtol=1e-6)  # to the right


def test_a_stadium_is_straight_on_its_sides_and_round_at_its_ends() -> None:
    side, half = np.arange(0.0, 100.0, 3.5), np.linspace(0, np.pi, 20)
    radius = 15.0
    line = np.concatenate(
        [
            np.stack([side, np.full_like(side, -radius)], 1),
            np.stack([103.5 + radius * np.sin(half), -radius * np.cos(half)], 1),
            np.stack([side[::-1], np.full_like(side, radius)], 1),
            np.stack([-3.5 - radius * np.sin(half), radius * np.cos(half)], 1),
        ]
    )
    curvature = curvature_of(line)
    np.testing.assert_allclose(curvature[5:24], 0, atol=1e-9)
    np.testing.assert_allclose(curvature[len(side) + 5 : len(side) + 15], 1 / radius, rtol=1e-6)


# --- pushes ---------------------------------------------------------------------------------------


def driving_environment() -> Any:
    environment = make_environment()
    environment.reset(seed=VALIDATION[0])
    for _ in range(60):
        environment.step(np.float32([0.1, 0.6, 0.0]))
    return environment


def velocities(car: Any) -> np.ndarray:
    return np.array([tuple(body.linearVelocity) for body in (car.hull, *car.wheels)])


@pytest.mark.parametrize("side", [1, -1])
def test_a_push_sideways_gives_the_whole_car_that_velocity_across_its_heading(side: int) -> None:
    pushed, free = driving_environment(), driving_environment()
    before, angle = velocities(pushed.car), pushed.car.hull.angle
    Push("sideways", 30.0).give(pushed.car, side)
    right = np.array([math.cos(angle), math.sin(angle)])  # the hull points along its own y axis
    np.testing.assert_allclose(velocities(pushed.car) - before, [side * 30 * right] * 5, atol=1e-3)
    for environment in (pushed, free):
        environment.step(np.float32([0, 0, 0]))
    moved = np.array(pushed.car.hull.position) - np.array(free.car.hull.position)
    assert 0.3 < side * moved @ right <= 30 / 50  # units in 1/50 s; the tyres hold against it


def test_a_spin_turns_the_car_as_one_rigid_body() -> None:
    car = driving_environment().car
    turning, before = car.hull.angularVelocity, velocities(car)
    arms = np.array([tuple(wheel.worldCenter - car.hull.worldCenter) for wheel in car.wheels])
    Push("spin", 5.0).give(car, 1)
    assert car.hull.angularVelocity == pytest.approx(turning + 5)
    change = velocities(car) - before
    np.testing.assert_allclose(change[0], 0, atol=1e-6)
    np.testing.assert_allclose(np.hypot(*change[1:].T), 5 * np.hypot(*arms.T), rtol=1e-4)
    np.testing.assert_allclose((change[1:] * arms).sum(1), 0, atol=1e-3)  # nothing is torn off
    assert (arms[:, 0] * change[1:, 1] - arms[:, 1] * change[1:, 0] > 0).all()  # to the left


def test_being_watched_changes_nothing_and_a_push_does() -> None:
    group = scripted(VALIDATION[1], 320)
    ((_, plain),) = drive_batch(group)
    watched, pushed = (run_trial(Trial(group, push))[0] for push in (Push(), Push("spin", 9.0)))
    assert watched.outcome.score == plain.score and watched.outcome.steps == 320
    first = watched.pushes[0]
    assert pushed.pushes[0] == first and 100 <= first < 200
    # The same drive up to the push, another from its very step on.
    np.testing.assert_array_equal(watched.speed[:first], pushed.speed[:first])
    assert watched.speed[first] != pushed.speed[first]
    assert (watched.visited > 0).sum() > 30 and watched.wheels.min() >= 0


# --- counting -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drives() -> dict[str, Trace]:
    """Whole laps of the script, and a driver that does not get round."""
    return {
        "scripted": run_trial(Trial(scripted(VALIDATION[2]), Push()))[0],
        "random": run_trial(Trial(DriveBatch((DriveTask(VALIDATION[2], "random", 500),)), Push()))[
            0
        ],
        "cut off": run_trial(Trial(scripted(VALIDATION[2], 300), Push()))[0],
    }


def test_what_a_score_lacks_to_a_thousand_is_the_sum_of_its_causes(
    drives: dict[str, Trace],
) -> None:
    for trace in drives.values():
        lost = points_lost(trace)
        assert 1000 - sum(lost.values()) == pytest.approx(trace.outcome.score, abs=0.01)
    assert set(points_lost(drives["scripted"]).values()) == {
        0.0,
        drives["scripted"].outcome.steps / 10,
    }
    assert points_lost(drives["cut off"])["out_of_time"] > 300
    assert lost_at(drives["cut off"]) is None


def test_the_scripted_driver_loses_nothing_on_straights(drives: dict[str, Trace]) -> None:
    rows = by_curvature([drives["scripted"]])
    assert rows[0]["name"] == "straight"
    assert rows[0]["tiles"] > 100 and rows[0]["mean_speed"] > rows[-1]["mean_speed"] > 10
    for row in rows:
        assert row["passed_by"] == row["after_loss"] == row["out_of_time"] == 0
        assert row["drives_lost"] == 0
    assert sum(row["tiles"] for row in rows) == len(drives["scripted"].visited)


def trace_of(visited: list[int], steps: int, pushes: tuple[int, ...] = (), **outcome: Any) -> Trace:
    """A drive by hand over tiles of curvature 0.00, 0.01, 0.02 …, at 1, 2, 3 … units/s."""
    facts = {"lap_finished": False, "left_playfield": False, **outcome}
    wheels = np.full(steps, 4)
    wheels[210:230] = 0
    return Trace(
        DriveResult(track=5, score=0.0, steps=steps, **facts),
        np.arange(len(visited)) / 100,
        np.array(visited),
        np.arange(1.0, steps + 1),
        wheels,
        pushes,
    )


def test_a_drive_is_lost_where_no_new_tile_came_any_more() -> None:
    never = [-1] * 30
    trace = trace_of([0, 0, 10, -1, 30, 40, *never], steps=500)
    assert lost_at(trace) == 5
    (row,) = losses([trace])
    assert (row["tile"], row["step"], row["speed"], row["curvature"]) == (5, 40, 40.0, 0.05)
    assert row["sharpest_near"] == 0.35  # tiles −3 to 13 of a closed line of 36
    counted = {name: np.flatnonzero(tiles).tolist() for name, tiles in misses(trace).items()}
    assert counted == {"passed_by": [3], "after_loss": list(range(6, 36)), "out_of_time": []}
    kinds = by_curvature([trace])  # 0, 0.01; 0.01, 0.02; 0.03, 0.04; 0.05, 0.06; 0.07 …
    assert [row["tiles"] for row in kinds] == [1, 2, 2, 2, 29]
    assert [row["passed_by"] for row in kinds] == [0, 0, 1, 0, 0]
    assert [row["drives_lost"] for row in kinds] == [0, 0, 0, 0, 1]
    assert kinds[1]["mean_speed"] == 10.0  # visited during the reset has no speed
    # Cut off while tiles still came, it ran out of time.
    early = trace_of([0, 0, 10, -1, 30, 40, *never], steps=100)
    assert lost_at(early) is None and misses(early)["out_of_time"].sum() == 30
    assert lost_at(trace_of([0, 0, 10, 20, *never], 50, left_playfield=True)) == 3


def test_a_driven_lap_is_not_lost_when_a_missed_tile_keeps_it_from_ending() -> None:
    trace = trace_of([0, *range(10, 300, 10), -1, *range(310, 400, 10)], steps=1000)
    assert is_lap_driven(trace) and lost_at(trace) is None
    assert misses(trace)["passed_by"].sum() == 1


def test_a_push_is_survived_by_tiles_that_come_after_the_sliding() -> None:
    # The first push brings a tile at once and none later, the second one after 80 steps.
    visited = [0, 10, 205, 480, *[-1] * 40]
    rows = after_pushes([trace_of(visited, 1000, (200, 400))], Push("spin", 3.0))
    assert (rows["pushes"], rows["returned"]) == (2, 1)
    assert (rows["left_road"], rows["returned_from_grass"]) == (1, 0)
    late = trace_of([0, 10, 200 + WINDOW + 1, *[-1] * 40], 1000, (200,))
    assert after_pushes([late], Push())["returned"] == 0
    finished = trace_of([0, 10, 20], 230, (200,), lap_finished=True)
    assert after_pushes([finished], Push())["returned"] == 1


def test_wilsons_interval_is_that_of_his_formula() -> None:
    n, share, z = 24, 18 / 24, 1.959964
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    assert wilson(18, n) == pytest.approx([centre - half, centre + half], abs=1e-6)
    assert wilson(0, 0) is None


# --- dreams against reality -----------------------------------------------------------------------

SIZES = {"latent": 32, "hidden": 12, "components": 3}


@pytest.fixture(scope="module")
def agent() -> Agent:
    rng = np.random.default_rng(3)
    controller = jax.tree.map(
        lambda x: rng.normal(0, 0.5, x.shape).astype(np.float32), Controller(32 + 12)
    )
    return Agent(
        random_model(lambda: ConvVAE(32, key=jax.random.key(0)), seed=1),
        random_model(lambda: MDNRNN(**SIZES, key=jax.random.key(0)), seed=2),
        controller,
    )


def test_a_dreamed_return_is_that_of_a_loop_over_its_steps(agent: Agent) -> None:
    rng = np.random.default_rng(0)
    moments, dreams, horizon, temperature = 3, 2, 6, 1.2
    z, (hidden, cell) = rng.normal(size=(moments, 32)), rng.normal(0, 0.3, (2, moments, 12))
    starts = jax.tree.map(np.float32, DreamState(z, LSTMState(hidden, cell)))
    key = jax.random.key(7)
    returns = promises.dreamed_returns(
        agent.rnn, agent.controller, starts, key, dreams, horizon, temperature
    )
    assert returns.shape == (moments, dreams)
    for moment, moment_key in enumerate(jax.random.split(key, moments)):
        noise = mixture_noise(moment_key, (dreams, horizon, 32))
        for dream in range(dreams):
            seen, memory = z[moment], (hidden[moment], cell[moment])
            alive, total = 1.0, 0.0
            for step in range(horizon):
                action = act(agent.controller, seen, memory[0])
                memory = lstm_step(agent.rnn, *memory, seen, action)
                foreseen = foresee(agent.rnn, memory[0], seen)
                total += alive * ((1 - foreseen.end) * foreseen.reward - 100 * foreseen.end)
                alive *= 1 - foreseen.end
                luck = (noise.choice[dream, step], noise.normal[dream, step])
                seen = sample(foreseen, *map(np.asarray, luck), temperature)
            assert returns[moment, dream] == pytest.approx(total, rel=1e-3, abs=1e-2)


def test_without_its_end_head_m_foresees_the_same_and_no_failure(agent: Agent) -> None:
    hidden, z = np.random.default_rng(1).normal(size=12), np.zeros(32)
    (*same, end), (*expected, _) = (
        foresee(rnn, hidden, z) for rnn in (promises.unending(agent.rnn), agent.rnn)
    )
    assert end == 0.0
    for a, b in zip(same, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_dreams_begin_with_the_memory_that_the_agent_had(agent: Agent) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (9, 64, 64, 3), np.uint8)
    agent.reset()
    actions, memories = [], []
    for frame in frames:
        memories.append(jax.tree.map(lambda lanes: np.asarray(lanes)[0], agent.memory))
        actions.append(agent.act(frame))
    rows = np.array([0, 4, 8])
    found = dream_states_at(agent.rnn, encode_frames(agent.vae, frames), np.stack(actions), rows)
    for place, row in enumerate(rows):
        np.testing.assert_allclose(found.memory.hidden[place], memories[row].hidden, atol=1e-5)
        np.testing.assert_allclose(found.memory.cell[place], memories[row].cell, atol=1e-5)


def episode_of(rewards: np.ndarray, left: bool = False) -> Episode:
    ends = np.zeros((2, len(rewards)), bool)
    ends[0 if left else 1, -1] = True
    frames = np.random.default_rng(0).integers(0, 256, (len(rewards) + 1, 64, 64, 3), np.uint8)
    actions = np.zeros((len(rewards), 3), np.float32)
    return Episode(frames, actions, rewards.astype(np.float32), *ends, False, 5, {})


def test_a_real_return_is_counted_as_the_dream_counts() -> None:
    rewards = np.full(300, -0.1)
    rewards[:100:10] = 3.0  # the last new tile at step 90: 209 steps bring none
    episode = episode_of(rewards)
    assert promises.real_return(episode, 20, 50) == (pytest.approx(5 * 3 - 4.5), False)
    # From 91 on it is lost: 7 tiles and 64 other steps, then −100.
    assert promises.real_return(episode, 30, 100) == (pytest.approx(21 - 5.4 - 100), True)
    rewards = np.where(np.arange(120) % 10 == 0, 3.0, -0.1)
    rewards[-1] = -100
    assert promises.real_return(episode_of(rewards, left=True), 110, 50) == (
        pytest.approx(3 - 0.8 - 100),
        True,
    )


def test_optimism_and_correlation_are_those_of_the_rows() -> None:
    pairs = [(10, 20, False), (30, 50, False), (-90, 40, True), (50, 90, False)]
    rows = [
        {"real": r, "dreamed": d, "dreamed_unending": d + 7, "lost": lost} for r, d, lost in pairs
    ]
    figures = promises.figures_of(rows)
    assert figures["optimism_of_rewards"] == 70 / 3 + 7
    assert figures["optimism"] == (10 + 20 + 130 + 40) / 4
    assert (figures["optimism_lost"], figures["optimism_not_lost"]) == (130, 70 / 3)
    # Ranks 2 3 1 4 against 1 3 2 4: 1 − 6 × (1 + 0 + 1 + 0) / (4 × 15).
    assert figures["rank_correlation"] == pytest.approx(0.8)


# --- the film and the whole script ----------------------------------------------------------------


def test_the_film_shows_the_asked_seconds_at_true_speed(tmp_path: Path) -> None:
    episode = episode_of(np.full(120, -0.1))
    shown = Replay(episode.frames, episode.frames[1:], episode.frames[21:], 20, *np.zeros((3, 120)))
    write_webp(tmp_path / "film.webp", episode, shown, seconds=1.0)
    with Image.open(tmp_path / "film.webp") as film:
        assert film.n_frames == -(-FRAMES_PER_SECOND // WEBP_FRAME_STEP)
        film.load()
        assert film.info["duration"] == 1000 * WEBP_FRAME_STEP / FRAMES_PER_SECOND
        assert film.info["loop"] == 0
        film.seek(5)
        page = np.asarray(film.convert("RGB")).astype(int)
    first_row = page[22:25, :192].reshape(3, 64, 3, 3).mean((0, 2))
    # Noise compressed with loss: near on the whole, which another frame would not be.
    real = episode.frames[21 + 5 * WEBP_FRAME_STEP]
    assert np.abs(first_row - real[0]).mean() < 40


def test_the_script_studies_an_agent(workshop: Workshop, tmp_path: Path) -> None:
    flags = ["--episodes", "1", "--max-steps", "300", "--baseline", "none", "--workers", "1"]
    flags += ["--horizon", "30", "--dreams", "2", "--output-dir", str(tmp_path)]
    said = workshop.succeed("tools.analysis", *flags, "--film-seconds", "0.5")
    assert "points lost" in said
    study = json.loads((tmp_path / "study.json").read_text())
    assert study["tracks"] == [VALIDATION[20_000]]
    assert [row["strength"] for row in study["agent"]["pushes"]] == [0, 15, 30, 60, 3, 6, 9]
    # It hardly learned: it may be lost before the zoom-in is over, with nothing to dream of.
    assert len(study["dreams"]["moments"]) in range(9)
    agent = study["agent"]
    assert 1000 - sum(agent["points_lost"].values()) == pytest.approx(agent["mean"], abs=0.01)
    for name in ("lost_by_curvature.png", "pushes.png", "dreamed_against_real.png", "film.webp"):
        with Image.open(tmp_path / name) as picture:
            assert picture.width > 400
