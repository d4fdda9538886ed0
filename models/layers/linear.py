"""Matrix products with a fast weight gradient, and the linear layer built on them."""

import math

import equinox as eqx
import jax
from jaxtyping import Array, Float, PRNGKeyArray

SMALLEST_DRAW = 4096  # numbers; the larger draws of `uniform` are 4, 16, 64, ... times as many


def uniform(key: PRNGKeyArray, shape: tuple[int, ...], fan_in: int) -> Float[Array, "..."]:
    """U(±1 / √fan_in), the default initialisation of PyTorch and Equinox.

    These are the numbers that `jax.random.uniform` gives for this shape, since each depends on the
    key and its position only. It takes 0.3 s to compile for one shape; V has 16 shapes, of 5 sizes.
    """
    bound, count, size = 1 / fan_in**0.5, math.prod(shape), SMALLEST_DRAW
    while size < count:
        size *= 4
    drawn = jax.random.uniform(key, (size,), minval=-bound, maxval=bound)
    return drawn[:count].reshape(shape)


def weight_grad(
    x: Float[Array, "*batch inputs"], dy: Float[Array, "*batch outputs"]
) -> Float[Array, "inputs outputs"]:
    """Σ x dyᵀ over the batch: the gradient of W in y = x W, given dy.

    XLA's CPU backend copies the left operand of such a product transposed, so the smaller one
    goes left.
    """
    x, dy = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])
    return x.T @ dy if x.shape[1] < dy.shape[1] else (dy.T @ x).T


@jax.custom_vjp
def matmul(
    x: Float[Array, "*batch inputs"], weight: Float[Array, "inputs outputs"]
) -> Float[Array, "*batch outputs"]:
    """x @ weight; its gradient with respect to `weight` is `weight_grad`."""
    return x @ weight


matmul.defvjp(
    lambda x, weight: (x @ weight, (x, weight)),
    lambda saved, dy: (dy @ saved[1].T, weight_grad(saved[0], dy)),
)


class Linear(eqx.Module):
    """x @ weight + bias. The weight has shape (inputs, outputs), unlike `eqx.nn.Linear`'s."""

    weight: Float[Array, "inputs outputs"]
    bias: Float[Array, " outputs"]

    def __init__(self, inputs: int, outputs: int, *, key: PRNGKeyArray):
        weight_key, bias_key = jax.random.split(key)
        self.weight = uniform(weight_key, (inputs, outputs), inputs)
        self.bias = uniform(bias_key, (outputs,), inputs)

    def __call__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch outputs"]:
        """(..., inputs) -> (..., outputs)."""
        return matmul(x, self.weight) + self.bias
