"""V against independent implementations: eqx.nn's convolutions, and the KL by hand."""

from collections.abc import Callable
from functools import partial

import equinox as eqx
import jax
import numpy as np
import pytest
from jaxtyping import Array
from oracles import random_model

from models.layers import conv
from models.layers.conv import conv2d, conv_transpose2d
from models.layers.linear import uniform
from models.vae import (
    Conv,
    ConvTranspose,
    ConvVAE,
    LossWeights,
    VAELoss,
    kl_divergence,
    pixel_weights,
    sample_latent,
    vae_loss,
)

FRAMES = 3  # in every batch here, so that each function is compiled once

# Compiled as a whole, which is faster than compiling each operation.
encode = eqx.filter_jit(lambda vae, frames: jax.vmap(vae.encode)(frames))
decode = eqx.filter_jit(lambda vae, latents: jax.vmap(vae.decode)(latents))


@eqx.filter_jit
def losses(vae: ConvVAE, frames: Array, key: Array) -> tuple[VAELoss, VAELoss]:
    """Losses with weighted KL, free bits and dashboard bars, and with 100 free nats."""
    usual, free = LossWeights(0.25, 0.5, dashboard=9.0), LossWeights(1.0, 100.0, dashboard=1.0)
    return vae_loss(vae, frames, key, usual), vae_loss(vae, frames, key, free)


@eqx.filter_jit
def both(ours: Conv | ConvTranspose, reference: eqx.Module, x: Array) -> tuple[Array, Array]:
    """Outputs of both layers for one image. eqx.nn has the channels first."""
    return ours(x), reference(x.transpose(2, 0, 1)).transpose(1, 2, 0)


def pixels(size: int, channels: int) -> np.ndarray:
    return np.random.default_rng(2).standard_normal((size, size, channels)).astype(np.float32)


@pytest.fixture(scope="module")
def vae() -> ConvVAE:
    return random_model(lambda: ConvVAE(key=jax.random.key(0)), seed=0)


@pytest.mark.parametrize("shape", [(3,), (64, 64), (5, 7, 150)])
def test_weights_are_drawn_as_by_jax(shape: tuple[int, ...]) -> None:
    key, bound = jax.random.key(3), 1 / 3
    expected = jax.random.uniform(key, shape, minval=-bound, maxval=bound)
    np.testing.assert_array_equal(uniform(key, shape, fan_in=9), expected)


@pytest.fixture(params=[False, True], ids=["products", "strided"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both forms of the convolutions; each version of JAX has its own."""
    monkeypatch.setattr(conv, "STRIDED", request.param)
    jax.clear_caches()  # the other form may be compiled already


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize(("size", "inputs", "outputs"), [(64, 3, 32), (31, 4, 5), (6, 128, 8)])
def test_conv_equals_equinox(size: int, inputs: int, outputs: int) -> None:
    key = jax.random.key(0)
    ours = random_model(lambda: Conv(inputs, outputs, key=key), seed=0)
    reference = random_model(lambda: eqx.nn.Conv2d(inputs, outputs, 4, stride=2, key=key), seed=1)
    # Rows of our matrix: which 2×2 cell, which pixel in the cell, which channel.
    weight = ours.weight.reshape(2, 2, 2, 2, inputs, outputs)  # cell y, x, pixel y, x, in, out
    weight = weight.transpose(5, 4, 0, 2, 1, 3).reshape(outputs, inputs, 4, 4)
    reference = eqx.tree_at(
        lambda layer: (layer.weight, layer.bias), reference, (weight, ours.bias[:, None, None])
    )
    actual, expected = both(ours, reference, pixels(size, inputs))
    np.testing.assert_allclose(actual, expected, atol=2e-5)


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize(
    ("size", "inputs", "outputs", "kernel"),
    [(1, 16, 8, 5), (5, 8, 4, 5), (13, 4, 3, 6), (30, 3, 3, 6)],
)
def test_transposed_conv_equals_equinox(size: int, inputs: int, outputs: int, kernel: int) -> None:
    key = jax.random.key(0)
    ours = random_model(lambda: ConvTranspose(inputs, outputs, kernel, key=key), seed=0)
    reference = random_model(
        lambda: eqx.nn.ConvTranspose2d(inputs, outputs, kernel, stride=2, key=key), seed=1
    )
    weight = ours.weight.reshape(inputs, kernel, kernel, outputs).transpose(3, 0, 1, 2)
    # Equinox correlates the dilated input with its weight, hence the flip.
    weight = weight[:, :, ::-1, ::-1]
    reference = eqx.tree_at(
        lambda layer: (layer.weight, layer.bias), reference, (weight, ours.bias[:, None, None])
    )
    x = pixels(size, inputs)
    actual, expected = both(ours, reference, x)
    np.testing.assert_allclose(actual, expected, atol=2e-5)
    # And by definition, in NumPy: every input pixel adds its patch to the output.
    painted = np.zeros((2 * size - 2 + kernel, 2 * size - 2 + kernel, outputs))
    taps = ours.weight.astype(np.float64).reshape(inputs, kernel, kernel, outputs)
    patches = np.einsum("ijc,cyxo->ijyxo", x.astype(np.float64), taps)
    for i in range(size):
        for j in range(size):
            painted[2 * i : 2 * i + kernel, 2 * j : 2 * j + kernel] += patches[i, j]
    np.testing.assert_allclose(actual, painted + ours.bias, atol=2e-5)


@eqx.filter_jit
def gradients(function: Callable, image: Array, kernel: Array, weights: Array) -> tuple:
    """Gradients of a weighted sum of `function`'s output: of the image and of the kernel."""
    return jax.grad(lambda *x: (function(*x) * weights).sum(), (0, 1))(image, kernel)


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize(("size", "kernel", "wide"), [(10, 4, 3), (10, 4, 20), (13, 5, 18)])
def test_gradients_equal_those_that_jax_derives(size: int, kernel: int, wide: int) -> None:
    def reference(x: Array, kernel: Array) -> Array:
        return jax.lax.conv_general_dilated(
            x, kernel, (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    random, small, narrow = np.random.default_rng(3), (size - kernel) // 2 + 1, 5
    x, y, taps = (
        random.standard_normal(shape).astype(np.float32)
        for shape in (
            (FRAMES, size, size, wide),
            (FRAMES, small, small, narrow),
            (kernel, kernel, wide, narrow),
        )
    )
    expected = gradients(reference, x, taps, y)
    actual = gradients(conv2d, x, taps, y)
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-4), actual, expected)
    # conv_transpose2d is the transpose: x and y swap, the kernel's gradient is the same.
    from_image, from_kernel = gradients(conv_transpose2d, y, taps, x)
    np.testing.assert_allclose(from_image, reference(x, taps), atol=1e-4)
    np.testing.assert_allclose(from_kernel, expected[1], atol=1e-4)


def test_the_number_of_parameters_is_the_papers(vae: ConvVAE) -> None:
    assert sum(leaf.size for leaf in jax.tree.leaves(vae)) == 4_348_547
    frames = np.zeros((FRAMES, 64, 64, 3), np.uint8)
    mu, logvar = encode(vae, frames)
    assert mu.shape == logvar.shape == (FRAMES, 32)
    decoded = decode(vae, mu)
    assert decoded.shape == (FRAMES, 64, 64, 3)
    assert float(decoded.min()) > 0 and float(decoded.max()) < 1


def test_uint8_and_float_frames_give_the_same_latent(vae: ConvVAE) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (FRAMES, 64, 64, 3)).astype(np.uint8)
    as_bytes, as_fractions = encode(vae, frames), encode(vae, (frames / 255).astype(np.float32))
    np.testing.assert_allclose(as_bytes, as_fractions, atol=1e-6)


def test_kl_by_hand() -> None:
    # KL(N(m, s²) || N(0, 1)) = −ln s + (s² + m²)/2 − 1/2: for m = 1, s = 2: −ln 2 + 2.
    mu, logvar = np.array([1, 0], np.float32), np.array([2 * np.log(2), 0], np.float32)
    np.testing.assert_allclose(
        jax.jit(kl_divergence)(mu, logvar), [2 - np.log(2.0), 0.0], atol=1e-6
    )


def test_latent_samples_have_the_given_mean_and_variance() -> None:
    mu, logvar = np.array([1.5, -2.0], np.float32), np.log(np.array([0.25, 9.0], np.float32))
    keys = jax.random.split(jax.random.key(0), 100_000)
    samples = np.asarray(jax.jit(jax.vmap(sample_latent, (None, None, 0)))(mu, logvar, keys))
    np.testing.assert_allclose(samples.mean(0), mu, atol=5 * 3 / 100_000**0.5)
    np.testing.assert_allclose(samples.std(0), [0.5, 3.0], rtol=0.02)
    assert abs(np.corrcoef(samples.T)[0, 1]) < 0.02  # the noise is independent per dimension


def test_loss_by_hand(vae: ConvVAE) -> None:
    frames = np.random.default_rng(1).integers(0, 256, (FRAMES, 64, 64, 3)).astype(np.uint8)
    # logvar → −∞ makes the sample equal mu, so that NumPy needs no random key.
    vae = eqx.tree_at(
        lambda v: (v.to_logvar.weight, v.to_logvar.bias),
        vae,
        (np.zeros((1024, 32), np.float32), np.full(32, -40, np.float32)),
    )
    mu = encode(vae, frames)[0]
    decoded = np.asarray(decode(vae, mu))
    squared = (frames / 255.0 - decoded) ** 2
    weights = np.ones((64, 64, 1))
    weights[56:, 8:] = 9.0
    np.testing.assert_array_equal(pixel_weights(9.0), weights)
    kl = ((np.asarray(mu, np.float64) ** 2 + np.exp(-40.0) - 1 + 40.0) / 2).sum(1)
    loss, _ = losses(vae, frames, jax.random.key(2))
    np.testing.assert_allclose(
        loss.reconstruction, (squared * weights).sum((1, 2, 3)).mean(), rtol=1e-4
    )
    np.testing.assert_allclose(loss.kl, kl.mean(), rtol=1e-4)
    np.testing.assert_allclose(loss.mse, squared.mean(), rtol=1e-4)
    np.testing.assert_allclose(loss.total, loss.reconstruction + kl.mean() / 4, rtol=1e-5)


def test_kl_below_the_free_bits_is_not_penalised(vae: ConvVAE) -> None:
    frames = np.zeros((FRAMES, 64, 64, 3), np.uint8)
    _, loss = losses(vae, frames, jax.random.key(1))
    assert float(loss.kl) < 3200
    np.testing.assert_allclose(loss.total - loss.reconstruction, 3200.0, rtol=1e-4)


def test_initial_weights_are_uniform_within_their_fan_in() -> None:
    # U(±1 / √fan-in) as in PyTorch and Equinox; its standard deviation is the bound / √3.
    layer = jax.jit(lambda key: Conv(3, 64, key=key))(jax.random.key(0))
    bound = 1 / 48**0.5
    for leaf in (layer.weight, layer.bias):
        assert float(abs(leaf).max()) <= bound
        np.testing.assert_allclose(np.std(leaf), bound / 3**0.5, rtol=0.15)
