"""The dream: the RNN imagines what the controller's actions lead to (section 4).

The same imagined step, `imagine`, serves evolution, open-loop evaluation, the videos and the
Gymnasium environment (envs/dream.py).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float

from models.controller import Controller
from models.rnn import MDNRNN, LSTMState, MixtureNoise, Prediction, sample_mixture

FAILURE_REWARD = -100.0  # points for failing: what leaving the playfield costs in the real one
CPU_ROWS = 256  # dreams side by side that the caches of a CPU hold, with all that a step needs


class DreamState(NamedTuple):
    """Where a dream stands: what is seen, and the memory that has not yet seen it."""

    z: Float[Array, "*batch latent"]
    memory: LSTMState


def imagine(
    rnn: MDNRNN,
    state: DreamState,
    action: Float[Array, " 3"],
    noise: MixtureNoise,
    temperature: float | Float[Array, ""],
) -> tuple[DreamState, Prediction]:
    """One imagined step: the action's consequence is drawn from the RNN's prediction."""
    memory, prediction = rnn.step(state.memory, state.z, action)
    return DreamState(sample_mixture(prediction, noise, temperature), memory), prediction


def befall(
    prediction: Prediction, luck: Float[Array, "*batch"]
) -> tuple[Float[Array, "*batch"], Bool[Array, "*batch"]]:
    """What a step brings where an end is an end: its reward in points, and whether it failed.

    The dream fails, for FAILURE_REWARD, where `luck`, uniform in 0..1, falls below the predicted
    probability. Over all luck the sum of these rewards is `dream_return`.
    """
    failed = luck < jax.nn.sigmoid(prediction.end_logit)
    return jnp.where(failed, FAILURE_REWARD, prediction.reward), failed


def dream_return(
    rnn: MDNRNN,
    controller: Controller,
    start: DreamState,
    noise: MixtureNoise,
    temperature: float | Float[Array, ""],
    reward_limit: float | Float[Array, ""] = jnp.inf,
) -> Float[Array, ""]:
    """Expected return of one dream in points, over as many steps as `noise` has rows.

    Survival is soft: a step counts by the probability that the dream got there, and its chance
    of failing costs FAILURE_REWARD. A hard end would make the return a lottery. The same doubt
    counts at every step that it lasts: survival is pessimistic, which keeps C away from doubt.

    No step counts more than `reward_limit` points. A dream is a piece of a lap, and in a piece
    twice the speed is twice the tiles; but a whole lap's tiles are 1000 points at any speed.
    """

    def step(
        carry: tuple[DreamState, Array], noise: MixtureNoise
    ) -> tuple[tuple[DreamState, Array], Array]:
        state, survival = carry
        action = controller(state.z, state.memory.hidden)
        state, prediction = imagine(rnn, state, action, noise, temperature)
        end = jax.nn.sigmoid(prediction.end_logit)
        earned = jnp.minimum(prediction.reward, reward_limit)
        reward = survival * ((1 - end) * earned + end * FAILURE_REWARD)
        return (state, survival * (1 - end)), reward

    _, rewards = jax.lax.scan(step, (start, jnp.ones(())), noise)
    return rewards.sum()


def dream_returns(
    rnn: MDNRNN,
    controllers: Controller,
    starts: DreamState,
    noise: MixtureNoise,
    temperature: float | Float[Array, ""],
    reward_limit: float | Float[Array, ""] = jnp.inf,
) -> Float[Array, "candidates dreams"]:
    """Returns of every candidate in every dream, spread over all of JAX's devices.

    Args:
        controllers: leaves with a leading axis of candidates.
        starts: leaves with a leading axis of dreams.
        noise: (dreams, steps, latent); all candidates meet the same noise in the same dream, so
            that their returns differ by what they do and not by luck.
    """
    over_dreams = jax.vmap(dream_return, in_axes=(None, None, 0, 0, None, None))

    def returns(controller: Controller) -> Float[Array, " dreams"]:
        return over_dreams(rnn, controller, starts, noise, temperature, reward_limit)

    candidates, dreams = len(controllers.bias), len(noise.normal)
    together, devices = layout(candidates, dreams, len(jax.devices()), jax.default_backend())
    # The search's own arithmetic must not be divided among devices: its sums would round anew.
    whole = on_each_device(candidates, dreams)
    shared = NamedSharding(whole.mesh, PartitionSpec("devices"))
    controllers = jax.lax.with_sharding_constraint(controllers, whole)
    shares = jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), controllers)
    shares = jax.lax.with_sharding_constraint(shares, shared)
    found = jax.vmap(lambda share: jax.lax.map(returns, share, batch_size=together))(shares)
    return jax.lax.with_sharding_constraint(found.reshape(candidates, dreams), whole)


def on_each_device(candidates: int, dreams: int) -> NamedSharding:
    """Where all that is not shared out lies: whole, on every device that the population has."""
    _, devices = layout(candidates, dreams, len(jax.devices()), jax.default_backend())
    return NamedSharding(Mesh(jax.devices()[:devices], ("devices",)), PartitionSpec())


def layout(candidates: int, dreams: int, devices: int, platform: str) -> tuple[int, int]:
    """How many candidates dream together, and on how many devices.

    A CPU takes as many as its caches hold, a GPU all at once. On a CPU the number follows from
    the population alone: a matrix product's last bits depend on its size, so that returns would
    depend on the number of devices.
    """
    if platform == "cpu":
        together = _largest_divisor(candidates, max(1, CPU_ROWS // dreams))
        return together, _largest_divisor(candidates // together, devices)
    used = _largest_divisor(candidates, devices)
    return candidates // used, used


def _largest_divisor(number: int, most: int) -> int:
    return next(n for n in range(min(number, most), 0, -1) if number % n == 0)


def open_loop(
    rnn: MDNRNN,
    start: DreamState,
    actions: Float[Array, "steps 3"],
    noise: MixtureNoise,
    temperature: float | Float[Array, ""] = 1.0,
) -> tuple[Float[Array, "steps latent"], Prediction]:
    """Dream along given actions: the imagined z after each, and each prediction."""

    def step(state: DreamState, row: tuple) -> tuple[DreamState, tuple[Array, Prediction]]:
        state, prediction = imagine(rnn, state, *row, temperature)
        return state, (state.z, prediction)

    _, (z, predictions) = jax.lax.scan(step, start, (actions, noise))
    return z, predictions
