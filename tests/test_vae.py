"""V against independent implementations: eqx.nn's convolutions, KL worked by hand."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.vae import Conv, ConvTranspose, ConvVAE, kl_divergence, pixel_weights, vae_loss


@pytest.mark.parametrize(("size", "inputs", "outputs"), [(64, 3, 32), (31, 4, 5), (6, 128, 8)])
def test_conv_equals_equinox(size: int, inputs: int, outputs: int) -> None:
    ours = Conv(inputs, outputs, key=jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (size, size, inputs))
    reference = eqx.nn.Conv2d(inputs, outputs, 4, stride=2, key=jax.random.key(2))
    # Rows of our matrix: which 2×2 cell, which pixel in the cell, which channel.
    weight = ours.weight.reshape(2, 2, 2, 2, inputs, outputs)  # cell y, x, pixel y, x, in, out
    weight = weight.transpose(5, 4, 0, 2, 1, 3).reshape(outputs, inputs, 4, 4)
    reference = eqx.tree_at(
        lambda conv: (conv.weight, conv.bias), reference, (weight, ours.bias[:, None, None])
    )
    expected = reference(x.transpose(2, 0, 1)).transpose(1, 2, 0)
    np.testing.assert_allclose(ours(x), expected, atol=2e-5)


@pytest.mark.parametrize(
    ("size", "inputs", "outputs", "kernel"),
    [(1, 16, 8, 5), (5, 8, 4, 5), (13, 4, 3, 6), (30, 3, 3, 6)],
)
def test_transposed_conv_equals_equinox(size: int, inputs: int, outputs: int, kernel: int) -> None:
    ours = ConvTranspose(inputs, outputs, kernel, key=jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (size, size, inputs))
    reference = eqx.nn.ConvTranspose2d(inputs, outputs, kernel, stride=2, key=jax.random.key(2))
    weight = ours.weight.reshape(inputs, kernel, kernel, outputs).transpose(3, 0, 1, 2)
    # Equinox correlates the dilated input with its weight, hence the flip.
    weight = weight[:, :, ::-1, ::-1]
    reference = eqx.tree_at(
        lambda conv: (conv.weight, conv.bias), reference, (weight, ours.bias[:, None, None])
    )
    expected = reference(x.transpose(2, 0, 1)).transpose(1, 2, 0)
    np.testing.assert_allclose(ours(x), expected, atol=2e-5)
    # And the definition itself, by NumPy: every input pixel paints its patch.
    painted = np.zeros((2 * size - 2 + kernel, 2 * size - 2 + kernel, outputs))
    taps = np.asarray(ours.weight, np.float64).reshape(inputs, kernel, kernel, outputs)
    for i in range(size):
        for j in range(size):
            patch = np.einsum("c,cyxo->yxo", np.asarray(x[i, j], np.float64), taps)
            painted[2 * i : 2 * i + kernel, 2 * j : 2 * j + kernel] += patch
    np.testing.assert_allclose(ours(x), painted + np.asarray(ours.bias), atol=2e-5)


def test_size_is_the_papers() -> None:
    vae = ConvVAE(key=jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(vae)) == 4_348_547
    frame = jnp.zeros((64, 64, 3), jnp.uint8)
    mu, logvar = vae.encode(frame)
    assert mu.shape == logvar.shape == (32,)
    decoded = vae.decode(mu)
    assert decoded.shape == (64, 64, 3)
    assert float(decoded.min()) > 0 and float(decoded.max()) < 1


def test_kl_by_hand() -> None:
    # KL(N(m, s²) || N(0, 1)) = −ln s + (s² + m²)/2 − 1/2: for m = 1, s = 2: −ln 2 + 2.
    mu, logvar = jnp.array([1.0, 0.0]), jnp.array([2 * np.log(2.0), 0.0], jnp.float32)
    np.testing.assert_allclose(kl_divergence(mu, logvar), [2 - np.log(2.0), 0.0], atol=1e-6)


def test_loss_by_hand() -> None:
    vae = ConvVAE(key=jax.random.key(0))
    frames = jax.random.randint(jax.random.key(1), (3, 64, 64, 3), 0, 256).astype(jnp.uint8)
    # logvar → −∞ makes the sample equal mu, so that NumPy can follow without our random key.
    vae = eqx.tree_at(
        lambda v: (v.to_logvar.weight, v.to_logvar.bias),
        vae,
        (jnp.zeros((1024, 32)), jnp.full(32, -40.0)),
    )
    mu = np.stack([np.asarray(vae.encode(frame)[0], np.float64) for frame in frames])
    decoded = np.stack([np.asarray(vae.decode(jnp.asarray(m, jnp.float32))) for m in mu])
    squared = (np.asarray(frames) / 255.0 - decoded) ** 2
    weights = np.ones((64, 64, 1))
    weights[56:, 8:] = 9.0
    np.testing.assert_array_equal(pixel_weights(9.0), weights)
    kl = ((mu**2 + np.exp(-40.0) - 1 + 40.0) / 2).sum(1)
    loss = vae_loss(vae, frames, jax.random.key(2), free_bits=0.5, dashboard_weight=9.0)
    np.testing.assert_allclose(
        loss.reconstruction, (squared * weights).sum((1, 2, 3)).mean(), rtol=1e-4
    )
    np.testing.assert_allclose(loss.kl, kl.mean(), rtol=1e-4)
    np.testing.assert_allclose(loss.mse, squared.mean(), rtol=1e-4)
    np.testing.assert_allclose(loss.total, loss.reconstruction + kl.mean(), rtol=1e-5)


def test_free_bits_are_free() -> None:
    vae = ConvVAE(key=jax.random.key(0))
    frames = jnp.zeros((2, 64, 64, 3), jnp.uint8)
    loss = vae_loss(vae, frames, jax.random.key(1), free_bits=100.0, dashboard_weight=1.0)
    np.testing.assert_allclose(loss.total - loss.reconstruction, 3200.0, rtol=1e-4)
