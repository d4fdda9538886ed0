"""M: the MDN-RNN (Ha & Schmidhuber 2018, appendix A.2; Graves 2013 for mixture and LSTM).

An LSTM reads (z_t, a_t). From its hidden state, M predicts z_{t+1} as a mixture of Gaussians per
latent dimension, the reward that a_t causes, and the probability that a_t ends the drive in
failure. The same `step` serves training, the dream and the real track.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from models.layers.linear import Linear
from models.layers.lstm import LSTMCell, LSTMState
from models.vae import LATENT, sample_latent

HIDDEN = 256
COMPONENTS = 5
ACTION_SIZE = 3  # steer, gas, brake

# M predicts rewards in tiles: each step costs 0.1 points, each of a track's N ≈ 296 tiles brings
# 1000 / N.
STEP_REWARD, TILE_REWARD = -0.1, 1000 / 296

RNNState = LSTMState  # M's memory: a pytree with leaves (*batch, ...) and a field `hidden`


class Prediction(NamedTuple):
    """M's prediction of the next step. The latent axis is last: long and contiguous."""

    log_weight: Float[Array, "*batch components latent"]  # normalised over the components
    mean: Float[Array, "*batch components latent"]
    log_scale: Float[Array, "*batch components latent"]
    reward: Float[Array, "*batch"]  # points
    end_logit: Float[Array, "*batch"]  # of failure: off the playfield, or stuck off the road


class MDNRNN(eqx.Module):
    """A recurrent cell and linear heads: (state, z_t, a_t) -> (state, prediction)."""

    cell: LSTMCell
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
        input_key, recurrent_key, head_key = jax.random.split(key, 3)
        self.cell = LSTMCell(
            latent + ACTION_SIZE, hidden, input_key=input_key, recurrent_key=recurrent_key
        )
        self.heads = Linear(hidden, 3 * components * latent + 2, key=head_key)
        self.latent, self.components = latent, components

    @property
    def hidden(self) -> int:
        """Size of the hidden state."""
        return self.heads.weight.shape[0]

    def initial_state(self, *batch: int) -> RNNState:
        """The state before an episode's first frame: zeros, leaves (*batch, ...)."""
        return self.cell.initial_state(*batch)

    def step(
        self, state: RNNState, z: Float[Array, "*batch latent"], action: Float[Array, "*batch 3"]
    ) -> tuple[RNNState, Prediction]:
        """Update the state by (z_t, a_t) and predict the next step."""
        state = self.cell.step(state, jnp.concatenate([z, action], axis=-1))
        return state, self.predict(state.hidden, z)

    def unroll(
        self,
        state: RNNState,
        z: Float[Array, "time *batch latent"],
        actions: Float[Array, "time *batch 3"],
    ) -> RNNState:
        """`step` over a sequence, without the heads.

        Takes the state before the first step, leaves (*batch, ...); returns the state after every
        step, leaves (time, *batch, ...).
        """
        return self.cell.unroll(state, jnp.concatenate([z, actions], axis=-1))

    def predict(
        self, hidden: Float[Array, "*batch hidden"], z: Float[Array, "*batch latent"]
    ) -> Prediction:
        """The heads, on the hidden state after (z_t, a_t).

        The means are relative to z_t, since consecutive frames are much alike.
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
    """The randomness of one mixture sample, drawn in advance so that many dreams can share it."""

    choice: Float[Array, "*batch latent"]  # uniform in 0..1, selects the component
    normal: Float[Array, "*batch latent"]


def mixture_noise(key: PRNGKeyArray, shape: tuple[int, ...]) -> MixtureNoise:
    """Noise for samples of the given shape; its last axis is the latent."""
    choice_key, normal_key = jax.random.split(key)
    choice = jax.random.uniform(choice_key, shape, jnp.float32)  # also in JAX's 64-bit mode
    return MixtureNoise(choice, jax.random.normal(normal_key, shape, jnp.float32))


def sample_mixture(
    prediction: Prediction, noise: MixtureNoise, temperature: float | Float[Array, ""]
) -> Float[Array, " latent"]:
    """Sample z_{t+1}, each dimension from its own mixture.

    Temperature as in Ha's code: logits are divided by it, scales multiplied by its square root.
    """
    weights = jax.nn.softmax(prediction.log_weight / temperature, axis=-2)
    # Inverse transform sampling: the last component for which the weights before it sum to less
    # than the uniform draw. `where` keeps the latent as the contiguous axis; a gather would be ten
    # times slower on a CPU.
    mean, log_scale = prediction.mean[..., 0, :], prediction.log_scale[..., 0, :]
    cumulative = jnp.zeros_like(mean)
    for k in range(1, weights.shape[-2]):
        cumulative = cumulative + weights[..., k - 1, :]
        selected = noise.choice > cumulative
        mean = jnp.where(selected, prediction.mean[..., k, :], mean)
        log_scale = jnp.where(selected, prediction.log_scale[..., k, :], log_scale)
    return mean + jnp.exp(log_scale) * jnp.sqrt(temperature) * noise.normal


def asymmetric_error(
    predicted: Float[Array, "*batch"], target: Float[Array, "*batch"], optimism_penalty: float
) -> Float[Array, "*batch"]:
    """Squared error in tiles², multiplied by `optimism_penalty` where the prediction is too high.

    Minimised by the expectile at level 1 / (1 + optimism_penalty) (Newey & Powell 1987).
    """
    error = (predicted - target) / TILE_REWARD
    return jnp.square(error) * jnp.where(error > 0, optimism_penalty, 1.0)


class Window(NamedTuple):
    """Consecutive steps of one episode. Row t: z_t, a_t, and what a_t caused."""

    mu: Float[Array, "*batch time latent"]
    logvar: Float[Array, "*batch time latent"]
    next_mu: Float[Array, "*batch time latent"]
    next_logvar: Float[Array, "*batch time latent"]
    actions: Float[Array, "*batch time 3"]
    rewards: Float[Array, "*batch time"]  # points, smoothed
    failed: Bool[Array, "*batch time"]  # the label of the end head
    mask: Bool[Array, "*batch time"]  # False: padding after the episode's end


class RNNLoss(NamedTuple):
    """The terms of `rnn_loss`, means over the unpadded steps."""

    total: Float[Array, ""]
    nll: Float[Array, ""]  # nats per latent dimension
    reward: Float[Array, ""]  # asymmetric squared error, tiles²
    end: Float[Array, ""]  # cross-entropy, nats
    reward_bias: Float[Array, ""]  # predicted − real reward, points


def masked_mean(values: Float[Array, "*shape"], mask: Bool[Array, "*shape"]) -> Float[Array, ""]:
    """Mean over the True entries of `mask`; 0 if there are none."""
    return jnp.where(mask, values, 0.0).sum() / jnp.maximum(mask.sum(), 1)


def rnn_loss(
    rnn: MDNRNN,
    state: RNNState,
    window: Window,
    key: PRNGKeyArray,
    optimism_penalty: float,
    reward_weight: float,
) -> tuple[RNNLoss, RNNState]:
    """Loss of a batch of windows, and the state after them.

    `window` has leaves (batch, time, ...); `state` is the state before the windows, leaves
    (batch, ...). z_t and z_{t+1} are sampled from (mu, logvar) at every call.
    """
    window = jax.tree.map(lambda rows: jnp.swapaxes(rows, 0, 1), window)  # time first, for the scan
    # Sampled in a loop of two: otherwise XLA draws the target again for every mixture component.
    mu = jnp.stack([window.mu, window.next_mu])
    logvar = jnp.stack([window.logvar, window.next_logvar])
    z, target = jax.lax.map(lambda row: sample_latent(*row), (mu, logvar, jax.random.split(key)))
    states = rnn.unroll(state, z, window.actions)
    prediction = rnn.predict(states.hidden, z)
    nll = -masked_mean(mixture_log_likelihood(prediction, target).mean(-1), window.mask)
    error = asymmetric_error(prediction.reward, window.rewards, optimism_penalty)
    reward = masked_mean(error, window.mask)
    labels = window.failed.astype(jnp.float32)
    cross_entropy = jax.nn.softplus(prediction.end_logit) - labels * prediction.end_logit
    end = masked_mean(cross_entropy, window.mask)
    reward_bias = masked_mean(prediction.reward - window.rewards, window.mask)
    total = nll + reward_weight * reward + end
    last_state = jax.tree.map(lambda s: s[-1], states)
    return RNNLoss(total, nll, reward, end, reward_bias), last_state
