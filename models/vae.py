"""V: the convolutional variational autoencoder (Ha & Schmidhuber 2018, appendix A.1)."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, UInt8

from models.layers.conv import Conv, ConvTranspose
from models.layers.linear import Linear

LATENT = 32
FRAME_PIXELS = 64

# The bottom eight rows of a frame are the dashboard. Its bars, to the right of the score, are the
# only place where a single frame shows speed, and they cover few pixels.
DASHBOARD_ROW, BARS_COLUMN = 56, 8


class ConvVAE(eqx.Module):
    """Encodes a 64×64×3 frame as a Gaussian over the latent z and decodes z to a frame.

    4,348,547 parameters with 32 latent dimensions.
    """

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
        self, frame: UInt8[Array, "*batch 64 64 3"] | Float[Array, "*batch 64 64 3"]
    ) -> tuple[Float[Array, "*batch latent"], Float[Array, "*batch latent"]]:
        """Frame, uint8 0..255 or float 0..1 -> (mu, logvar) of q(z | frame)."""
        x = to_float(frame)
        for conv in self.encoder:
            x = jax.nn.relu(conv(x))
        x = x.reshape(*x.shape[:-3], -1)
        return self.to_mu(x), self.to_logvar(x)

    def decode(self, latent: Float[Array, "*batch latent"]) -> Float[Array, "*batch 64 64 3"]:
        """z -> frame, float 0..1."""
        x = self.from_latent(latent)[..., None, None, :]
        for layer in self.decoder[:-1]:
            x = jax.nn.relu(layer(x))
        return jax.nn.sigmoid(self.decoder[-1](x))


def to_float(frame: UInt8[Array, "*shape"] | Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """uint8 0..255 -> float32 0..1; floats are returned unchanged."""
    return frame.astype(jnp.float32) / 255 if frame.dtype == jnp.uint8 else frame


def sample_latent(
    mu: Float[Array, "*shape"], logvar: Float[Array, "*shape"], key: PRNGKeyArray
) -> Float[Array, "*shape"]:
    """z ~ N(mu, exp(logvar)), by the reparameterisation of Kingma & Welling 2014."""
    return mu + jnp.exp(logvar / 2) * jax.random.normal(key, mu.shape, mu.dtype)


def kl_divergence(
    mu: Float[Array, " latent"], logvar: Float[Array, " latent"]
) -> Float[Array, " latent"]:
    """KL(N(mu, exp(logvar)) || N(0, 1)) of each dimension, in nats."""
    return (jnp.square(mu) + jnp.exp(logvar) - 1 - logvar) / 2


class LossWeights(NamedTuple):
    """Weights of the terms of `vae_loss`."""

    # Of the KL: twice the variance of the decoder's Gaussian (Rybkin et al. 2021). At 1, as in Ha's
    # code, half of the latent dimensions carry no information and are noise to M and C.
    kl: float
    free_bits: float  # nats of KL per latent dimension that are not penalised
    dashboard: float  # of the dashboard bars' squared error


class VAELoss(NamedTuple):
    """The terms of `vae_loss`, means over the batch."""

    total: Float[Array, ""]
    reconstruction: Float[Array, ""]  # weighted squared error, summed over the frame
    kl: Float[Array, ""]  # nats per frame, without free bits
    mse: Float[Array, ""]  # unweighted, per pixel value in 0..1


def pixel_weights(dashboard_weight: float) -> Float[Array, "64 64 1"]:
    """Weight of each pixel's squared error: `dashboard_weight` on the dashboard bars, else 1."""
    weights = jnp.ones((FRAME_PIXELS, FRAME_PIXELS, 1))
    return weights.at[DASHBOARD_ROW:, BARS_COLUMN:].set(dashboard_weight)


def vae_loss(
    vae: ConvVAE,
    frames: UInt8[Array, "batch 64 64 3"],
    key: PRNGKeyArray,
    weights: LossWeights,
) -> VAELoss:
    """Squared error + weights.kl · max(KL, free_bits · latent), as in Ha's code.

    The KL of a frame is free up to `free_bits` nats per latent dimension (Kingma et al. 2016).
    """
    x = to_float(frames)
    mu, logvar = vae.encode(x)
    y = vae.decode(sample_latent(mu, logvar, key))
    squared = jnp.square(x - y)
    reconstruction = (squared * pixel_weights(weights.dashboard)).sum((1, 2, 3)).mean()
    kl = jax.vmap(kl_divergence)(mu, logvar).sum(-1)
    penalised = jnp.maximum(kl, weights.free_bits * mu.shape[-1]).mean()
    total = reconstruction + weights.kl * penalised
    return VAELoss(total, reconstruction, kl.mean(), squared.mean())
