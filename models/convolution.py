"""Convolutions of stride 2 as matrix products.

XLA's CPU convolutions, and above all their gradients, are several times slower than its matrix
products, and a GPU likes both. `correlate` (large image to small) and `paint` (small to large)
are each other's transposes, so each is the other's gradient. Both take the kernel row by row: all
patches of an image at once would be many times the image, and moving them costs a CPU more than
the arithmetic. Left to derive gradients by itself, XLA also copies the patches transposed.

A kernel has the axes row, column, channels of the large image, channels of the small one.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from models.linear import outer_sum, product, uniform

Large = Float[Array, "*batch large large wide"]
Small = Float[Array, "*batch small small narrow"]
Kernel = Float[Array, "kernel kernel wide narrow"]


def _seen_by_rows(x: Large, kernel: int) -> list[Float[Array, "*batch small small patch"]]:
    """What each kernel row sees at each pixel of the small image: kernel × channels numbers."""
    small = (x.shape[-2] - kernel) // 2 + 1
    columns = jnp.stack([x[..., b : b + 2 * small - 1 : 2, :] for b in range(kernel)], axis=-2)
    columns = columns.reshape(*x.shape[:-2], small, -1)
    return [columns[..., a : a + 2 * small - 1 : 2, :, :] for a in range(kernel)]


def _add_at_stride(parts: list[Array], axis: int) -> Array:
    """Part number a (n along `axis`) is added at a, a + 2, a + 4, …: 2n − 2 + len(parts) in all.

    Even and odd places are summed apart, then laid side by side.
    """
    axis += parts[0].ndim
    n, most = parts[0].shape[axis], (len(parts) + 1) // 2

    def shifted(part: Array, by: int) -> Array:
        padding = [(0, 0)] * part.ndim
        padding[axis] = (by, most - 1 - by)
        return jnp.pad(part, padding)

    phases = [sum(shifted(part, by) for by, part in enumerate(parts[p::2])) for p in (0, 1)]
    whole = jnp.stack(phases, axis + 1)
    whole = whole.reshape(*whole.shape[:axis], -1, *whole.shape[axis + 2 :])
    return jax.lax.slice_in_dim(whole, 0, 2 * n - 2 + len(parts), axis=axis)


def _correlate(x: Large, kernel: Kernel) -> Small:
    size, narrow = kernel.shape[0], kernel.shape[-1]
    rows = zip(_seen_by_rows(x, size), kernel.reshape(size, -1, narrow), strict=True)
    return sum(seen @ row for seen, row in rows)


def _paint(y: Small, kernel: Kernel) -> Large:
    size, narrow = kernel.shape[0], kernel.shape[-1]
    x = _add_at_stride([y @ row.T for row in kernel.reshape(size, -1, narrow)], axis=-3)
    return _add_at_stride(jnp.split(x, size, axis=-1), axis=-2)


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
