"""CMA-ES in the dream (Ha & Schmidhuber 2018, section 2.4): a generation, and its evaluation."""

import functools
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from models.controller import Controller, Whitening
from models.dream import dream_returns, replicated_sharding
from models.observed import DreamModel
from models.rnn import mixture_noise
from utils.data.start_states import StartStates
from utils.errors import UserError

# One call to the device runs as many generations as take about a second, up to the maximum.
SECONDS_PER_CALL, MAX_GENERATIONS_PER_CALL = 1.0, 100
SCORE_DREAMS = 64  # dreams of the score of a saved mean, the same for every mean


class DreamEvaluator(eqx.Module):
    """All that a generation needs besides the state of the search; constant during a run.

    A point of the search space is added to `origin`: zeros, or the controller of an earlier run.
    """

    rnn: DreamModel
    start_states: StartStates
    whitening: Whitening
    origin: Controller
    reward_limit: Float[Array, ""]  # most points for one dreamed step
    settings: Any = eqx.field(static=True)  # Settings of train_dream.py

    def controller(self, point: Controller) -> Controller:
        """The controller on [z, h] at a point of the search space."""
        return jax.tree.map(jnp.add, self.origin, self.whitening.to_raw(point))

    def returns(self, points: Controller, key: PRNGKeyArray, dreams: int) -> Array:
        """Dream returns (candidates, dreams) of points of the search space."""
        start_key, noise_key = jax.random.split(key)
        settings = self.settings
        starts = self.start_states.sample(
            start_key, dreams, settings.reset_share, settings.on_policy_share
        )
        noise = mixture_noise(noise_key, (dreams, settings.horizon, self.rnn.latent))
        controllers = jax.vmap(self.controller)(points)
        rules = settings.temperature, self.reward_limit, settings.failure_weight
        return dream_returns(self.rnn, controllers, starts, noise, *rules)


def fit_whitening(start_states: StartStates, components: int, masked: int = 0) -> Whitening:
    """Mean, scale and principal components of [z, h] at the starts.

    The last `masked` features are hidden from C. Returns at most as many components as there are
    visible features.
    """
    features = np.asarray(start_states.features(), np.float64)
    # The lower bound keeps a feature that hardly varies from becoming noise.
    mean, scale = features.mean(axis=0), np.maximum(features.std(axis=0), 1e-2)
    visible = ((features - mean) / scale)[:, : features.shape[1] - masked]
    _, vectors = np.linalg.eigh(visible.T @ visible / len(visible))  # by ascending variance
    basis = vectors[:, ::-1][:, :components]
    return Whitening(*(jnp.asarray(x, jnp.float32) for x in (mean, scale, basis)))


@functools.cache  # one object a process, so that the rounds compile one program
def new_search(candidates: int, components: int) -> Any:
    """CMA-ES over controllers on `components` inputs."""
    # Here, because this import computes, and without a device that must fail in runtime.run.
    from evosax.algorithms import CMA_ES

    return CMA_ES(population_size=candidates, solution=Controller(components))


def initial_search(settings: Any, components: int, key: PRNGKeyArray) -> tuple[Any, Any, Any]:
    """The search, its parameters and its state before the first generation.

    Args:
        settings: of train_dream.py.
        components: inputs of a controller in the search space, `Whitening.components`.
    """
    search = new_search(settings.candidates, components)
    params, state = _begin(search, Controller(components), settings.sigma, key)
    return search, params, as_returned(state, settings)


@eqx.filter_jit  # one program compiles faster than fifty
def _begin(search: Any, mean: Controller, sigma: float, key: PRNGKeyArray) -> tuple[Any, Any]:
    params = search.default_params.replace(std_init=jnp.asarray(sigma))
    return params, search.init(key, mean, params)


def as_returned(state: Any, settings: Any) -> Any:
    """The state with the types and devices that `run_generations` returns.

    With others, the first call would be compiled separately.
    """
    state = jax.tree.map(lambda x: jnp.asarray(x, x.dtype), state)
    return jax.device_put(state, replicated_sharding(settings.candidates, settings.dreams))


@eqx.filter_jit
def run_generations(
    search: Any,
    params: Any,
    state: Any,
    evaluator: DreamEvaluator,
    key: PRNGKeyArray,
    first: Int[Array, ""],
    count: Int[Array, ""],
) -> tuple[Any, Float[Array, "generations candidates"], Float[Array, " generations"]]:
    """Generations `first` … `first` + `count` − 1, each ask, dream, tell, in one call.

    Returns the new state, every candidate's return in each generation, and the mutation strength
    of each generation; rows from `count` on are zero. `count` is not a constant of the compiled
    loop, so that a generation's bits do not depend on the generations in the same call.
    """

    def generation(index: Array, carry: tuple) -> tuple:
        state, history, strengths = carry
        generation_key = jax.random.fold_in(key, first + index)
        ask_key, dream_key, tell_key = jax.random.split(generation_key, 3)
        population, state = search.ask(ask_key, state, params)
        returns = evaluator.returns(population, dream_key, evaluator.settings.dreams).mean(axis=1)
        # evosax minimises. A return that is not finite ranks last.
        fitness = jnp.where(jnp.isfinite(returns), -returns, jnp.inf)
        state, _ = search.tell(tell_key, population, fitness, state, params)
        return state, history.at[index].set(returns), strengths.at[index].set(state.std)

    history = jnp.zeros((MAX_GENERATIONS_PER_CALL, search.population_size))
    carry = (state, history, jnp.zeros(MAX_GENERATIONS_PER_CALL))
    return jax.lax.fori_loop(0, count, generation, carry)


def dream_score(evaluator: DreamEvaluator, controller: Controller) -> float:
    """Mean return of a controller on [z, h] in dreams that are always the same."""
    # As NumPy arrays: JAX compiles again for arrays from another place.
    return float(_mean_return(evaluator, jax.device_get(controller)))


@eqx.filter_jit
def _mean_return(evaluator: DreamEvaluator, controller: Controller) -> Float[Array, ""]:
    evaluator = eqx.tree_at(lambda e: e.origin, evaluator, controller)
    zero = Controller(evaluator.whitening.components)
    points = jax.tree.map(lambda x: x[None], zero)
    return evaluator.returns(points, jax.random.key(0), SCORE_DREAMS).mean()


def generations_until_checkpoint(done: int, last: int, every: tuple[int, ...]) -> int:
    """Generations to the next multiple of one of `every`, or to the last one."""
    return min(last - done, *(n - done % n for n in every))


def generations_per_call(count: int, seconds: float) -> int:
    """The number of generations for the next call, if `count` of them took `seconds`."""
    return max(
        1, min(MAX_GENERATIONS_PER_CALL, round(count * SECONDS_PER_CALL / max(seconds, 1e-3)))
    )


def reward_limits(settings: Any, searches: int) -> list[float]:
    """The reward limit of each search that continues a controller.

    A higher limit makes cars faster, and faster cars lose more drives. How fast M lets them be is
    not known before they drive. So the limits go evenly from --reward-limit to
    --fast-reward-limit, and real drives choose. Without real drives all have the lower limit.
    """
    fastest = settings.fast_reward_limit if settings.real_validation else settings.reward_limit
    return np.linspace(settings.reward_limit, fastest, searches).tolist()


def generation_records(
    returns: Float[np.ndarray, "generations candidates"],
    strengths: Float[np.ndarray, " generations"],
    done: int,
    saved: Path,
) -> list[dict[str, float]]:
    """The metrics of the generations after `done`: best, mean and spread of the returns, sigma.

    Raises UserError if no return of a generation is finite; it names the state kept in `saved`.
    """
    records = []
    for step, (row, sigma) in enumerate(zip(returns, strengths, strict=True), done + 1):
        values = row[np.isfinite(row)]
        if not values.size:
            kept = (
                f"the last good state is kept in {saved}"
                if saved.exists()
                else "no state was saved"
            )
            raise UserError(
                f"no dream of generation {step} has a return; {kept}. "
                "Is M trained? Try train_rnn.py --fresh with a lower --learning-rate"
            )
        records.append(
            {
                "step": step,
                "best": float(values.max()),
                "mean": float(values.mean()),
                "spread": float(values.std()),
                "sigma": float(sigma),
            }
        )
    return records
