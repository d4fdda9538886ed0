"""M: the MDN-RNN (Ha & Schmidhuber 2018, appendix A.2; Graves 2013 for mixture and LSTM).

An LSTM reads (z_t, a_t) and predicts a mixture of Gaussians for each dimension of z_{t+1}, the
reward that a_t causes, and whether it ends the episode off the playfield. One `step` serves
training, dream and real drive.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from models.layers.linear import Linear
from models.layers.lstm import LSTMState, advance, run
from models.vae import LATENT, sample_latent

HIDDEN = 256
ACTIONS = 3
COMPONENTS = 5

# Rewards are learned in tiles: −0.1 a step, and 1000 / N for each of a track's N ≈ 296 tiles.
STEP_REWARD, TILE_REWARD = -0.1, 1000 / 296


class Prediction(NamedTuple):
    """What the RNN expects of the next step. The latent axis is last: long and contiguous."""

    log_weight: Float[Array, "*batch components latent"]  # normalised over the components
    mean: Float[Array, "*batch components latent"]
    log_scale: Float[Array, "*batch components latent"]
    reward: Float[Array, "*batch"]  # points
    end_logit: Float[Array, "*batch"]  # of failing: off the playfield, or stuck off the road


class MDNRNN(eqx.Module):
    """LSTM with a mixture head: (z_t, a_t, state) -> (state, what comes next)."""

    from_input: Linear
    from_hidden: Float[Array, "hidden 4*hidden"]
    heads: Linear
    latent: int = eqx.field(static=True)
    components: int = eqx.field(static=True)

    def __init__(
        self,
        latent: int = LATENT,
        hidden: int = HIDDEN,
        components: int = COMPONENTS,
        *,
        key: PRNGKeyArray,
    ):
        input_key, hidden_key, head_key = jax.random.split(key, 3)
        self.from_input = Linear(latent + ACTIONS, 4 * hidden, key=input_key)
        orthogonal = jax.nn.initializers.orthogonal()
        self.from_hidden = jnp.concatenate(
            [orthogonal(k, (hidden, hidden)) for k in jax.random.split(hidden_key, 4)], axis=1
        )
        self.heads = Linear(hidden, 3 * components * latent + 2, key=head_key)
        self.latent, self.components = latent, components

    @property
    def hidden(self) -> int:
        """Size of the hidden layer."""
        return self.from_hidden.shape[0]

    def initial_state(self) -> LSTMState:
        """The state before an episode's first frame: zeros."""
        return LSTMState(jnp.zeros(self.hidden), jnp.zeros(self.hidden))

    def step(
        self, state: LSTMState, z: Float[Array, "*batch latent"], action: Float[Array, "*batch 3"]
    ) -> tuple[LSTMState, Prediction]:
        """One step: what was seen and done -> the new state and the prediction."""
        projected = self.from_input(jnp.concatenate([z, action], axis=-1))
        state = advance(state, projected, self.from_hidden)
        return state, self.predict(state.hidden, z)

    def unroll(
        self,
        state: LSTMState,
        z: Float[Array, "time *batch latent"],
        actions: Float[Array, "time *batch 3"],
    ) -> LSTMState:
        """`step` over a sequence, without the heads: the state after every step.

        Args: state (*batch, hidden). Returns leaves (time, *batch, hidden). The projections of all
        inputs are one matrix product instead of one a step.
        """
        inputs = jnp.concatenate([z, actions], axis=-1)
        return run(state, self.from_input(inputs), self.from_hidden)

    def predict(
        self, hidden: Float[Array, "*batch hidden"], z: Float[Array, "*batch latent"]
    ) -> Prediction:
        """The heads: the hidden layer that has seen (z_t, a_t) -> what comes next.

        The means are relative to z_t: most of a frame is still there in the next one.
        """
        size = self.components * self.latent
        parts = jnp.split(self.heads(hidden), [size, 2 * size, 3 * size, 3 * size + 1], axis=-1)
        mixture = [part.reshape(*hidden.shape[:-1], self.components, -1) for part in parts[:3]]
        return Prediction(
            log_weight=jax.nn.log_softmax(mixture[0], axis=-2),
            mean=mixture[1] + z[..., None, :],
            log_scale=mixture[2],
            reward=STEP_REWARD + TILE_REWARD * parts[3][..., 0],
            end_logit=parts[4][..., 0],
        )


def mixture_log_likelihood(
    prediction: Prediction, z: Float[Array, "*batch latent"]
) -> Float[Array, "*batch latent"]:
    """log p(z) of each dimension under its mixture, in nats (Graves 2013, eq. 24)."""
    standardised = (z[..., None, :] - prediction.mean) * jnp.exp(-prediction.log_scale)
    log_normal = -0.5 * (jnp.square(standardised) + jnp.log(2 * jnp.pi)) - prediction.log_scale
    return jax.nn.logsumexp(prediction.log_weight + log_normal, axis=-2)


class MixtureNoise(NamedTuple):
    """The randomness of one sample, drawn beforehand so that many dreams can share it."""

    choice: Float[Array, "*batch latent"]  # uniform in 0..1: which component
    normal: Float[Array, "*batch latent"]


def mixture_noise(key: PRNGKeyArray, shape: tuple[int, ...]) -> MixtureNoise:
    """Noise for samples of the given shape, its last axis the latent."""
    choice_key, normal_key = jax.random.split(key)
    return MixtureNoise(jax.random.uniform(choice_key, shape), jax.random.normal(normal_key, shape))


def sample_mixture(
    prediction: Prediction, noise: MixtureNoise, temperature: float | Float[Array, ""]
) -> Float[Array, " latent"]:
    """z_{t+1} drawn dimension by dimension.

    Temperature as in Ha's code: logits divided by it, scales multiplied by its square root.
    """
    weights = jax.nn.softmax(prediction.log_weight / temperature, axis=-2)
    # Inverse of the cumulative distribution, component by component: the chosen one is the last
    # whose predecessors' weights sum to less than the uniform draw. Selecting by `where` keeps
    # the latent as the contiguous axis; a gather would be ten times slower on a CPU.
    mean, log_scale = prediction.mean[..., 0, :], prediction.log_scale[..., 0, :]
    below = jnp.zeros_like(mean)
    for k in range(1, weights.shape[-2]):
        below = below + weights[..., k - 1, :]
        later = noise.choice > below
        mean = jnp.where(later, prediction.mean[..., k, :], mean)
        log_scale = jnp.where(later, prediction.log_scale[..., k, :], log_scale)
    return mean + jnp.exp(log_scale) * jnp.sqrt(temperature) * noise.normal


def asymmetric_error(
    predicted: Float[Array, "*batch"], target: Float[Array, "*batch"], optimism_penalty: float
) -> Float[Array, "*batch"]:
    """Squared error in tiles, `optimism_penalty` times as heavy where the prediction is too high.

    Its minimum is the expectile at level 1 / (1 + penalty) (Newey & Powell 1987).
    """
    error = (predicted - target) / TILE_REWARD
    return jnp.square(error) * jnp.where(error > 0, optimism_penalty, 1.0)


class Window(NamedTuple):
    """Consecutive steps of one episode; row t is seen, done and caused, as on file."""

    mu: Float[Array, "*batch time latent"]
    logvar: Float[Array, "*batch time latent"]
    next_mu: Float[Array, "*batch time latent"]
    next_logvar: Float[Array, "*batch time latent"]
    actions: Float[Array, "*batch time 3"]
    rewards: Float[Array, "*batch time"]  # points, smoothed
    failed: Bool[Array, "*batch time"]  # the drive is lost, as hindsight knows
    mask: Bool[Array, "*batch time"]  # False: padding after the episode's end


class RNNLoss(NamedTuple):
    """What `rnn_loss` is made of, means over the steps of a window."""

    total: Float[Array, ""]
    nll: Float[Array, ""]  # nats for each latent dimension
    reward: Float[Array, ""]  # asymmetric squared error, tiles²
    end: Float[Array, ""]  # cross-entropy, nats
    optimism: Float[Array, ""]  # predicted − real reward, points


def masked_mean(values: Float[Array, "*shape"], mask: Bool[Array, "*shape"]) -> Float[Array, ""]:
    """Mean over the True entries of `mask`; 0 if there are none."""
    return jnp.where(mask, values, 0.0).sum() / jnp.maximum(mask.sum(), 1)


def rnn_loss(
    rnn: MDNRNN,
    states: LSTMState,
    window: Window,
    key: PRNGKeyArray,
    optimism_penalty: float,
    reward_weight: float,
) -> tuple[RNNLoss, LSTMState]:
    """Loss of a batch of windows that begin in `states`; the states after them, too.

    z is drawn anew from (mu, logvar) at every call, in and out.
    """
    window = jax.tree.map(lambda rows: jnp.swapaxes(rows, 0, 1), window)  # time first, as in a scan
    # Drawn in a loop of two: otherwise XLA draws them anew for each component they are compared to.
    mu, logvar = (
        jnp.stack([window.mu, window.next_mu]),
        jnp.stack([window.logvar, window.next_logvar]),
    )
    z, target = jax.lax.map(lambda row: sample_latent(*row), (mu, logvar, jax.random.split(key)))
    along = rnn.unroll(states, z, window.actions)
    prediction = rnn.predict(along.hidden, z)
    nll = -masked_mean(mixture_log_likelihood(prediction, target).mean(-1), window.mask)
    error = asymmetric_error(prediction.reward, window.rewards, optimism_penalty)
    reward = masked_mean(error, window.mask)
    labels = window.failed.astype(jnp.float32)
    entropy = jax.nn.softplus(prediction.end_logit) - labels * prediction.end_logit
    end = masked_mean(entropy, window.mask)
    optimism = masked_mean(prediction.reward - window.rewards, window.mask)
    total = nll + reward_weight * reward + end
    return RNNLoss(total, nll, reward, end, optimism), jax.tree.map(lambda s: s[-1], along)
