"""Dreamed against real returns, the video, and the whole tool on a tiny agent."""

import json
from pathlib import Path

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
from tools.analysis import calibration
from utils.data.episodes import Episode
from utils.data.splits import VALIDATION
from utils.data.start_states import dream_states_at
from utils.sim.agent import Agent
from utils.viz.video import FRAMES_PER_SECOND, WEBP_FRAME_STEP, Replay, encode_frames, write_webp

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


def test_dreamed_returns_match_a_loop_over_steps(agent: Agent) -> None:
    rng = np.random.default_rng(0)
    moments, dreams, horizon, temperature = 3, 2, 6, 1.2
    z, (hidden, cell) = rng.normal(size=(moments, 32)), rng.normal(0, 0.3, (2, moments, 12))
    starts = jax.tree.map(np.float32, DreamState(z, LSTMState(hidden, cell)))
    key = jax.random.key(7)
    returns = calibration.dreamed_returns(
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
                drawn = (noise.choice[dream, step], noise.normal[dream, step])
                seen = sample(foreseen, *map(np.asarray, drawn), temperature)
            assert returns[moment, dream] == pytest.approx(total, rel=1e-3, abs=1e-2)


def test_without_failures_only_the_end_prediction_changes(agent: Agent) -> None:
    hidden, z = np.random.default_rng(1).normal(size=12), np.zeros(32)
    (*same, end), (*expected, _) = (
        foresee(rnn, hidden, z) for rnn in (calibration.without_failures(agent.rnn), agent.rnn)
    )
    assert end == 0.0
    for a, b in zip(same, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_dreams_start_with_the_memory_of_the_agent(agent: Agent) -> None:
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


def test_real_returns_are_counted_as_in_a_dream() -> None:
    rewards = np.full(300, -0.1)
    rewards[:100:10] = 3.0  # the last new tile at step 90: 209 steps bring none
    episode = episode_of(rewards)
    assert calibration.real_return(episode, 20, 50) == (pytest.approx(5 * 3 - 4.5), False)
    # From 91 on it is lost: 7 tiles and 64 other steps, then −100.
    assert calibration.real_return(episode, 30, 100) == (pytest.approx(21 - 5.4 - 100), True)
    rewards = np.where(np.arange(120) % 10 == 0, 3.0, -0.1)
    rewards[-1] = -100
    assert calibration.real_return(episode_of(rewards, left=True), 110, 50) == (
        pytest.approx(3 - 0.8 - 100),
        True,
    )


def test_bias_and_correlation_of_the_rows() -> None:
    pairs = [(10, 20, False), (30, 50, False), (-90, 40, True), (50, 90, False)]
    rows = [
        {"real": r, "dreamed": d, "dreamed_without_failures": d + 7, "failed": failed}
        for r, d, failed in pairs
    ]
    figures = calibration.calibration_metrics(rows)
    assert figures["return_bias_of_rewards"] == 70 / 3 + 7
    assert figures["return_bias"] == (10 + 20 + 130 + 40) / 4
    assert (figures["return_bias_failed"], figures["return_bias_not_failed"]) == (130, 70 / 3)
    # Ranks 2 3 1 4 against 1 3 2 4: 1 − 6 × (1 + 0 + 1 + 0) / (4 × 15).
    assert figures["rank_correlation"] == pytest.approx(0.8)


def test_the_video_has_the_requested_length_at_real_speed(tmp_path: Path) -> None:
    episode = episode_of(np.full(120, -0.1))
    shown = Replay(episode.frames, episode.frames[1:], episode.frames[21:], 20, *np.zeros((3, 120)))
    write_webp(tmp_path / "video.webp", episode, shown, seconds=1.0)
    with Image.open(tmp_path / "video.webp") as video:
        assert video.n_frames == -(-FRAMES_PER_SECOND // WEBP_FRAME_STEP)
        video.load()
        assert video.info["duration"] == 1000 * WEBP_FRAME_STEP / FRAMES_PER_SECOND
        assert video.info["loop"] == 0
        video.seek(5)
        page = np.asarray(video.convert("RGB")).astype(int)
    first_row = page[22:25, :192].reshape(3, 64, 3, 3).mean((0, 2))
    # Noise compressed with loss: near on the whole, which another frame would not be.
    real = episode.frames[21 + 5 * WEBP_FRAME_STEP]
    assert np.abs(first_row - real[0]).mean() < 40


def test_the_tool_analyses_an_agent(workshop: Workshop, tmp_path: Path) -> None:
    flags = ["--episodes", "1", "--max-steps", "300", "--baseline", "none", "--workers", "1"]
    flags += ["--horizon", "30", "--dreams", "2", "--output-dir", str(tmp_path)]
    said = workshop.succeed("tools.analysis", *flags, "--video-seconds", "0.5")
    assert "points lost" in said
    study = json.loads((tmp_path / "study.json").read_text())
    assert study["tracks"] == [VALIDATION[20_000]]
    assert [row["strength"] for row in study["agent"]["pushes"]] == [0, 15, 30, 60, 3, 6, 9]
    # It hardly learned: it may be lost before the zoom-in is over, with nothing to dream of.
    assert len(study["dreams"]["moments"]) in range(9)
    agent = study["agent"]
    assert 1000 - sum(agent["points_lost"].values()) == pytest.approx(agent["mean"], abs=0.01)
    for name in ("lost_by_curvature.png", "pushes.png", "dreamed_against_real.png", "video.webp"):
        with Image.open(tmp_path / name) as picture:
            assert picture.width > 400
