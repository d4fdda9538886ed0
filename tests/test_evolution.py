"""CMA-ES as C is evolved by it: on known functions, and in a dream with a known best.

Over 300 lines: all cases share the small dream with a known best.
"""

import dataclasses
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from evosax.algorithms import CMA_ES
from jaxtyping import Array
from oracles import constant_rnn

from models.controller import Controller
from models.dream import DreamState
from models.rnn import MDNRNN, LSTMState
from train_dream import Settings
from utils.data.start_states import StartStates
from utils.errors import UserError
from utils.search import evolution
from utils.search.evolution import (
    MAX_GENERATIONS_PER_CALL,
    DreamEvaluator,
    dream_score,
    fit_whitening,
    generation_records,
    generations_per_call,
    generations_until_checkpoint,
    initial_search,
    reward_limits,
    run_generations,
)

FEATURES = 3  # of [z, h]: a controller has 12 parameters
# How far the minimum is from the start, and how much longer one axis is than another.
TARGET = np.linspace(-0.3, 0.4, 3 * FEATURES + 3)
AXES = {"sphere": np.ones(12), "ellipsoid": 1000 ** np.linspace(0, 1, 12)}


def flat(controller: Controller) -> Array:
    return jnp.concatenate([controller.weight.reshape(-1), controller.bias])


def test_cma_es_finds_known_minima() -> None:
    settings = Settings(candidates=12, sigma=0.05)
    search, params, state = initial_search(settings, FEATURES, jax.random.key(0))
    np.testing.assert_allclose(state.std, 0.05)
    np.testing.assert_array_equal(flat(search.get_mean(state)), np.zeros(12))
    assert search is initial_search(settings, FEATURES, jax.random.key(1))[0]  # compiled once

    @jax.jit
    def minimise(axes: Array) -> tuple[Array, Array]:
        def value(controller: Controller) -> Array:
            return (axes * jnp.square(flat(controller) - TARGET)).sum()

        def generation(state: object, number: Array) -> tuple[object, Array]:
            ask_key, tell_key = jax.random.split(jax.random.fold_in(jax.random.key(0), number))
            population, state = search.ask(ask_key, state, params)
            fitness = jax.vmap(value)(population)
            state, _ = search.tell(tell_key, population, fitness, state, params)
            return state, value(search.get_mean(state))

        end, values = jax.lax.scan(generation, state, jnp.arange(400))
        return flat(search.get_mean(end)), values

    for name, axes in AXES.items():
        found, values = minimise(axes)
        assert float(values[0]) > 0.1 and float(values[-1]) < 1e-8, name
        np.testing.assert_allclose(found, TARGET, atol=1e-4, err_msg=name)


# A world whose hidden layer is the last action's steering, and whose reward is a tile times it:
# the best controller steers to the right, at +1, wherever it is.
LATENT, HIDDEN, HORIZON = 2, 4, 6


def steering_pays() -> MDNRNN:
    rnn = constant_rnn(LATENT, HIDDEN, 2, end_logit=-10.0, log_scale=-2.0)
    weight, bias = np.zeros_like(rnn.cell.weight_ih), np.zeros_like(rnn.cell.bias)
    into, forget, candidate, out = (slice(HIDDEN * i, HIDDEN * (i + 1)) for i in range(4))
    weight[LATENT, candidate] = 1.0  # the row of the steering
    bias[into], bias[forget], bias[out] = 20.0, -20.0, 20.0
    heads = np.zeros_like(rnn.heads.weight)
    heads[:, -2] = 1 / HIDDEN
    return eqx.tree_at(
        lambda r: (r.cell.weight_ih, r.cell.bias, r.heads.weight),
        rnn,
        (weight, bias, heads),
    )


# What one step of it pays: tanh(tanh(1)) of a tile, less 0.1.
BEST_STEP = np.tanh(np.tanh(1.0)) * 1000 / 296 - 0.1


def random_group(moments: int, seed: int) -> DreamState:
    rng = np.random.default_rng(seed)
    z = 3 + 2 * rng.standard_normal((moments, LATENT))
    memory = LSTMState(*rng.uniform(-0.5, 0.5, (2, moments, HIDDEN)))
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), DreamState(z, memory))


@pytest.fixture(scope="module")
def settings() -> Settings:
    return Settings(candidates=10, dreams=3, horizon=HORIZON, sigma=0.3, reward_limit=99.0)


@pytest.fixture(scope="module")
def evaluator(settings: Settings) -> DreamEvaluator:
    start_states = StartStates(random_group(4, 0), random_group(20, 1), random_group(30, 2))
    rnn, whitening = (
        jax.tree.map(jnp.asarray, steering_pays()),
        fit_whitening(start_states, LATENT + HIDDEN),
    )
    limit = jnp.float32(settings.reward_limit)
    return DreamEvaluator(
        rnn, start_states, whitening, Controller(LATENT + HIDDEN), limit, settings
    )


@pytest.fixture(scope="module")
def begun(evaluator: DreamEvaluator) -> tuple:
    return initial_search(evaluator.settings, evaluator.whitening.components, jax.random.key(0))


def features_of(start_states: StartStates) -> np.ndarray:
    groups = (start_states.on_policy, start_states.others)
    return np.concatenate([np.hstack([g.z, g.memory.hidden]) for g in groups]).astype(float)


def test_whitening_is_of_what_is_seen_at_the_starts(evaluator: DreamEvaluator) -> None:
    start_states = evaluator.start_states
    features = features_of(start_states)
    np.testing.assert_allclose(evaluator.whitening.mean, features.mean(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(evaluator.whitening.scale, features.std(0), rtol=1e-4)
    still = start_states.on_policy._replace(z=jnp.ones((20, LATENT)))
    scale = fit_whitening(StartStates(still, still, still), 6).scale
    np.testing.assert_allclose(scale[:LATENT], 0.01)  # nothing is divided by zero


@pytest.mark.parametrize(("components", "masked"), [(2, 0), (6, 0), (60, 0), (2, 3), (60, 3)])
def test_a_search_moves_in_the_first_principal_components(
    evaluator: DreamEvaluator, components: int, masked: int
) -> None:
    start_states = evaluator.start_states
    whitening = fit_whitening(start_states, components, masked)
    visible = LATENT + HIDDEN - masked
    components = min(components, visible)
    search, _, state = initial_search(evaluator.settings, whitening.components, jax.random.key(0))
    assert flat(search.get_mean(state)).size == 3 * components + 3
    # By singular values in float64: no covariance, no eigenvectors.
    features = features_of(start_states)
    white = ((features - features.mean(0)) / features.std(0))[:, :visible]
    _, _, rows = np.linalg.svd(white, full_matrices=False)
    scores = white @ rows[:components].T
    signs = np.sign((rows[:components] * np.asarray(whitening.basis).T).sum(1))
    rng = np.random.default_rng(3)
    weight, bias = rng.normal(0, 0.5, (components, 3)), rng.normal(0, 0.5, 3)
    point = eqx.tree_at(
        lambda c: (c.weight, c.bias),
        Controller(components),
        (jnp.float32(weight), jnp.float32(bias)),
    )
    folded = whitening.to_raw(point)
    assert folded.weight.shape == (LATENT + HIDDEN, 3)
    np.testing.assert_array_equal(folded.weight[visible:], 0)
    raw = features @ np.asarray(folded.weight, float) + np.asarray(folded.bias, float)
    np.testing.assert_allclose(raw, (scores * signs) @ weight + bias, atol=1e-4)


@pytest.mark.parametrize(
    ("searches", "real", "limits"),
    [(1, True, [1.0]), (2, True, [1.0, 2.0]), (3, True, [1.0, 1.5, 2.0]), (2, False, [1.0, 1.0])],
)
def test_the_searches_of_a_round_have_all_paces(
    searches: int, real: bool, limits: list[float]
) -> None:
    settings = Settings(reward_limit=1.0, fast_reward_limit=2.0, real_validation=real)
    assert reward_limits(settings, searches) == limits


def test_the_reward_limit_of_a_search_is_that_of_its_dreams(
    evaluator: DreamEvaluator, begun: tuple
) -> None:
    """A limit below every reward makes all candidates' returns equal."""
    search, params, state = begun
    numbers = jax.random.key(0), jnp.int32(1), jnp.int32(1)
    _, free, _ = run_generations(search, params, state, evaluator, *numbers)
    capped = dataclasses.replace(evaluator, reward_limit=jnp.float32(-1e3))
    _, equal, _ = run_generations(search, params, state, capped, *numbers)
    assert np.ptp(free[0]) > 1 and np.ptp(equal[0]) < 1e-3 * abs(equal[0, 0])


def test_a_search_begins_at_the_controller_that_it_continues(evaluator: DreamEvaluator) -> None:
    rng = np.random.default_rng(4)
    origin = jax.tree.map(
        lambda x: jnp.asarray(rng.normal(0, 1, x.shape), jnp.float32), evaluator.origin
    )
    continued = dataclasses.replace(evaluator, origin=origin)
    components = evaluator.whitening.components
    search, _, state = initial_search(evaluator.settings, components, jax.random.key(0))
    found = continued.controller(search.get_mean(state))
    np.testing.assert_array_equal(flat(found), flat(origin))


def test_evolution_finds_what_the_dream_rewards(evaluator: DreamEvaluator, begun: tuple) -> None:
    search, params, state = begun
    begin = evaluator.controller(search.get_mean(state))
    before, history = float(dream_score(evaluator, begin)), []
    for generation in range(25):
        key, first, count = jax.random.key(1), jnp.int32(generation), jnp.int32(1)
        state, returns, _ = run_generations(search, params, state, evaluator, key, first, count)
        assert returns.shape == (MAX_GENERATIONS_PER_CALL, 10)
        history.append(float(returns[0].mean()))
    after = float(dream_score(evaluator, evaluator.controller(search.get_mean(state))))
    # A controller of zeros steers nowhere: −0.1 a step, and a little for the danger.
    np.testing.assert_allclose(before, -0.1 * HORIZON, atol=0.05)
    assert after > 0.85 * BEST_STEP * HORIZON and after <= BEST_STEP * HORIZON
    assert np.mean(history[-5:]) > np.mean(history[:5]) + 0.5 * BEST_STEP * HORIZON


def test_the_same_key_gives_the_same_generation(evaluator: DreamEvaluator, begun: tuple) -> None:
    search, params, state = begun

    def generation(seed: int) -> list[np.ndarray]:
        one = jnp.int32(1)
        key = jax.random.key(seed)
        new, returns, _ = run_generations(search, params, state, evaluator, key, one, one)
        return [np.asarray(flat(search.get_mean(new))), np.asarray(returns[0])]

    first, second, other = generation(0), generation(0), generation(1)
    for a, b, c in zip(first, second, other, strict=True):
        np.testing.assert_array_equal(a, b)
        assert (a != c).any()
    mean = evaluator.controller(search.get_mean(state))
    assert dream_score(evaluator, mean) == dream_score(evaluator, mean)


def test_generations_are_the_same_bits_whichever_share_a_call(
    evaluator: DreamEvaluator, begun: tuple
) -> None:
    search, params, state = begun

    def generations(state: Any, first: int, count: int) -> tuple[Any, np.ndarray, np.ndarray]:
        which = jnp.int32(first), jnp.int32(count)
        state, *history = run_generations(
            search, params, state, evaluator, jax.random.key(2), *which
        )
        return state, *(np.asarray(rows)[:count] for rows in history)

    together, returns, strengths = generations(state, 1, 5)
    between, first_returns, first_strengths = generations(state, 1, 2)
    after, last_returns, last_strengths = generations(between, 3, 3)
    jax.tree.map(np.testing.assert_array_equal, together, after)
    np.testing.assert_array_equal(returns, np.concatenate([first_returns, last_returns]))
    np.testing.assert_array_equal(strengths, np.concatenate([first_strengths, last_strengths]))
    assert strengths[-1] == float(together.std) and len(set(strengths.tolist())) == 5


def test_calls_stop_where_a_state_or_a_mean_is_saved() -> None:
    stops, done = [], 0
    while done < 38:
        done += generations_until_checkpoint(done, 38, (15, 10))
        stops.append(done)
    assert stops == [10, 15, 20, 30, 38]
    settings = Settings(save_mean_from=20, save_mean_every=15)
    assert [done for done in range(1, 39) if settings.saves_mean(done, 38)] == [30, 38]
    assert generations_per_call(10, 2.0) == 5  # as many as take a second
    assert generations_per_call(1, 60.0) == 1
    assert generations_per_call(10, 1e-9) == MAX_GENERATIONS_PER_CALL


def test_candidates_of_a_generation_are_told_apart_by_what_they_do(
    evaluator: DreamEvaluator,
) -> None:
    rng = np.random.default_rng(0)
    three = jax.tree.map(
        lambda x: jnp.asarray(rng.normal(0, 0.3, (3, *x.shape)), jnp.float32)[
            np.array([0, 1, 2, 0])
        ],
        Controller(LATENT + HIDDEN),
    )
    returns = np.asarray(
        eqx.filter_jit(lambda c, key: evaluator.returns(c, key, 4))(three, jax.random.key(0))
    )
    assert returns.shape == (4, 4)
    np.testing.assert_array_equal(returns[0], returns[3])
    assert (returns[0] != returns[1]).all()
    # The dreams themselves differ: in where they begin and in what happens.
    assert len(np.unique(returns[0])) == 4


def test_a_generation_is_compiled_once(evaluator: DreamEvaluator, begun: tuple) -> None:
    # A state of another type or place than the one before would compile the generation again.
    search, params, state = begun
    one = jnp.int32(1)
    after, *_ = run_generations(search, params, state, evaluator, jax.random.key(0), one, one)
    types = [[(x.aval, x.committed) for x in jax.tree.leaves(s)] for s in (state, after)]
    assert types[0] == types[1]
    for before, now in zip(jax.tree.leaves(state), jax.tree.leaves(after), strict=True):
        assert type(before.sharding) is type(now.sharding)
        assert before.sharding.is_equivalent_to(now.sharding, before.ndim)


def test_the_score_of_a_mean_is_compiled_once(
    evaluator: DreamEvaluator, begun: tuple, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The mean of a search is on its devices, a controller from a file is not; JAX would compile
    # for each.
    search, _, state = begun
    mean = evaluator.controller(search.get_mean(state))
    types = []

    def record(_: DreamEvaluator, controller: Controller) -> float:
        types.append([type(leaf) for leaf in jax.tree.leaves(controller)])
        return 0.0

    monkeypatch.setattr(evolution, "_mean_return", record)
    for controller in (mean, jax.tree.map(np.asarray, mean)):
        dream_score(evaluator, controller)
    assert types == [[np.ndarray, np.ndarray]] * 2


def test_one_candidate_without_a_number_ranks_last(begun: tuple) -> None:
    search, params, state = begun
    key = jax.random.key(0)

    @jax.jit
    def tell(worst: Array) -> Array:
        population, asked = search.ask(key, state, params)
        fitness = jnp.arange(10.0).at[9].set(worst)
        return flat(search.get_mean(search.tell(key, population, fitness, asked, params)[0]))

    told = np.asarray(tell(jnp.array(jnp.nan)))
    assert np.isfinite(told).all()
    np.testing.assert_allclose(told, tell(jnp.array(99.0)), rtol=1e-6)


def test_a_generation_without_any_finite_return_is_an_error(tmp_path: Path) -> None:
    saved = tmp_path / "controller.training.eqx"

    def records(*returns: list[float]) -> list[dict[str, float]]:
        return generation_records(np.array(returns), np.full(len(returns), 0.5), 6, saved)

    with pytest.raises(UserError, match="no state was saved"):
        records([np.nan] * 4)
    saved.touch()
    with pytest.raises(UserError, match=rf"generation 8 .*{saved}.*train_rnn\.py"):
        records([1.0, 2.0], [np.nan, np.inf])
    (record,) = records([1.0, np.nan, 4.0])
    expected = {"step": 7, "best": 4.0, "mean": 2.5, "spread": 1.5, "sigma": 0.5}
    assert record == pytest.approx(expected)


def test_search_is_over_all_867_parameters() -> None:
    search = CMA_ES(population_size=4, solution=Controller(32 + 256))
    assert search.num_dims == 867
