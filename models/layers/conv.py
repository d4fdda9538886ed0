"""Convolutions of stride 2, as what a CPU does fast.

XLA's CPU convolutions of stride 2, and above all their gradients, are several times slower than its
matrix products, and a GPU likes both. `correlate` (large image to small) and `paint` (small to
large) are each other's transposes, so each is the other's gradient. Left to derive gradients by
itself, XLA copies the patches transposed.

`correlate` and what a kernel owes are matrix products, row by row of the kernel: all patches of an
image at once would be many times the image, and moving them costs a CPU more than the arithmetic.
`paint` is a convolution of stride 1 whose pixels are cells of 2×2 pixels of the large image.

A kernel has the axes row, column, channels of the large image, channels of the small one.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from models.layers.linear import outer_sum, product, uniform

Large = Float[Array, "*batch large large wide"]
Small = Float[Array, "*batch small small narrow"]
Kernel = Float[Array, "kernel kernel wide narrow"]

FEW = 16  # channels of a large image: its patches are no larger than other images' rows of them


def _seen_by_rows(x: Large, kernel: int) -> list[Float[Array, "*batch small small patch"]]:
    """What each kernel row sees at each pixel of the small image: kernel × channels numbers.

    Of a large image with few channels all rows together, in one patch: short products are slow.
    """
    small = (x.shape[-2] - kernel) // 2 + 1
    columns = jnp.stack([x[..., b : b + 2 * small - 1 : 2, :] for b in range(kernel)], axis=-2)
    columns = columns.reshape(*x.shape[:-2], small, -1)
    rows = [columns[..., a : a + 2 * small - 1 : 2, :, :] for a in range(kernel)]
    return rows if x.shape[-1] >= FEW else [jnp.concatenate(rows, axis=-1)]


def _to_cells(kernel: Kernel) -> Float[Array, "cells cells depth narrow"]:
    """A kernel over cells of 2×2 pixels, 4 · wide channels deep: pixel row, column, channel.

    One of odd size gets a last row and a last column of zeros.
    """
    size, _, wide, narrow = kernel.shape
    border = (0, size % 2)
    kernel = jnp.pad(kernel, (border, border, (0, 0), (0, 0)))
    n = len(kernel) // 2
    return kernel.reshape(n, 2, n, 2, wide, narrow).swapaxes(1, 2).reshape(n, n, -1, narrow)


def _to_pixels(cells: Float[Array, "*batch cells cells depth"]) -> Large:
    """An image of such cells, pixel by pixel."""
    *batch, n, _, depth = cells.shape
    pixels = cells.reshape(*batch, n, n, 2, 2, depth // 4).swapaxes(-4, -3)
    return pixels.reshape(*batch, 2 * n, 2 * n, depth // 4)


def _correlate(x: Large, kernel: Kernel) -> Small:
    seen = _seen_by_rows(x, len(kernel))
    rows = kernel.reshape(len(seen), -1, kernel.shape[-1])
    return sum(patch @ row for patch, row in zip(seen, rows, strict=True))


def _paint(y: Small, kernel: Kernel) -> Large:
    cells = _to_cells(kernel)[::-1, ::-1].swapaxes(2, 3)
    reach = len(cells) - 1
    painted = jax.lax.conv_general_dilated(
        y.reshape(-1, *y.shape[-3:]),
        cells,
        window_strides=(1, 1),
        padding=((reach, reach), (reach, reach)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    large = 2 * y.shape[-2] - 2 + len(kernel)
    painted = _to_pixels(painted.reshape(*y.shape[:-3], *painted.shape[1:]))
    return painted[..., :large, :large, :]


def _kernel_gradient(x: Large, y: Small, size: int) -> Kernel:
    """The gradient of the sum of `_correlate(x, kernel)` · y, and of x · `_paint(y, kernel)`."""
    rows = [outer_sum(seen, y) for seen in _seen_by_rows(x, size)]
    return jnp.stack(rows).reshape(size, size, x.shape[-1], y.shape[-1])


@jax.custom_vjp
def correlate(x: Large, kernel: Kernel) -> Small:
    """Convolution of stride 2 without padding: (n, n, wide) -> ((n − k) // 2 + 1, …, narrow).

    n − k must be even.
    """
    return _correlate(x, kernel)


@jax.custom_vjp
def paint(y: Small, kernel: Kernel) -> Large:
    """Transposed convolution of stride 2: (n, n, narrow) -> (2n − 2 + k, …, wide).

    Every small pixel paints its patch; overlapping paint adds up.
    """
    return _paint(y, kernel)


def _correlate_gradients(saved: tuple[Large, Kernel], dy: Small) -> tuple[Large, Kernel]:
    x, kernel = saved
    return _paint(dy, kernel), _kernel_gradient(x, dy, kernel.shape[0])


def _paint_gradients(saved: tuple[Small, Kernel], dx: Large) -> tuple[Small, Kernel]:
    y, kernel = saved
    return _correlate(dx, kernel), _kernel_gradient(dx, y, kernel.shape[0])


correlate.defvjp(lambda x, kernel: (_correlate(x, kernel), (x, kernel)), _correlate_gradients)
paint.defvjp(lambda y, kernel: (_paint(y, kernel), (y, kernel)), _paint_gradients)


class Conv(eqx.Module):
    """4×4 convolution of stride 2, no padding."""

    weight: Float[Array, "16*inputs outputs"]  # rows: cell y, x, pixel in the 2×2 cell y, x, input
    bias: Float[Array, " outputs"]

    def __init__(self, inputs: int, outputs: int, *, key: PRNGKeyArray):
        weight_key, bias_key = jax.random.split(key)
        self.weight = uniform(weight_key, (16 * inputs, outputs), 16 * inputs)
        self.bias = uniform(bias_key, (outputs,), 16 * inputs)

    def __call__(self, x: Large) -> Small:
        """(..., n, n, inputs) -> (..., (n − 2) // 2, (n − 2) // 2, outputs)."""
        inputs, even = x.shape[-1], x.shape[-2] // 2 * 2
        kernel = self.weight.reshape(2, 2, 2, 2, inputs, -1).transpose(0, 2, 1, 3, 4, 5)
        kernel = kernel.reshape(4, 4, inputs, -1)
        return correlate(x[..., :even, :even, :], kernel) + self.bias


class ConvTranspose(eqx.Module):
    """k×k transposed convolution of stride 2, no padding."""

    weight: Float[Array, "inputs kernel*kernel*outputs"]
    bias: Float[Array, " outputs"]
    kernel: int = eqx.field(static=True)

    def __init__(self, inputs: int, outputs: int, kernel: int, *, key: PRNGKeyArray):
        weight_key, bias_key = jax.random.split(key)
        fan_in = outputs * kernel * kernel  # as PyTorch and Equinox count it for transposed ones
        self.weight = uniform(weight_key, (inputs, kernel * kernel * outputs), fan_in)
        self.bias = uniform(bias_key, (outputs,), fan_in)
        self.kernel = kernel

    def __call__(self, x: Small) -> Large:
        """(..., n, n, inputs) -> (..., 2n − 2 + k, 2n − 2 + k, outputs)."""
        k, outputs = self.kernel, self.bias.shape[0]
        if x.shape[-2] == 1:  # a single pixel's patch is the whole output: nothing overlaps
            patch = product(x, self.weight).reshape(*x.shape[:-3], k, k, outputs)
            return patch + self.bias
        kernel = self.weight.reshape(-1, k, k, outputs).transpose(1, 2, 3, 0)
        return paint(x, kernel) + self.bias
