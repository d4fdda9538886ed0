"""The dream: the RNN imagines what the controller's actions lead to (section 4).

The same imagined step, `imagine`, serves evolution, open-loop evaluation, the videos and the
Gymnasium environment (utils/dream_env.py).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from models.controller import Controller
from models.rnn import MDNRNN, LSTMState, MixtureNoise, Prediction, sample_mixture

FAILURE_REWARD = -100.0  # points for leaving the playfield, as in the real environment


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

    The car leaves the playfield, for FAILURE_REWARD, where `luck`, uniform in 0..1, falls below
    the predicted probability. Over all luck the sum of these rewards is `dream_return`.
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
    of leaving the playfield costs FAILURE_REWARD. A hard end would make the return a lottery.

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
    """Returns of every candidate in every dream.

    Args:
        controllers: leaves with a leading axis of candidates.
        starts: leaves with a leading axis of dreams.
        noise: (dreams, steps, latent); all candidates meet the same noise in the same dream, so
            that their returns differ by what they do and not by luck.
    """
    over_dreams = jax.vmap(dream_return, in_axes=(None, None, 0, 0, None, None))
    over_candidates = jax.vmap(over_dreams, in_axes=(None, 0, None, None, None, None))
    return over_candidates(rnn, controllers, starts, noise, temperature, reward_limit)


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
