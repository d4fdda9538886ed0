"""The dream: rollouts in which M's predictions take the place of the environment (section 4).

One imagined step, `imagine`, serves evolution, open-loop forecasts, the videos and the Gymnasium
environment (envs/dream.py).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float

from models.controller import Controller
from models.observed import DreamModel
from models.rnn import MixtureNoise, Prediction, sample_mixture

FAILURE_REWARD = -100.0  # points; CarRacing-v3's reward for leaving the playfield
CPU_BATCH = 256  # dreams whose activations fit into the caches of a CPU


class DreamState(NamedTuple):
    """z_t, and M's state before (z_t, a_t)."""

    z: Float[Array, "*batch latent"]
    memory: Any  # RNNState, or ObservedState in an ObservedDream


def imagine(
    rnn: DreamModel,
    state: DreamState,
    action: Float[Array, " 3"],
    noise: MixtureNoise,
    temperature: float | Float[Array, ""],
) -> tuple[DreamState, Prediction]:
    """One imagined step: z_{t+1} is sampled from M's prediction for (z_t, a_t)."""
    memory, prediction = rnn.step(state.memory, state.z, action)
    return DreamState(sample_mixture(prediction, noise, temperature), memory), prediction


def sample_outcome(
    prediction: Prediction, u: Float[Array, "*batch"]
) -> tuple[Float[Array, "*batch"], Bool[Array, "*batch"]]:
    """Sample a step's reward in points, and whether the drive failed.

    `u` is uniform in 0..1; the drive fails, for FAILURE_REWARD, where it is below the predicted
    probability of failure. The expected sum of these rewards is `dream_return` without
    limit and weight.
    """
    failed = u < jax.nn.sigmoid(prediction.end_logit)
    return jnp.where(failed, FAILURE_REWARD, prediction.reward), failed


def dream_return(
    rnn: DreamModel,
    controller: Controller,
    start: DreamState,
    noise: MixtureNoise,
    temperature: float | Float[Array, ""],
    reward_limit: float | Float[Array, ""] = jnp.inf,
    failure_weight: float | Float[Array, ""] = 1.0,
) -> Float[Array, ""]:
    """Expected return of one dream in points, over as many steps as `noise` has rows.

    Failure is taken in expectation, because sampling it would make the return very noisy: a step's
    reward counts with the probability that the dream is still alive, and its probability of failure
    costs FAILURE_REWARD. A probability of failure that persists is counted again at every step, so
    survival is underestimated and C learns to avoid states in which M is unsure. A `failure_weight`
    below 1 makes up for some of that: the probability of survival is raised to this power.

    `reward_limit` caps the reward of a step. In a dream of a few seconds, twice the speed brings
    twice the tiles, but a whole lap is worth 1000 points at any speed.
    """

    def step(
        carry: tuple[DreamState, Array], noise: MixtureNoise
    ) -> tuple[tuple[DreamState, Array], Array]:
        state, survival = carry
        action = controller(state.z, state.memory.hidden)
        state, prediction = imagine(rnn, state, action, noise, temperature)
        alive = (1 - jax.nn.sigmoid(prediction.end_logit)) ** failure_weight
        earned = jnp.minimum(prediction.reward, reward_limit)
        reward = survival * (alive * earned + (1 - alive) * FAILURE_REWARD)
        return (state, survival * alive), reward

    _, rewards = jax.lax.scan(step, (start, jnp.ones((), jnp.float32)), noise)
    return rewards.sum()


def dream_returns(
    rnn: DreamModel,
    controllers: Controller,
    starts: DreamState,
    noise: MixtureNoise,
    temperature: float | Float[Array, ""],
    reward_limit: float | Float[Array, ""] = jnp.inf,
    failure_weight: float | Float[Array, ""] = 1.0,
) -> Float[Array, "candidates dreams"]:
    """Returns of every candidate in every dream, sharded over all of JAX's devices.

    Args:
        controllers: leaves with a leading axis of candidates.
        starts: leaves with a leading axis of dreams.
        noise: (dreams, steps, latent), the same for all candidates, so that their returns differ
            by their actions alone.
    """
    over_dreams = jax.vmap(dream_return, in_axes=(None, None, 0, 0, None, None, None))
    rules = temperature, reward_limit, failure_weight

    def returns(controller: Controller) -> Float[Array, " dreams"]:
        return over_dreams(rnn, controller, starts, noise, *rules)

    candidates, dreams = len(controllers.bias), len(noise.normal)
    batch, devices = device_layout(candidates, dreams, len(jax.devices()), jax.default_backend())
    # CMA-ES itself stays replicated: its sums would round differently if they were sharded.
    replicated = replicated_sharding(candidates, dreams)
    sharded = NamedSharding(replicated.mesh, PartitionSpec("devices"))
    controllers = jax.lax.with_sharding_constraint(controllers, replicated)
    shards = jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), controllers)
    shards = jax.lax.with_sharding_constraint(shards, sharded)
    found = jax.vmap(lambda shard: jax.lax.map(returns, shard, batch_size=batch))(shards)
    return jax.lax.with_sharding_constraint(found.reshape(candidates, dreams), replicated)


def replicated_sharding(candidates: int, dreams: int) -> NamedSharding:
    """A full copy on every device that `dream_returns` uses for this population."""
    _, devices = device_layout(candidates, dreams, len(jax.devices()), jax.default_backend())
    return NamedSharding(Mesh(jax.devices()[:devices], ("devices",)), PartitionSpec())


def device_layout(candidates: int, dreams: int, devices: int, platform: str) -> tuple[int, int]:
    """(candidates per batch, devices used) for a population.

    A CPU takes as many candidates as fit into its caches, a GPU all of its share. On a CPU the
    batch depends on the population alone: the last bits of a matrix product depend on its size, and
    returns must not depend on the number of devices.
    """
    if platform == "cpu":
        batch = _largest_divisor(candidates, max(1, CPU_BATCH // dreams))
        return batch, _largest_divisor(candidates // batch, devices)
    used = _largest_divisor(candidates, devices)
    return candidates // used, used


def _largest_divisor(number: int, maximum: int) -> int:
    return next(n for n in range(min(number, maximum), 0, -1) if number % n == 0)


def open_loop(
    rnn: DreamModel,
    start: DreamState,
    actions: Float[Array, "steps 3"],
    noise: MixtureNoise,
    temperature: float | Float[Array, ""] = 1.0,
) -> tuple[Float[Array, "steps latent"], Prediction]:
    """Dream along given actions: the imagined z after each of them, and each prediction."""

    def step(
        state: DreamState, row: tuple[Array, MixtureNoise]
    ) -> tuple[DreamState, tuple[Array, Prediction]]:
        action, noise = row
        state, prediction = imagine(rnn, state, action, noise, temperature)
        return state, (state.z, prediction)

    _, (z, predictions) = jax.lax.scan(step, start, (actions, noise))
    return z, predictions
