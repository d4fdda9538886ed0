"""M against float64 NumPy and SciPy: LSTM, mixture, temperature, losses, carried state.

Over 300 lines: all cases share the float64 references of M.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array
from oracles import foresee, log_likelihood, lstm_step, random_model
from scipy.special import softmax
from scipy.stats import expectile

from models.rnn import (
    MDNRNN,
    TILE_REWARD,
    LSTMState,
    MixtureNoise,
    Prediction,
    RNNLoss,
    Window,
    asymmetric_error,
    mixture_log_likelihood,
    mixture_noise,
    rnn_loss,
    sample_mixture,
)

LATENT, HIDDEN, COMPONENTS = 4, 8, 3
LANES, STEPS = 2, 12
PENALTY, REWARD_WEIGHT = 5.0, 2.0
CERTAIN = -60.0  # a log variance at which a sample is the mean


@pytest.fixture(scope="module")
def rnn() -> MDNRNN:
    # Weights twice as large as initially, so that gates saturate and components separate.
    return random_model(
        lambda: MDNRNN(LATENT, HIDDEN, COMPONENTS, key=jax.random.key(0)), seed=0, scale=2.0
    )


def make_window(seed: int, logvar: float, lengths: tuple[int, ...] = (STEPS, 7)) -> Window:
    """Random steps, padded after each lane's length; lane 1 ends off the playfield."""
    rng = np.random.default_rng(seed)
    mask = np.arange(STEPS) < np.array(lengths)[:, None]
    rows = {
        name: rng.standard_normal((LANES, STEPS, size)).astype(np.float32)
        for name, size in (("mu", LATENT), ("next_mu", LATENT), ("actions", 3))
    }
    rewards = rng.choice([-0.1, 3.3], (LANES, STEPS)).astype(np.float32)
    failed = np.zeros((LANES, STEPS), bool)
    if lengths[1] > 0:
        failed[1, lengths[1] - 1], rewards[1, lengths[1] - 1] = True, -100.0
    uncertain = np.full((LANES, STEPS, LATENT), logvar, np.float32)
    window = Window(
        **rows,
        logvar=uncertain,
        next_logvar=uncertain,
        rewards=rewards,
        failed=failed,
        mask=mask,
    )
    return jax.tree.map(lambda x: x * mask.reshape(mask.shape + (1,) * (x.ndim - 2)), window)


def random_states(seed: int) -> LSTMState:
    rng = np.random.default_rng(seed)
    return LSTMState(*rng.uniform(-0.9, 0.9, (2, LANES, HIDDEN)).astype(np.float32))


@eqx.filter_jit
def loss_and_gradient(
    rnn: MDNRNN, states: LSTMState, window: Window, key: Array
) -> tuple[RNNLoss, LSTMState, MDNRNN]:
    def total(rnn: MDNRNN) -> tuple[Array, tuple[RNNLoss, LSTMState]]:
        loss, after = rnn_loss(rnn, states, window, key, PENALTY, REWARD_WEIGHT)
        return loss.total, (loss, after)

    gradient, (loss, after) = jax.grad(total, has_aux=True)(rnn)
    return loss, after, gradient


def assert_trees_equal(actual: object, expected: object) -> None:
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def differs(actual: object, expected: object) -> bool:
    pairs = zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True)
    return any(not np.array_equal(a, b) for a, b in pairs)


def test_the_number_of_parameters_is_the_papers() -> None:
    rnn = eqx.filter_eval_shape(lambda: MDNRNN(key=jax.random.key(0)))
    # Ha & Schmidhuber's table: 422,368 for LSTM and mixture; plus one head each for reward and end.
    assert sum(leaf.size for leaf in jax.tree.leaves(rnn)) == 422_368 + 2 * (256 + 1)
    assert (rnn.latent, rnn.hidden, rnn.components) == (32, 256, 5)


def test_initial_recurrent_weights_are_orthogonal() -> None:
    rnn = jax.jit(lambda key: MDNRNN(LATENT, HIDDEN, COMPONENTS, key=key))(jax.random.key(0))
    gates = np.split(np.asarray(rnn.cell.weight_hh, np.float64), 4, axis=1)
    for gate in gates:
        np.testing.assert_allclose(gate.T @ gate, np.eye(HIDDEN), atol=1e-5)
    assert differs(gates[0], gates[1])


def test_lstm_and_heads_equal_the_reference(rnn: MDNRNN) -> None:
    rng = np.random.default_rng(1)
    z = rng.standard_normal((STEPS, LATENT)).astype(np.float32)
    actions = rng.uniform(-1, 1, (STEPS, 3)).astype(np.float32)
    targets = rng.standard_normal((STEPS, LATENT)).astype(np.float32)
    start = LSTMState(*rng.uniform(-0.9, 0.9, (2, HIDDEN)).astype(np.float32))

    @jax.jit
    def by_steps(rnn: MDNRNN, start: LSTMState) -> tuple[LSTMState, Prediction, Array]:
        def step(state: LSTMState, row: tuple) -> tuple[LSTMState, tuple]:
            state, prediction = rnn.step(state, *row)
            return state, (state, prediction)

        _, (states, prediction) = jax.lax.scan(step, start, (jnp.array(z), jnp.array(actions)))
        return states, prediction, mixture_log_likelihood(prediction, jnp.array(targets))

    @jax.jit
    def at_once(rnn: MDNRNN, start: LSTMState) -> tuple[LSTMState, Prediction]:
        along = rnn.unroll(start, jnp.array(z), jnp.array(actions))
        return along, rnn.predict(along.hidden, jnp.array(z))

    states, prediction, likelihood = by_steps(rnn, start)
    hidden, cell = (x.astype(np.float64) for x in start)
    for t in range(STEPS):
        hidden, cell = lstm_step(rnn, hidden, cell, z[t], actions[t])
        expected = foresee(rnn, hidden, z[t])
        np.testing.assert_allclose(states.hidden[t], hidden, atol=2e-6)
        np.testing.assert_allclose(states.cell[t], cell, atol=2e-6)
        np.testing.assert_allclose(prediction.log_weight[t], expected.log_weight, atol=5e-6)
        np.testing.assert_allclose(prediction.mean[t], expected.mean, atol=5e-6)
        np.testing.assert_allclose(np.exp(prediction.log_scale[t]), expected.scale, rtol=1e-5)
        np.testing.assert_allclose(prediction.reward[t], expected.reward, atol=2e-5)
        end = 1 / (1 + np.exp(-np.float64(prediction.end_logit[t])))
        np.testing.assert_allclose(end, expected.end, rtol=1e-5)
        np.testing.assert_allclose(likelihood[t], log_likelihood(expected, targets[t]), rtol=2e-5)

    unrolled, predicted = at_once(rnn, start)
    for ours, other in ((unrolled, states), (predicted, prediction)):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=5e-6), ours, other)


def test_likelihood_is_a_density() -> None:
    # It integrates to 1, whatever the reference says.
    grid = np.linspace(-30, 30, 20_001, dtype=np.float32)
    prediction = Prediction(
        log_weight=np.log([[0.2], [0.5], [0.3]]).astype(np.float32),
        mean=np.array([[-4.0], [0.5], [5.0]], np.float32),
        log_scale=np.log([[0.3], [2.0], [1.0]]).astype(np.float32),
        reward=np.float32(0),
        end_logit=np.float32(0),
    )
    likelihood = jax.jit(
        lambda p, z: jax.vmap(mixture_log_likelihood, (None, 0))(jax.tree.map(jnp.asarray, p), z)
    )(prediction, grid[:, None])
    np.testing.assert_allclose(np.exp(likelihood).sum() * (grid[1] - grid[0]), 1, rtol=1e-4)


# Two dimensions of three components, separate in the first and overlapping in the second.
WEIGHTS = np.array([[0.5, 0.2], [0.3, 0.7], [0.2, 0.1]])
MEANS = np.array([[-20.0, 0.5], [0.0, -1.0], [20.0, 3.0]])
SCALES = np.array([[1.0, 2.0], [0.3, 0.5], [2.0, 1.0]])
DRAWS = 200_000


@eqx.filter_jit
def draw_many(temperature: Array) -> Array:
    log_weight, mean, log_scale = (
        jnp.asarray(x, jnp.float32) for x in (np.log(WEIGHTS), MEANS, np.log(SCALES))
    )
    prediction = Prediction(log_weight, mean, log_scale, jnp.zeros(()), jnp.zeros(()))
    noise = mixture_noise(jax.random.key(3), (DRAWS, 2))
    return jax.vmap(sample_mixture, (None, 0, None))(prediction, noise, temperature)


@pytest.mark.parametrize("temperature", [1.0, 0.4, 2.5])
def test_samples_have_the_mean_and_variance_of_the_mixture(temperature: float) -> None:
    samples = np.asarray(draw_many(jnp.float32(temperature)), np.float64)
    # As in Ha's code: logits / temperature, scales · √temperature.
    weights = softmax(np.log(WEIGHTS) / temperature, axis=0)
    scales = SCALES * np.sqrt(temperature)
    mean = (weights * MEANS).sum(0)
    variance = (weights * (scales**2 + MEANS**2)).sum(0) - mean**2
    error = np.sqrt(variance / DRAWS)
    assert (np.abs(samples.mean(0) - mean) < 5 * error).all()
    np.testing.assert_allclose(samples.var(0), variance, rtol=0.02)
    # In the first dimension every sample identifies its component.
    component = np.digitize(samples[:, 0], [-10, 8 if temperature == 2.5 else 10])
    for k in range(3):
        own = samples[component == k, 0]
        chance = weights[k, 0]
        assert abs(len(own) / DRAWS - chance) < 5 * np.sqrt(chance * (1 - chance) / DRAWS)
        np.testing.assert_allclose(own.mean(), MEANS[k, 0], atol=6 * scales[k, 0] / len(own) ** 0.5)
        np.testing.assert_allclose(own.std(), scales[k, 0], rtol=0.02)
    assert abs(np.corrcoef(component, samples[:, 1])[0, 1]) < 0.02  # dimensions are independent


def test_mixture_noise_is_uniform_and_normal_and_independent() -> None:
    noise = jax.jit(lambda key: mixture_noise(key, (50_000, 2)))(jax.random.key(0))
    choice, normal = np.asarray(noise.choice), np.asarray(noise.normal)
    assert choice.min() >= 0 and choice.max() < 1
    np.testing.assert_allclose(choice.mean(0), 0.5, atol=0.01)
    np.testing.assert_allclose(choice.var(0), 1 / 12, rtol=0.02)
    np.testing.assert_allclose(normal.mean(0), 0, atol=0.03)
    np.testing.assert_allclose(normal.var(0), 1, rtol=0.03)
    correlation = np.corrcoef(np.concatenate([choice, normal], axis=1).T)
    assert np.abs(correlation - np.eye(4)).max() < 0.03


def test_the_first_and_the_last_component_are_reachable() -> None:
    prediction = Prediction(
        log_weight=jnp.log(jnp.full((3, 3), 1 / 3)),
        mean=jnp.tile(jnp.array([[10.0], [20.0], [30.0]]), (1, 3)),
        log_scale=jnp.zeros((3, 3)),
        reward=jnp.zeros(()),
        end_logit=jnp.zeros(()),
    )
    noise = MixtureNoise(jnp.array([0.0, 0.5, 0.999999]), jnp.zeros(3))
    sampled = jax.jit(sample_mixture)(prediction, noise, jnp.ones(()))
    np.testing.assert_allclose(sampled, [10, 20, 30])


def test_asymmetric_error_by_hand() -> None:
    # One tile too high, two too low, exact. A tile is 1000 / 296 points.
    predicted = np.array([2.0, -1.0, 0.5], np.float32) * TILE_REWARD
    target = np.array([1.0, 1.0, 0.5], np.float32) * TILE_REWARD
    np.testing.assert_allclose(TILE_REWARD, 1000 / 296)
    error = jax.jit(lambda p, t: asymmetric_error(p, t, 5.0))
    np.testing.assert_allclose(error(predicted, target), [5.0, 4.0, 0.0], rtol=1e-6)
    even = jax.jit(lambda p, t: asymmetric_error(p, t, 1.0))
    np.testing.assert_allclose(even(predicted, target), [1.0, 4.0, 0.0], rtol=1e-6)


@pytest.mark.parametrize("penalty", [1.0, 5.0])
def test_asymmetric_error_is_minimal_at_the_expectile(penalty: float) -> None:
    rewards = np.random.default_rng(0).choice([-0.1, 3.3], 500, p=[0.7, 0.3]).astype(np.float32)
    guesses = np.linspace(-0.5, 3.5, 4001, dtype=np.float32)
    total = jax.jit(
        jax.vmap(lambda g, r: asymmetric_error(jnp.full(500, g), r, penalty).sum(), (0, None))
    )(guesses, rewards)
    expected = expectile(rewards.astype(np.float64), 1 / (1 + penalty))
    np.testing.assert_allclose(guesses[np.argmin(total)], expected, atol=2e-3)


def test_loss_equals_the_reference(rnn: MDNRNN) -> None:
    window, states = make_window(0, CERTAIN), random_states(1)
    loss, after, _ = loss_and_gradient(rnn, states, window, jax.random.key(0))
    nll, reward, end, reward_bias = [], [], [], []
    for lane in range(LANES):
        hidden, cell = (x[lane].astype(np.float64) for x in states)
        for t in range(STEPS):
            w = jax.tree.map(lambda x, lane=lane, t=t: x[lane, t], window)
            hidden, cell = lstm_step(rnn, hidden, cell, w.mu, w.actions)
            foreseen = foresee(rnn, hidden, w.mu)
            if not w.mask:
                continue
            nll.append(-log_likelihood(foreseen, w.next_mu).mean())
            end.append(-np.log(foreseen.end if w.failed else 1 - foreseen.end))
            error = foreseen.reward - w.rewards
            reward.append((error / TILE_REWARD) ** 2 * (PENALTY if error > 0 else 1))
            reward_bias.append(error)
        if window.mask[lane].all():  # the state after padding is meaningless
            np.testing.assert_allclose(after.hidden[lane], hidden, atol=2e-6)
            np.testing.assert_allclose(after.cell[lane], cell, atol=2e-6)
    assert len(nll) == len(end) == len(reward) == 19
    for name, values in (
        ("nll", nll),
        ("reward", reward),
        ("end", end),
        ("reward_bias", reward_bias),
    ):
        np.testing.assert_allclose(getattr(loss, name), np.mean(values), rtol=2e-5, err_msg=name)
    total = np.mean(nll) + REWARD_WEIGHT * np.mean(reward) + np.mean(end)
    np.testing.assert_allclose(loss.total, total, rtol=2e-5)


def test_padding_changes_neither_loss_nor_gradient(rnn: MDNRNN) -> None:
    window, states, key = make_window(2, 0.0), random_states(3), jax.random.key(1)
    garbage = np.random.default_rng(4)

    def spoil(leaf: np.ndarray) -> np.ndarray:
        mask = window.mask.reshape(window.mask.shape + (1,) * (leaf.ndim - 2))
        if leaf.dtype == bool:
            return leaf | ~mask
        return np.where(mask, leaf, garbage.uniform(-9, 9, leaf.shape).astype(np.float32))

    spoiled = jax.tree.map(spoil, window)._replace(mask=window.mask)
    assert differs(window, spoiled)
    loss, _, gradient = loss_and_gradient(rnn, states, window, key)
    same_loss, _, same_gradient = loss_and_gradient(rnn, states, spoiled, key)
    assert_trees_equal(same_loss, loss)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), same_gradient, gradient)


def test_gradients_are_finite_for_extreme_windows(rnn: MDNRNN) -> None:
    key, states = jax.random.key(3), random_states(7)
    # Only padding: the loss and the gradient are zero, without division by zero.
    loss, _, gradient = loss_and_gradient(rnn, states, make_window(8, 0.0, (0, 0)), key)
    assert all(float(part) == 0 for part in loss)
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(gradient))
    # A target hundreds of standard deviations away, in a lane of one step.
    window = make_window(9, 0.0, (STEPS, 1))
    window = window._replace(next_mu=window.next_mu + 1000 * window.mask[..., None])
    loss, _, gradient = loss_and_gradient(rnn, states, window, key)
    assert float(loss.nll) > 1000
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((loss, gradient)))


def test_latents_are_sampled_at_every_call(rnn: MDNRNN) -> None:
    window, states, key = make_window(10, 0.0), random_states(11), jax.random.key(4)
    loss, after, _ = loss_and_gradient(rnn, states, window, key)
    assert_trees_equal(loss_and_gradient(rnn, states, window, key)[:2], (loss, after))
    other, other_after, _ = loss_and_gradient(rnn, states, window, jax.random.key(5))
    assert other.nll != loss.nll and differs(other_after, after)
    # Input and target are both sampled, each with its own log variance.
    wider = window._replace(next_logvar=window.next_logvar + 1)
    target, target_after, _ = loss_and_gradient(rnn, states, wider, key)
    assert target.nll != loss.nll and not differs(target_after, after)
    wider = window._replace(logvar=window.logvar + 1)
    assert differs(loss_and_gradient(rnn, states, wider, key)[1], after)


def test_two_windows_of_50_with_carried_state_equal_one_of_100(rnn: MDNRNN) -> None:
    rng = np.random.default_rng(12)
    z = rng.standard_normal((100, LATENT)).astype(np.float32)
    actions = rng.uniform(-1, 1, (100, 3)).astype(np.float32)
    certain = np.full((100, LATENT), CERTAIN, np.float32)
    whole = Window(
        mu=z,
        logvar=certain,
        next_mu=np.roll(z, -1, axis=0),
        next_logvar=certain,
        actions=actions,
        rewards=rng.uniform(-1, 1, 100).astype(np.float32),
        failed=np.zeros(100, bool),
        mask=np.ones(100, bool),
    )
    run = eqx.filter_jit(lambda r, s, w: rnn_loss(r, s, w, jax.random.key(0), 5.0, 1.0))
    zeros = LSTMState(*np.zeros((2, 1, HIDDEN), np.float32))
    expected, end = run(rnn, zeros, jax.tree.map(lambda x: x[None], whole))
    first, middle = run(rnn, zeros, jax.tree.map(lambda x: x[None, :50], whole))
    second, last = run(rnn, middle, jax.tree.map(lambda x: x[None, 50:], whole))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), last, end)
    for name in RNNLoss._fields:
        halves = (getattr(first, name) + getattr(second, name)) / 2
        np.testing.assert_allclose(halves, getattr(expected, name), rtol=1e-5, err_msg=name)
    forgetful, _ = run(rnn, zeros, jax.tree.map(lambda x: x[None, 50:], whole))
    assert not np.isclose(forgetful.total, second.total, rtol=1e-5)
