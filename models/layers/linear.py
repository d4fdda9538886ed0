"""Matrix products with weights, and how weights begin."""

import equinox as eqx
import jax
from jaxtyping import Array, Float, PRNGKeyArray


def uniform(key: PRNGKeyArray, shape: tuple[int, ...], fan_in: int) -> Float[Array, "..."]:
    """U(±1 / √fan-in), as layers of PyTorch and Equinox begin."""
    bound = 1 / fan_in**0.5
    return jax.random.uniform(key, shape, minval=-bound, maxval=bound)


def outer_sum(
    x: Float[Array, "*batch inputs"], y: Float[Array, "*batch outputs"]
) -> Float[Array, "inputs outputs"]:
    """The sum of x yᵀ over the batch: what a weight matrix owes to all its uses.

    On a CPU XLA copies the left operand of such a product transposed: let it be the smaller one.
    """
    x, y = x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1])
    return x.T @ y if x.shape[1] < y.shape[1] else (y.T @ x).T


@jax.custom_vjp
def product(
    x: Float[Array, "*batch inputs"], weight: Float[Array, "inputs outputs"]
) -> Float[Array, "*batch outputs"]:
    """x @ weight, with `outer_sum` as the weight's gradient."""
    return x @ weight


product.defvjp(
    lambda x, weight: (x @ weight, (x, weight)),
    lambda saved, dy: (dy @ saved[1].T, outer_sum(saved[0], dy)),
)


class Linear(eqx.Module):
    """x @ weight + bias, the weight laid out (inputs, outputs) for batched products."""

    weight: Float[Array, "inputs outputs"]
    bias: Float[Array, " outputs"]

    def __init__(self, inputs: int, outputs: int, *, key: PRNGKeyArray):
        weight_key, bias_key = jax.random.split(key)
        self.weight = uniform(weight_key, (inputs, outputs), inputs)
        self.bias = uniform(bias_key, (outputs,), inputs)

    def __call__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch outputs"]:
        """(..., inputs) -> (..., outputs)."""
        return product(x, self.weight) + self.bias
