"""Forecasts of M on recorded episodes: the next step, and open-loop dreams of many steps."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from models.dream import DreamState, open_loop
from models.observed import DreamModel, ObservedState
from models.rnn import MDNRNN, RNNState, Window, masked_mean, mixture_log_likelihood, mixture_noise
from models.vae import sample_latent

HORIZONS = (10, 50, 200)  # steps of 1/50 s
EPISODES_PER_BATCH = 4  # bounds the memory that predictions of whole episodes take


def _mean(values: Float[Array, "*shape"], mask: Bool[Array, "*shape"]) -> Float[Array, ""]:
    """Mean over the True entries of `mask`; NaN if there are none, since nothing was measured."""
    return jnp.where(mask.any(), masked_mean(values, mask), jnp.nan)


def states_before(
    rnn: DreamModel, z: Float[Array, "time latent"], actions: Float[Array, "time 3"]
) -> RNNState | ObservedState:
    """M's state before each step of an episode, leaves (time, ...): what C sees beside z_t."""
    start: Any = rnn.initial_state()
    states = rnn.unroll(start, z, actions)
    return jax.tree.map(
        lambda first, rest: jnp.concatenate([first[None], rest[:-1]]), start, states
    )


def one_step(rnn: MDNRNN, episodes: Window, key: PRNGKeyArray) -> dict[str, Float[Array, ""]]:
    """Metrics of next-step forecasts over whole episodes, leaves (episodes, time, ...).

    `nll` in nats per latent dimension; `reward_error` (absolute) and `reward_bias` (predicted −
    real) in points per step; `end_entropy`, the cross-entropy of the end head, in nats;
    `end_predicted` and `end_real`, mean predicted and real probability of failure.
    """

    def forecast(row: tuple[Array, Window]) -> tuple[Array, Array, Array]:
        z, episode = row
        states = rnn.unroll(rnn.initial_state(), z, episode.actions)
        prediction = rnn.predict(states.hidden, z)
        likelihood = mixture_log_likelihood(prediction, episode.next_mu).mean(-1)
        return likelihood, prediction.reward, prediction.end_logit

    z = sample_latent(episodes.mu, episodes.logvar, key)
    rows = jax.lax.map(forecast, (z, episodes), batch_size=EPISODES_PER_BATCH)
    likelihood, reward, end_logit = rows
    error = reward - episodes.rewards
    entropy = jax.nn.softplus(end_logit) - episodes.failed * end_logit
    return {
        "nll": -_mean(likelihood, episodes.mask),
        "reward_error": _mean(jnp.abs(error), episodes.mask),
        "reward_bias": _mean(error, episodes.mask),
        "end_entropy": _mean(entropy, episodes.mask),
        "end_predicted": _mean(jax.nn.sigmoid(end_logit), episodes.mask),
        "end_real": _mean(episodes.failed.astype(jnp.float32), episodes.mask),
    }


def open_loop_rollout(
    rnn: MDNRNN, episode: Window, start: Int[Array, ""], key: PRNGKeyArray
) -> tuple[Float[Array, "horizon 4"], Window]:
    """An open-loop dream from row `start` of an episode, and the rows that really followed.

    The dream's columns: nll, reward, probability of failure, 1 where the real row is not padding.
    """
    steps = HORIZONS[-1]
    states = states_before(rnn, episode.mu, episode.actions)
    real = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, start, steps), episode)
    memory = jax.tree.map(lambda s: s[start], states)
    noise = mixture_noise(key, (steps, rnn.latent))
    _, prediction = open_loop(rnn, DreamState(episode.mu[start], memory), real.actions, noise)
    nll = -mixture_log_likelihood(prediction, real.next_mu).mean(-1)
    end = jax.nn.sigmoid(prediction.end_logit)
    return jnp.stack([nll, prediction.reward, end, real.mask], axis=-1), real


def open_loop_forecasts(
    rnn: MDNRNN, episodes: Window, starts: Int[Array, "episodes starts"], key: PRNGKeyArray
) -> dict[str, Float[Array, ""]]:
    """Metrics of open-loop dreams from the rows `starts` of every episode.

    For each horizon k: `nll_k` of the real latent at step k; `reward_error_k` and `reward_bias_k`
    of the sum of k rewards, in points; `end_predicted_k` and `end_real_k`, the predicted and the
    real share of drives that failed within k steps. Steps after the real episode's end count on
    neither side. A horizon that no episode reaches has NaN.
    """
    keys = jax.random.split(key, starts.shape)
    over_starts = jax.vmap(open_loop_rollout, (None, None, 0, 0))
    dreamed, real = jax.lax.map(
        lambda row: over_starts(rnn, *row), (episodes, starts, keys), batch_size=EPISODES_PER_BATCH
    )
    nll, reward, end, valid = jnp.moveaxis(dreamed, -1, 0)
    metrics = {}
    for k in HORIZONS:
        error = reward[..., :k] - real.rewards[..., :k]
        difference = jnp.where(valid[..., :k] > 0, error, 0).sum(-1)
        survival = jnp.prod(1 - end[..., :k] * valid[..., :k], axis=-1)
        failed = real.failed[..., :k].any(-1)
        known = failed | (valid[..., k - 1] > 0)  # otherwise the time limit cut the episode off
        at_k = valid[..., k - 1] > 0
        metrics |= {
            f"nll_{k}": _mean(nll[..., k - 1], at_k),
            f"reward_error_{k}": _mean(jnp.abs(difference), known),
            f"reward_bias_{k}": _mean(difference, known),
            f"end_predicted_{k}": _mean(1 - survival, known),
            f"end_real_{k}": _mean(failed.astype(jnp.float32), known),
        }
    return metrics
