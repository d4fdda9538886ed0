"""Convolutions of stride 2, each in the form that is fast on a CPU.

`conv2d` and `conv_transpose2d` are each other's transpose, so each is the other's gradient with
respect to its input. Both have explicit gradients, because the ones XLA derives are slower on a
CPU.

`conv_transpose2d` is a stride-1 convolution that outputs cells of 2×2 pixels. Since JAX 0.12,
`conv2d`, the kernel's gradient and `conv_transpose2d` with an odd kernel are XLA's own strided
convolutions. Before, those use one core, so the first two are one matrix product per row of the
kernel. Extracting the patches of all rows at once would multiply the image's size, and moving that
memory costs a CPU more than the arithmetic.

Axes of a kernel: row, column, channels of the large image, channels of the small image.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from models.layers.linear import matmul, uniform, weight_grad

# The image before downsampling (`large`, C channels) and after it (`small`, D channels).
LargeImage = Float[Array, "*batch large large C"]
SmallImage = Float[Array, "*batch small small D"]
Kernel = Float[Array, "kernel kernel C D"]

STRIDED = jax.__version_info__ >= (0, 12)  # whether XLA's strided convolutions are the faster ones

# Below this many channels, the patches of all kernel rows form one matrix: a product with a very
# short inner axis is slow, and the patches of so few channels are small.
MIN_CHANNELS_PER_ROW = 16


def _patches_by_row(x: LargeImage, kernel: int) -> list[Float[Array, "*batch small small patch"]]:
    """For each kernel row, its patch at every output pixel, kernel · C numbers.

    With fewer than `MIN_CHANNELS_PER_ROW` channels: one array with the patches of all rows.
    """
    small = (x.shape[-2] - kernel) // 2 + 1
    columns = jnp.stack([x[..., b : b + 2 * small - 1 : 2, :] for b in range(kernel)], axis=-2)
    columns = columns.reshape(*x.shape[:-2], small, -1)
    rows = [columns[..., a : a + 2 * small - 1 : 2, :, :] for a in range(kernel)]
    return rows if x.shape[-1] >= MIN_CHANNELS_PER_ROW else [jnp.concatenate(rows, axis=-1)]


def _kernel_to_cells(kernel: Kernel) -> Float[Array, "cells cells 4*C D"]:
    """Group a kernel's pixels into cells of 2×2; the cell axis is (row, column, channel).

    A kernel of odd size is padded with a last row and a last column of zeros.
    """
    size, _, large_channels, small_channels = kernel.shape
    border = (0, size % 2)
    kernel = jnp.pad(kernel, (border, border, (0, 0), (0, 0)))
    n = len(kernel) // 2
    cells = kernel.reshape(n, 2, n, 2, large_channels, small_channels).swapaxes(1, 2)
    return cells.reshape(n, n, -1, small_channels)


def _cells_to_pixels(cells: Float[Array, "*batch cells cells depth"]) -> LargeImage:
    """Lay out cells of 2×2 pixels as an image (depth to space)."""
    *batch, n, _, depth = cells.shape
    pixels = cells.reshape(*batch, n, n, 2, 2, depth // 4).swapaxes(-4, -3)
    return pixels.reshape(*batch, 2 * n, 2 * n, depth // 4)


def _convolve(
    x: Float[Array, "*batch size size inputs"],
    kernel: Float[Array, "kernel kernel inputs outputs"],
    stride: int = 1,
    dilation: int = 1,
    padding: int = 0,
) -> Float[Array, "*batch out out outputs"]:
    """XLA's convolution. `dilation` puts so many steps between two pixels of x."""
    out = jax.lax.conv_general_dilated(
        x.reshape(-1, *x.shape[-3:]),
        kernel,
        window_strides=(stride, stride),
        padding=((padding, padding), (padding, padding)),
        lhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return out.reshape(*x.shape[:-3], *out.shape[1:])


def _conv2d(x: LargeImage, kernel: Kernel) -> SmallImage:
    if STRIDED:
        return _convolve(x, kernel, stride=2)
    patches = _patches_by_row(x, len(kernel))
    rows = kernel.reshape(len(patches), -1, kernel.shape[-1])
    total: Any = sum(patch @ row for patch, row in zip(patches, rows, strict=True))
    return total


def _conv_transpose2d(y: SmallImage, kernel: Kernel) -> LargeImage:
    if STRIDED and len(kernel) % 2:  # cells of an odd kernel would have a border of zeros
        flipped = kernel[::-1, ::-1].swapaxes(2, 3)
        return _convolve(y, flipped, dilation=2, padding=len(kernel) - 1)
    cells = _kernel_to_cells(kernel)[::-1, ::-1].swapaxes(2, 3)
    out = _cells_to_pixels(_convolve(y, cells, padding=len(cells) - 1))
    large = 2 * y.shape[-2] - 2 + len(kernel)
    return out[..., :large, :large, :]


def _kernel_grad(x: LargeImage, y: SmallImage, size: int) -> Kernel:
    """∂/∂kernel of Σ conv2d(x, kernel) · y, which equals that of Σ x · conv_transpose2d(y, kernel).

    For `conv2d`, y is the gradient of its output; for `conv_transpose2d`, x is.
    """
    if STRIDED:
        kernel = jax.ShapeDtypeStruct((size, size, x.shape[-1], y.shape[-1]), x.dtype)
        return jax.linear_transpose(lambda kernel: _conv2d(x, kernel), kernel)(y)[0]
    rows = [weight_grad(patches, y) for patches in _patches_by_row(x, size)]
    return jnp.stack(rows).reshape(size, size, x.shape[-1], y.shape[-1])


@jax.custom_vjp
def conv2d(x: LargeImage, kernel: Kernel) -> SmallImage:
    """Convolution of stride 2 without padding: (..., n, n, C) -> (..., m, m, D).

    m = (n − k) // 2 + 1 for a k×k kernel; n − k must be even.
    """
    return _conv2d(x, kernel)


@jax.custom_vjp
def conv_transpose2d(y: SmallImage, kernel: Kernel) -> LargeImage:
    """Transposed convolution of stride 2 without padding: (..., m, m, D) -> (..., n, n, C).

    n = 2m − 2 + k for a k×k kernel. Overlapping patches add up.
    """
    return _conv_transpose2d(y, kernel)


def _conv2d_grads(saved: tuple[LargeImage, Kernel], dy: SmallImage) -> tuple[LargeImage, Kernel]:
    x, kernel = saved
    return _conv_transpose2d(dy, kernel), _kernel_grad(x, dy, kernel.shape[0])


def _conv_transpose2d_grads(
    saved: tuple[SmallImage, Kernel], dx: LargeImage
) -> tuple[SmallImage, Kernel]:
    y, kernel = saved
    return _conv2d(dx, kernel), _kernel_grad(dx, y, kernel.shape[0])


conv2d.defvjp(lambda x, kernel: (_conv2d(x, kernel), (x, kernel)), _conv2d_grads)
conv_transpose2d.defvjp(
    lambda y, kernel: (_conv_transpose2d(y, kernel), (y, kernel)), _conv_transpose2d_grads
)


class Conv(eqx.Module):
    """4×4 convolution of stride 2 without padding."""

    weight: Float[Array, "patch outputs"]  # rows: cell y, cell x, pixel y, pixel x, channel
    bias: Float[Array, " outputs"]

    def __init__(self, inputs: int, outputs: int, *, key: PRNGKeyArray):
        weight_key, bias_key = jax.random.split(key)
        self.weight = uniform(weight_key, (16 * inputs, outputs), 16 * inputs)
        self.bias = uniform(bias_key, (outputs,), 16 * inputs)

    def __call__(self, x: LargeImage) -> SmallImage:
        """(..., n, n, inputs) -> (..., m, m, outputs) with m = (n − 2) // 2."""
        inputs, even = x.shape[-1], x.shape[-2] // 2 * 2
        kernel = self.weight.reshape(2, 2, 2, 2, inputs, -1).transpose(0, 2, 1, 3, 4, 5)
        kernel = kernel.reshape(4, 4, inputs, -1)
        return conv2d(x[..., :even, :even, :], kernel) + self.bias


class ConvTranspose(eqx.Module):
    """k×k transposed convolution of stride 2 without padding."""

    weight: Float[Array, "inputs patch"]  # columns: y, x, output channel
    bias: Float[Array, " outputs"]
    kernel: int = eqx.field(static=True)

    def __init__(self, inputs: int, outputs: int, kernel: int, *, key: PRNGKeyArray):
        weight_key, bias_key = jax.random.split(key)
        # PyTorch and Equinox count the fan-in of a transposed convolution by its outputs.
        fan_in = outputs * kernel * kernel
        self.weight = uniform(weight_key, (inputs, kernel * kernel * outputs), fan_in)
        self.bias = uniform(bias_key, (outputs,), fan_in)
        self.kernel = kernel

    def __call__(self, x: SmallImage) -> LargeImage:
        """(..., m, m, inputs) -> (..., n, n, outputs) with n = 2m − 2 + k."""
        k, outputs = self.kernel, self.bias.shape[0]
        if x.shape[-2] == 1:  # one input pixel: its patch is the whole output, nothing overlaps
            patch = matmul(x, self.weight).reshape(*x.shape[:-3], k, k, outputs)
            return patch + self.bias
        kernel = self.weight.reshape(-1, k, k, outputs).transpose(1, 2, 3, 0)
        return conv_transpose2d(x, kernel) + self.bias
