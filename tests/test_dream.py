"""The dream against loops in float64 NumPy, C and its whitening, and forecasts by hand.

Over 300 lines: all cases share the float64 references of the dream.
"""

import json
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hostile_files import noise_latents
from jaxtyping import Array
from oracles import act, constant_rnn, foresee, log_likelihood, lstm_step, random_model, sample

import models.evaluation
from models.controller import Controller, Whitening
from models.dream import DreamState, dream_returns, open_loop
from models.evaluation import one_step, open_loop_forecasts, states_before
from models.observed import ObservedDream, ObservedState
from models.rnn import MDNRNN, LSTMState, MixtureNoise, Window, mixture_noise
from utils.data.episodes import ZOOM_STEPS, latent_schema, scan_files
from utils.data.start_states import STATES_PER_EPISODE, StartStates, build_start_states
from utils.io.npz import write_arrays

LATENT, HIDDEN, COMPONENTS = 4, 8, 3
CANDIDATES, DREAMS, STEPS = 3, 2, 7
TEMPERATURE = 1.3
CERTAIN = -60.0  # a log variance at which a sample is the mean

returns_of = eqx.filter_jit(dream_returns)


@pytest.fixture(scope="module")
def rnn() -> MDNRNN:
    return random_model(
        lambda: MDNRNN(LATENT, HIDDEN, COMPONENTS, key=jax.random.key(0)), seed=0, scale=2.0
    )


def random_controllers(count: int, seed: int) -> Controller:
    one = random_model(lambda: Controller(LATENT + HIDDEN), seed)
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: rng.normal(0, 0.5, (count, *x.shape)).astype(np.float32), one)


def random_starts(count: int, seed: int) -> DreamState:
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((count, LATENT)).astype(np.float32)
    memory = LSTMState(*rng.uniform(-0.9, 0.9, (2, count, HIDDEN)).astype(np.float32))
    return DreamState(z, memory)


def random_noise(shape: tuple[int, ...], seed: int) -> MixtureNoise:
    rng = np.random.default_rng(seed)
    choice, normal = rng.random((*shape, LATENT)), rng.standard_normal((*shape, LATENT))
    return MixtureNoise(choice.astype(np.float32), normal.astype(np.float32))


def at(tree: object, *index: int) -> object:
    return jax.tree.map(lambda x: x[index], tree)


def double(state: DreamState) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return tuple(np.asarray(x, np.float64) for x in (state.z, *state.memory))


@pytest.mark.parametrize("observed", [False, True])
def test_returns_equal_a_loop(rnn: MDNRNN, observed: bool) -> None:
    """With an observer, C reads its memory. All predictions are those of the M that dreams."""
    controllers, starts = random_controllers(CANDIDATES, 1), random_starts(DREAMS, 2)
    noise = random_noise((DREAMS, STEPS), 3)
    observer, memory, model, begun = rnn, starts.memory, rnn, starts
    if observed:
        observer = random_model(
            lambda: MDNRNN(LATENT, HIDDEN, COMPONENTS, key=jax.random.key(0)), seed=7, scale=2.0
        )
        memory = random_starts(DREAMS, 8).memory
        model = ObservedDream(rnn, observer)
        begun = DreamState(starts.z, ObservedState(starts.memory, memory))
    actual = returns_of(model, controllers, begun, noise, TEMPERATURE)
    assert actual.shape == (CANDIDATES, DREAMS)
    for c in range(CANDIDATES):
        for d in range(DREAMS):
            z, hidden, cell = double(at(starts, d))
            seen = double(DreamState(starts.z[d], at(memory, d)))[1:]
            total, survival = 0.0, 1.0
            for t in range(STEPS):
                action = act(at(controllers, c), z, seen[0])
                seen = lstm_step(observer, *seen, z, action)
                hidden, cell = lstm_step(rnn, hidden, cell, z, action)
                foreseen = foresee(rnn, hidden, z)
                z = sample(foreseen, *at(noise, d, t), TEMPERATURE)
                total += survival * (1 - foreseen.end) * foreseen.reward
                total += survival * foreseen.end * -100
                survival *= 1 - foreseen.end
            np.testing.assert_allclose(actual[c, d], total, rtol=2e-5)


def test_soft_survival_by_hand() -> None:
    # Every step earns −0.1 points, or −100 with a probability of failure of one half.
    # 1 · (½ · −0.1 + ½ · −100) + ½ · (the same) = −50.05 − 25.025.
    controllers, starts = random_controllers(1, 4), random_starts(1, 5)
    even = constant_rnn(LATENT, HIDDEN, COMPONENTS, end_logit=0.0)
    noise = random_noise((1, 2), 6)
    np.testing.assert_allclose(returns_of(even, controllers, starts, noise, 1.0), [[-75.075]])
    # A tile per step and no failure: 1000 / 296 − 0.1 each. Certain failure: −100 once.
    safe = constant_rnn(LATENT, HIDDEN, COMPONENTS, reward=1.0, end_logit=-50.0)
    expected = 2 * (1000 / 296 - 0.1)
    actual = returns_of(safe, controllers, starts, noise, 1.0)
    np.testing.assert_allclose(actual, [[expected]], rtol=1e-6)
    deadly = constant_rnn(LATENT, HIDDEN, COMPONENTS, reward=1.0, end_logit=50.0)
    np.testing.assert_allclose(returns_of(deadly, controllers, starts, noise, 1.0), [[-100.0]])


def test_the_reward_limit_caps_each_step() -> None:
    controllers, starts, noise = (
        random_controllers(1, 4),
        random_starts(1, 5),
        random_noise((1, 2), 6),
    )
    # A tile per step, 3.28 points, and a probability of failure of one half: −100 is not capped.
    rnn = constant_rnn(LATENT, HIDDEN, COMPONENTS, reward=1.0, end_logit=0.0)
    limited = returns_of(rnn, controllers, starts, noise, 1.0, 1.5)
    np.testing.assert_allclose(limited, [[(1.5 - 100) / 2 * (1 + 0.5)]], rtol=1e-6)
    free = returns_of(rnn, controllers, starts, noise, 1.0)
    np.testing.assert_allclose(free, [[(1000 / 296 - 0.1 - 100) / 2 * (1 + 0.5)]], rtol=1e-6)


def test_the_failure_weight_is_a_power_of_survival() -> None:
    controllers, starts, noise = (
        random_controllers(1, 4),
        random_starts(1, 5),
        random_noise((1, 2), 6),
    )
    # Every step survives with a probability of one quarter: at weight ½ of one half.
    rnn = constant_rnn(LATENT, HIDDEN, COMPONENTS, reward=1.0, end_logit=np.log(3.0))
    half = returns_of(rnn, controllers, starts, noise, 1.0, 1.5, 0.5)
    np.testing.assert_allclose(half, [[(1.5 - 100) / 2 * (1 + 0.5)]], rtol=1e-5)
    none = returns_of(rnn, controllers, starts, noise, 1.0, 1.5, 0.0)
    np.testing.assert_allclose(none, [[3.0]], rtol=1e-6)


def test_all_candidates_dream_with_the_same_noise(rnn: MDNRNN) -> None:
    controllers, starts = random_controllers(CANDIDATES, 7), random_starts(DREAMS, 8)
    twice = jax.tree.map(lambda x: x[np.array([0, 1, 0])], controllers)
    noise = random_noise((DREAMS, STEPS), 9)
    returns = np.asarray(returns_of(rnn, twice, starts, noise, TEMPERATURE))
    np.testing.assert_array_equal(returns[0], returns[2])
    assert (returns[0] != returns[1]).all()
    # Both the noise and the temperature change the returns.
    other = returns_of(rnn, twice, starts, random_noise((DREAMS, STEPS), 10), TEMPERATURE)
    assert (returns != other).all()
    assert (returns != returns_of(rnn, twice, starts, noise, 1.0)).all()


def test_open_loop_equals_a_loop(rnn: MDNRNN) -> None:
    start, noise = at(random_starts(1, 11), 0), random_noise((STEPS,), 12)
    actions = np.random.default_rng(13).uniform(-1, 1, (STEPS, 3)).astype(np.float32)
    latents, prediction = eqx.filter_jit(open_loop)(rnn, start, actions, noise, TEMPERATURE)
    z, hidden, cell = double(start)
    for t in range(STEPS):
        hidden, cell = lstm_step(rnn, hidden, cell, z, actions[t])
        foreseen = foresee(rnn, hidden, z)
        z = sample(foreseen, *at(noise, t), TEMPERATURE)
        np.testing.assert_allclose(latents[t], z, atol=2e-5)
        np.testing.assert_allclose(prediction.mean[t], foreseen.mean, atol=2e-5)
        np.testing.assert_allclose(prediction.reward[t], foreseen.reward, atol=1e-4)


def test_the_initial_controller_is_zero() -> None:
    controller = Controller(32 + 256)
    assert sum(leaf.size for leaf in jax.tree.leaves(controller)) == 867
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(controller))
    features = np.ones(32, np.float32), np.ones(256, np.float32)
    # Straight ahead, half gas, no brake.
    np.testing.assert_array_equal(eqx.filter_jit(controller)(*features), [0, 0.5, 0])


def test_the_controller_squashes_as_in_the_paper() -> None:
    controllers = random_controllers(1, 14)
    rng = np.random.default_rng(15)
    z, hidden = (rng.normal(0, 2, (50, n)).astype(np.float32) for n in (LATENT, HIDDEN))
    actions = np.asarray(eqx.filter_jit(at(controllers, 0))(z, hidden))
    for t in range(50):
        np.testing.assert_allclose(actions[t], act(at(controllers, 0), z[t], hidden[t]), atol=2e-6)
    # The cases cover both signs of every action, and a brake of zero.
    assert (actions[:, 0] < 0).any() and (actions[:, 0] > 0).any()
    assert (actions[:, 1] < 0.5).any() and (actions[:, 1] > 0.5).any()
    assert (actions[:, 2] == 0).any() and (actions[:, 2] > 0).any()
    # By hand, with biases only: tanh(±∞) and atanh(½).
    extreme = Controller(2)
    extreme = eqx.tree_at(lambda c: c.bias, extreme, jnp.array([-99.0, -99.0, np.arctanh(0.5)]))
    np.testing.assert_allclose(
        extreme(jnp.zeros(1), jnp.zeros(1)), jnp.array([-1, 0, 0.5]), atol=1e-6
    )


def test_whitening_converts_to_a_controller_on_raw_features() -> None:
    rng = np.random.default_rng(16)
    mean, scale = rng.normal(0, 2, LATENT + HIDDEN), rng.uniform(0.05, 3, LATENT + HIDDEN)
    whitening = Whitening(
        *(jnp.asarray(x, jnp.float32) for x in (mean, scale, np.eye(LATENT + HIDDEN)))
    )
    controller = at(random_controllers(1, 17), 0)
    folded = eqx.filter_jit(whitening.to_raw)(controller)
    z, hidden = (rng.normal(0, 2, (50, n)).astype(np.float32) for n in (LATENT, HIDDEN))
    actions = eqx.filter_jit(folded)(z, hidden)
    for t in range(50):
        white = (np.concatenate([z[t], hidden[t]]) - mean) / scale
        expected = act(controller, white[:LATENT], white[LATENT:])
        np.testing.assert_allclose(actions[t], expected, atol=2e-5)
    assert not np.allclose(folded.bias, controller.bias, atol=0.1)


def make_episodes(lengths: tuple[int, ...], padded: int, seed: int) -> Window:
    """Random episodes, padded with zeros; the last one ends in failure."""
    rng = np.random.default_rng(seed)
    mask = np.arange(padded) < np.array(lengths)[:, None]
    shape = (len(lengths), padded)
    failed = np.zeros(shape, bool)
    failed[-1, lengths[-1] - 1] = True
    window = Window(
        mu=rng.standard_normal((*shape, LATENT)).astype(np.float32),
        logvar=np.full((*shape, LATENT), CERTAIN, np.float32),
        next_mu=rng.standard_normal((*shape, LATENT)).astype(np.float32),
        next_logvar=np.full((*shape, LATENT), CERTAIN, np.float32),
        actions=rng.uniform(-1, 1, (*shape, 3)).astype(np.float32),
        rewards=np.where(failed, -100, rng.choice([-0.1, 3.3], shape)).astype(np.float32),
        failed=failed,
        mask=mask,
    )
    return jax.tree.map(lambda x: x * mask.reshape(mask.shape + (1,) * (x.ndim - 2)), window)


def spoil_padding(episodes: Window) -> Window:
    """The same episodes with arbitrary padding, whose rows all count as failed."""

    def spoil(leaf: np.ndarray) -> np.ndarray:
        mask = episodes.mask.reshape(episodes.mask.shape + (1,) * (leaf.ndim - 2))
        return leaf | ~mask if leaf.dtype == bool else np.where(mask, leaf, np.float32(0.7))

    return jax.tree.map(spoil, episodes)._replace(mask=episodes.mask)


def test_one_step_forecasts_by_hand() -> None:
    # z stays, with a scale of 2: ln 2 + ½ ln 2π + ½ (difference / 2)². The reward is two tiles.
    rnn = constant_rnn(
        LATENT, HIDDEN, COMPONENTS, log_scale=np.log(2), reward=2.0, end_logit=np.log(1 / 3)
    )
    episodes = make_episodes((6, 3), 6, 18)
    run = eqx.filter_jit(one_step)
    figures = run(rnn, episodes, jax.random.key(0))
    real = episodes.mask
    difference = (episodes.next_mu - episodes.mu)[real].astype(np.float64)
    nll = np.log(2) + np.log(2 * np.pi) / 2 + (difference / 2) ** 2 / 2
    error = (2000 / 296 - 0.1) - episodes.rewards[real]
    assert len(error) == 9
    expected = {
        "nll": nll.mean(),
        "reward_error": np.abs(error).mean(),
        "reward_bias": error.mean(),
        "end_entropy": -(8 * np.log(3 / 4) + np.log(1 / 4)) / 9,
        "end_predicted": 1 / 4,
        "end_real": 1 / 9,
    }
    assert figures.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(figures[name], value, rtol=1e-5, err_msg=name)
    assert run(rnn, spoil_padding(episodes), jax.random.key(0)) == figures


def test_states_before_each_step_equal_a_loop(rnn: MDNRNN) -> None:
    episode = at(make_episodes((6,), 6, 19), 0)
    states = eqx.filter_jit(states_before)(rnn, episode.mu, episode.actions)
    hidden = cell = np.zeros(HIDDEN)
    for t in range(6):
        np.testing.assert_allclose(states.hidden[t], hidden, atol=2e-6)
        np.testing.assert_allclose(states.cell[t], cell, atol=2e-6)
        hidden, cell = lstm_step(rnn, hidden, cell, episode.mu[t], episode.actions[t])


def test_open_loop_forecasts_equal_a_loop(rnn: MDNRNN, monkeypatch: pytest.MonkeyPatch) -> None:
    horizons = (2, 4)
    monkeypatch.setattr(models.evaluation, "HORIZONS", horizons)
    # Episode 0 ends at its time limit of 9 steps, episode 1 fails at its last step of 7.
    episodes = make_episodes((9, 7), 13, 20)
    starts = np.array([[0, 4, 7], [1, 4, 5]], np.int32)
    key = jax.random.key(3)
    run = eqx.filter_jit(open_loop_forecasts)
    figures = run(rnn, episodes, starts, key)

    @jax.jit
    def draw(key: Array) -> MixtureNoise:
        over_starts = jax.vmap(lambda key: mixture_noise(key, (horizons[-1], LATENT)))
        return jax.vmap(over_starts)(jax.random.split(key, starts.shape))

    noise = jax.tree.map(np.asarray, draw(key))

    for k in horizons:
        nll, difference, predicted, real = [], [], [], []
        for e, s in np.ndindex(*starts.shape):
            episode, first = at(episodes, e), starts[e, s]
            hidden = cell = np.zeros(HIDDEN)
            for t in range(first):
                hidden, cell = lstm_step(rnn, hidden, cell, episode.mu[t], episode.actions[t])
            z, error, survival, likelihood = episode.mu[first].astype(np.float64), 0.0, 1.0, None
            for t in range(first, first + k):
                if not episode.mask[t]:
                    break
                hidden, cell = lstm_step(rnn, hidden, cell, z, episode.actions[t])
                foreseen = foresee(rnn, hidden, z)
                z = sample(foreseen, *at(noise, e, s, t - first), 1.0)
                survival *= 1 - foreseen.end
                error += foreseen.reward - episode.rewards[t]
                if t == first + k - 1:
                    likelihood = log_likelihood(foreseen, episode.next_mu[t]).mean()
            if likelihood is not None:
                nll.append(-likelihood)
            left = episode.failed[first : first + k].any()
            if likelihood is not None or left:  # otherwise unknown: cut off by the time limit
                difference.append(error)
                predicted.append(1 - survival)
                real.append(left)
        expected = {
            "nll": np.mean(nll),
            "reward_error": np.mean(np.abs(difference)),
            "reward_bias": np.mean(difference),
            "end_predicted": np.mean(predicted),
            "end_real": np.mean(real),
        }
        assert len(real) == {2: 6, 4: 5}[k] and sum(real) == {2: 1, 4: 2}[k]
        for name, value in expected.items():
            np.testing.assert_allclose(figures[f"{name}_{k}"], value, rtol=1e-4, err_msg=name)
    assert len(figures) == 10
    spoiled = spoil_padding(episodes)._replace(failed=episodes.failed)
    assert run(rnn, spoiled, starts, key) == figures


def test_a_horizon_that_no_episode_reaches_is_unknown(rnn: MDNRNN) -> None:
    episodes = make_episodes((9,), 9 + models.evaluation.HORIZONS[-1], 21)._replace(
        failed=np.zeros((1, 209), bool)
    )
    run = eqx.filter_jit(open_loop_forecasts)
    metrics = run(rnn, episodes, np.array([[0, 3]], np.int32), jax.random.key(0))
    assert all(np.isnan(value) for value in metrics.values())


def write_latents(path: Path, steps: int, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    arrays = {
        **noise_latents(steps, LATENT, seed),
        "actions": rng.uniform(0, 1, (steps, 3)).astype(np.float32),
        "rewards": np.full(steps, -0.1, np.float32),
        "terminated": np.zeros(steps, bool),
        "truncated": np.zeros(steps, bool),
        "lap_finished": np.bool_(False),
        "seed": np.int64(path.stem),
        "provenance": np.str_(json.dumps({})),
    }
    write_arrays(path, arrays)
    return arrays


def test_start_states_are_states_of_recorded_episodes(tmp_path: Path, rnn: MDNRNN) -> None:
    lengths = {"random/2.npz": 70, "recovery/3.npz": 55, "on-policy/4.npz": 63}
    drives = {name: write_latents(tmp_path / name, n, n) for name, n in lengths.items()}
    start_states = build_start_states(scan_files(tmp_path, latent_schema(LATENT)), rnn, seed=0)

    def moments(names: list[str]) -> dict[bytes, tuple[np.ndarray, np.ndarray]]:
        """M's state at every step after the zoom, by the bytes of z."""
        found = {}
        for name in names:
            mu, actions = drives[name]["mu"], drives[name]["actions"]
            hidden = cell = np.zeros(HIDDEN)
            for t in range(len(actions)):
                if t >= ZOOM_STEPS:
                    found[mu[t].tobytes()] = hidden, cell
                hidden, cell = lstm_step(rnn, hidden, cell, mu[t], actions[t])
        return found

    groups = (
        (start_states.on_policy, ["on-policy/4.npz"]),
        (start_states.others, ["random/2.npz", "recovery/3.npz"]),
    )
    for group, names in groups:
        real = moments(names)
        assert len(group.z) == STATES_PER_EPISODE * len(names)
        for i, z in enumerate(np.asarray(group.z)):
            hidden, cell = real[z.tobytes()]
            np.testing.assert_allclose(group.memory.hidden[i], hidden, atol=2e-6)
            np.testing.assert_allclose(group.memory.cell[i], cell, atol=2e-6)
    first = {drives[name]["mu"][0].tobytes() for name in lengths}
    assert {z.tobytes() for z in np.asarray(start_states.resets.z)} == first
    assert not any(np.any(leaf) for leaf in start_states.resets.memory)


def test_start_states_of_an_observed_dream_have_the_memories_of_both(
    tmp_path: Path, rnn: MDNRNN
) -> None:
    observer = MDNRNN(LATENT, HIDDEN + 1, COMPONENTS, key=jax.random.key(5))
    for name, steps in {"random/2.npz": 70, "on-policy/4.npz": 63}.items():
        write_latents(tmp_path / name, steps, steps)
    entries = scan_files(tmp_path, latent_schema(LATENT))
    both = build_start_states(entries, ObservedDream(rnn, observer), seed=0)
    for model, states in (
        (rnn, StartStates(*(DreamState(z, memory.dreaming) for z, memory in both))),
        (observer, both.of_observer()),
    ):
        alone = build_start_states(entries, model, seed=0)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), states, alone)


def test_start_states_are_sampled_in_the_given_shares() -> None:
    def group(value: float, moments: int) -> DreamState:
        z = np.full((moments, LATENT), value, np.float32) + np.arange(moments)[:, None] / 100
        return DreamState(z, LSTMState(*np.tile(z[:, :1], (2, 1, HIDDEN))))

    start_states = StartStates(group(1, 3), group(2, 50), group(3, 40))

    @jax.jit
    def draw(key: Array) -> DreamState:
        return jax.tree.map(jnp.asarray, start_states).sample(key, 20, 0.1, 0.5)

    starts = draw(jax.random.key(0))
    z = np.asarray(starts.z)
    assert z.shape == (20, LATENT)
    np.testing.assert_array_equal(np.bincount(z[:, 0].astype(int)), [0, 2, 9, 9])
    # z and memory belong together; another key samples other states.
    np.testing.assert_array_equal(starts.memory.hidden, np.repeat(z[:, :1], HIDDEN, axis=1))
    assert len(np.unique(z[2:11, 0])) > 3
    assert (z != np.asarray(draw(jax.random.key(1)).z)).any()
    features = np.asarray(jax.tree.map(jnp.asarray, start_states).features())
    assert features.shape == (90, LATENT + HIDDEN) and features.min() >= 2
