"""V: the convolutional variational autoencoder (Ha & Schmidhuber 2018, appendix A.1).

Convolutions are written as patches × matrix: XLA's CPU convolutions, and above all their
gradients, are several times slower than its matrix products, and a GPU likes both. The weights
are laid out for that product; tests prove the results equal to `eqx.nn.Conv2d` and
`eqx.nn.ConvTranspose2d`.
"""

import itertools
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, UInt8

LATENT = 32
FRAME_PIXELS = 64

# Frames are 64×64×3. The bottom eight rows are the dashboard; its bars, to the right of the
# score, are the only place where a single frame shows speed, and they cover few pixels.
DASHBOARD_ROW, BARS_COLUMN = 56, 8


def _uniform(key: PRNGKeyArray, shape: tuple[int, ...], fan_in: int) -> Float[Array, "..."]:
    bound = 1 / fan_in**0.5
    return jax.random.uniform(key, shape, minval=-bound, maxval=bound)


class Conv(eqx.Module):
    """4×4 convolution of stride 2, no padding.

    Two by two pixels become one of four times the channels, which leaves a 2×2 convolution of
    stride 1: four shifted views side by side, times a matrix.
    """

    weight: Float[Array, "16*inputs outputs"]
    bias: Float[Array, " outputs"]

    def __init__(self, inputs: int, outputs: int, *, key: PRNGKeyArray):
        weight_key, bias_key = jax.random.split(key)
        self.weight = _uniform(weight_key, (16 * inputs, outputs), 16 * inputs)
        self.bias = _uniform(bias_key, (outputs,), 16 * inputs)

    def __call__(self, x: Float[Array, "size size inputs"]) -> Float[Array, "half half outputs"]:
        """(n, n, inputs) -> ((n − 2) // 2, (n − 2) // 2, outputs)."""
        cells, channels = x.shape[0] // 2, x.shape[2]
        x = x[: 2 * cells, : 2 * cells].reshape(cells, 2, cells, 2, channels)
        x = x.transpose(0, 2, 1, 3, 4).reshape(cells, cells, 4 * channels)
        patches = jnp.concatenate([x[:-1, :-1], x[:-1, 1:], x[1:, :-1], x[1:, 1:]], axis=-1)
        return patches @ self.weight + self.bias


class ConvTranspose(eqx.Module):
    """k×k transposed convolution of stride 2, no padding.

    Output pixel 2i + p gets its share from the inputs i − j by the taps p + 2j, j < k/2. So all
    four phases p (two along each axis) are a convolution of stride 1 with (k/2)×(k/2) taps, and
    become four channels that are laid out as 2×2 pixels. An odd k is padded by a tap of zeros.
    """

    weight: Float[Array, "inputs kernel*kernel*outputs"]
    bias: Float[Array, " outputs"]
    kernel: int = eqx.field(static=True)

    def __init__(self, inputs: int, outputs: int, kernel: int, *, key: PRNGKeyArray):
        weight_key, bias_key = jax.random.split(key)
        fan_in = outputs * kernel * kernel  # as PyTorch and Equinox count it for transposed ones
        self.weight = _uniform(weight_key, (inputs, kernel * kernel * outputs), fan_in)
        self.bias = _uniform(bias_key, (outputs,), fan_in)
        self.kernel = kernel

    def __call__(self, x: Float[Array, "size size inputs"]) -> Float[Array, "large large outputs"]:
        """(n, n, inputs) -> (2n − 2 + k, 2n − 2 + k, outputs)."""
        n, k, taps = x.shape[0], self.kernel, (self.kernel + 1) // 2
        inputs, outputs = x.shape[2], self.bias.shape[0]
        if n == 1:  # a single pixel's patch is the whole output: nothing overlaps
            return (x @ self.weight).reshape(k, k, outputs) + self.bias
        weight = self.weight.reshape(inputs, k, k, outputs)
        weight = jnp.pad(weight, ((0, 0), (0, k % 2), (0, k % 2), (0, 0)))
        weight = weight.reshape(inputs, taps, 2, taps, 2, outputs).transpose(1, 3, 0, 2, 4, 5)
        weight = weight.reshape(taps * taps * inputs, 4 * outputs)
        cells = n + taps - 1
        x = jnp.pad(x, ((taps - 1, taps - 1), (taps - 1, taps - 1), (0, 0)))
        shifts = [range(taps - 1, -1, -1)] * 2
        patches = [x[a : a + cells, b : b + cells] for a, b in itertools.product(*shifts)]
        phases = (jnp.concatenate(patches, axis=-1) @ weight).reshape(cells, cells, 2, 2, outputs)
        image = phases.transpose(0, 2, 1, 3, 4).reshape(2 * cells, 2 * cells, outputs)
        size = 2 * n - 2 + k
        return image[:size, :size] + self.bias


class Linear(eqx.Module):
    """x @ weight + bias, the weight laid out (inputs, outputs) for batched products."""

    weight: Float[Array, "inputs outputs"]
    bias: Float[Array, " outputs"]

    def __init__(self, inputs: int, outputs: int, *, key: PRNGKeyArray):
        weight_key, bias_key = jax.random.split(key)
        self.weight = _uniform(weight_key, (inputs, outputs), inputs)
        self.bias = _uniform(bias_key, (outputs,), inputs)

    def __call__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch outputs"]:
        """(..., inputs) -> (..., outputs)."""
        return x @ self.weight + self.bias


class ConvVAE(eqx.Module):
    """64×64×3 frame <-> Gaussian over `latent` dimensions; 4,348,547 parameters at 32."""

    encoder: list[Conv]
    to_mu: Linear
    to_logvar: Linear
    from_latent: Linear
    decoder: list[ConvTranspose]

    def __init__(self, latent: int = LATENT, *, key: PRNGKeyArray):
        encoder_key, decoder_key, linear_key = jax.random.split(key, 3)
        widths = (3, 32, 64, 128, 256)
        keys = jax.random.split(encoder_key, 4)
        self.encoder = [
            Conv(a, b, key=k) for a, b, k in zip(widths, widths[1:], keys, strict=False)
        ]
        mu_key, logvar_key, from_key = jax.random.split(linear_key, 3)
        self.to_mu = Linear(1024, latent, key=mu_key)
        self.to_logvar = Linear(1024, latent, key=logvar_key)
        self.from_latent = Linear(latent, 1024, key=from_key)
        layers = ((1024, 128, 5), (128, 64, 5), (64, 32, 6), (32, 3, 6))
        keys = jax.random.split(decoder_key, 4)
        self.decoder = [ConvTranspose(*sizes, key=k) for sizes, k in zip(layers, keys, strict=True)]

    def encode(
        self, frame: UInt8[Array, "64 64 3"] | Float[Array, "64 64 3"]
    ) -> tuple[Float[Array, " latent"], Float[Array, " latent"]]:
        """Frame, uint8 0..255 or float 0..1 -> (mu, logvar) of q(z | frame)."""
        x = to_float(frame)
        for conv in self.encoder:
            x = jax.nn.relu(conv(x))
        x = x.reshape(-1)
        return self.to_mu(x), self.to_logvar(x)

    def decode(self, latent: Float[Array, " latent"]) -> Float[Array, "64 64 3"]:
        """Latent -> frame, float 0..1."""
        x = self.from_latent(latent).reshape(1, 1, -1)
        for layer in self.decoder[:-1]:
            x = jax.nn.relu(layer(x))
        return jax.nn.sigmoid(self.decoder[-1](x))


def to_float(frame: UInt8[Array, "*shape"] | Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """uint8 0..255 -> float32 0..1; floats pass as they are."""
    return frame.astype(jnp.float32) / 255 if frame.dtype == jnp.uint8 else frame


def sample_latent(
    mu: Float[Array, "*shape"], logvar: Float[Array, "*shape"], key: PRNGKeyArray
) -> Float[Array, "*shape"]:
    """z ~ N(mu, exp(logvar)), by the reparameterisation of Kingma & Welling 2014."""
    return mu + jnp.exp(logvar / 2) * jax.random.normal(key, mu.shape)


def kl_divergence(
    mu: Float[Array, " latent"], logvar: Float[Array, " latent"]
) -> Float[Array, " latent"]:
    """KL(N(mu, exp(logvar)) || N(0, 1)) of each dimension, in nats."""
    return (jnp.square(mu) + jnp.exp(logvar) - 1 - logvar) / 2


class LossWeights(NamedTuple):
    """What `vae_loss` weighs against each other."""

    # Of the KL: twice the variance by which the decoder forgives a pixel (Rybkin et al. 2021). At
    # 1, as in Ha's code, half of the latent says nothing about the road and is noise to M and C.
    kl: float
    free_bits: float  # nats of KL a latent dimension that cost nothing
    dashboard: float  # of the squared error of the dashboard's bars


class VAELoss(NamedTuple):
    """What `vae_loss` is made of, means over the batch."""

    total: Float[Array, ""]
    reconstruction: Float[Array, ""]  # weighted squared error, summed over a frame
    kl: Float[Array, ""]  # nats, summed over the latent, before free bits
    mse: Float[Array, ""]  # plain squared error of a pixel value in 0..1


def pixel_weights(dashboard_weight: float) -> Float[Array, "64 64 1"]:
    """Weight of each pixel's squared error: `dashboard_weight` on the dashboard's bars, else 1."""
    weights = jnp.ones((FRAME_PIXELS, FRAME_PIXELS, 1))
    return weights.at[DASHBOARD_ROW:, BARS_COLUMN:].set(dashboard_weight)


def vae_loss(
    vae: ConvVAE,
    frames: UInt8[Array, "batch 64 64 3"],
    key: PRNGKeyArray,
    weights: LossWeights,
) -> VAELoss:
    """Squared error + weighted KL, the latent's KL counted from some free nats a dimension.

    As in Ha's code: max(KL, free_bits · latent). Below it, V is free to say more about a frame.
    """
    x = to_float(frames)
    mu, logvar = jax.vmap(vae.encode)(x)
    y = jax.vmap(vae.decode)(sample_latent(mu, logvar, key))
    squared = jnp.square(x - y)
    reconstruction = (squared * pixel_weights(weights.dashboard)).sum((1, 2, 3)).mean()
    kl = jax.vmap(kl_divergence)(mu, logvar).sum(-1)
    limited = jnp.maximum(kl, weights.free_bits * mu.shape[-1]).mean()
    total = reconstruction + weights.kl * limited
    return VAELoss(total, reconstruction, kl.mean(), squared.mean())
