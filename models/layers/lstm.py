"""The LSTM cell (Graves 2013, section 2.1, without peepholes): one step, and a whole sequence.

The recurrent core of M is anything with `initial_state`, `step` and `unroll` whose state is a
pytree with a `hidden` of shape (*batch, hidden); docs/change_the_model.md replaces it by a GRU.

Backpropagation through time is written out instead of derived by JAX. The gradient of the recurrent
weights is then one matrix product over all steps, not one product per step added up in the loop.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from models.layers.linear import Linear, matmul, weight_grad


class LSTMState(NamedTuple):
    """The state carried from step to step."""

    hidden: Float[Array, "*batch hidden"]
    cell: Float[Array, "*batch hidden"]


class Gates(NamedTuple):
    """Activations of the gates, 0..1; the candidate −1..1."""

    input: Float[Array, "*batch hidden"]
    forget: Float[Array, "*batch hidden"]
    candidate: Float[Array, "*batch hidden"]
    output: Float[Array, "*batch hidden"]


class LSTMCell(eqx.Module):
    """An LSTM layer. Its weights' columns: input gate, forget gate, candidate, output gate."""

    weight_ih: Float[Array, "inputs gates"]
    bias: Float[Array, " gates"]
    weight_hh: Float[Array, "hidden gates"]

    def __init__(
        self, inputs: int, hidden: int, *, input_key: PRNGKeyArray, recurrent_key: PRNGKeyArray
    ):
        projection = Linear(inputs, 4 * hidden, key=input_key)
        self.weight_ih, self.bias = projection.weight, projection.bias
        orthogonal = jax.nn.initializers.orthogonal()
        self.weight_hh = jnp.concatenate(
            [orthogonal(k, (hidden, hidden)) for k in jax.random.split(recurrent_key, 4)], axis=1
        )

    def initial_state(self, *batch: int) -> LSTMState:
        """Zeros, leaves (*batch, hidden)."""
        shape = (*batch, self.weight_hh.shape[0])
        return LSTMState(jnp.zeros(shape, jnp.float32), jnp.zeros(shape, jnp.float32))

    def step(self, state: LSTMState, x: Float[Array, "*batch inputs"]) -> LSTMState:
        """One step."""
        gates = _gates(self._project(x) + state.hidden @ self.weight_hh)
        return _next_state(gates, state.cell)

    def unroll(self, state: LSTMState, xs: Float[Array, "time *batch inputs"]) -> LSTMState:
        """`step` over a sequence: the state after every step, leaves (time, *batch, hidden).

        The inputs of all steps are projected by one matrix product.
        """
        return _unroll(state, self._project(xs), self.weight_hh)

    def _project(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch gates"]:
        return matmul(x, self.weight_ih) + self.bias


def _gates(preactivations: Float[Array, "*batch gates"]) -> Gates:
    input, forget, candidate, output = jnp.split(preactivations, 4, axis=-1)
    # A forget bias of 1 (Jozefowicz et al. 2015): gradients reach back from the first batch on.
    sigmoid = jax.nn.sigmoid
    return Gates(sigmoid(input), sigmoid(forget + 1), jnp.tanh(candidate), sigmoid(output))


def _next_state(gates: Gates, cell: Float[Array, "*batch hidden"]) -> LSTMState:
    cell = gates.forget * cell + gates.input * gates.candidate
    return LSTMState(gates.output * jnp.tanh(cell), cell)


def _scan(
    state: LSTMState,
    projected: Float[Array, "time *batch gates"],
    weight_hh: Float[Array, "hidden gates"],
) -> tuple[LSTMState, Gates]:
    def step(state: LSTMState, projected: Array) -> tuple[LSTMState, tuple[LSTMState, Gates]]:
        gates = _gates(projected + state.hidden @ weight_hh)
        state = _next_state(gates, state.cell)
        return state, (state, gates)

    return jax.lax.scan(step, state, projected)[1]


@jax.custom_vjp
def _unroll(
    state: LSTMState,
    projected: Float[Array, "time *batch gates"],
    weight_hh: Float[Array, "hidden gates"],
) -> LSTMState:
    """The state after every step, from the projected inputs."""
    return _scan(state, projected, weight_hh)[0]


Saved = tuple[LSTMState, LSTMState, Gates, Array]


def _unroll_and_save(
    state: LSTMState, projected: Array, weight_hh: Array
) -> tuple[LSTMState, Saved]:
    states, gates = _scan(state, projected, weight_hh)
    return states, (state, states, gates, weight_hh)


def _unroll_backward(saved: Saved, grad_states: LSTMState) -> tuple[LSTMState, Array, Array]:
    """Backpropagation through time, given the gradients with respect to all states.

    Returns the gradients of the initial state, the projected inputs and `weight_hh`.
    """
    start, states, gates, weight_hh = saved
    before = jax.tree.map(lambda s, rest: jnp.concatenate([s[None], rest[:-1]]), start, states)
    # Transposed once: without the barrier XLA transposes it inside the product of every step.
    weight_hh_t = jax.lax.optimization_barrier(weight_hh.T)

    def step(later: LSTMState, row: tuple) -> tuple[LSTMState, Array]:
        """`later` is what the following step adds to the gradient of this step's state."""
        grad_state, gates, cell_before, cell = row
        tanh_cell = jnp.tanh(cell)
        grad_hidden = grad_state.hidden + later.hidden
        grad_cell = grad_state.cell + later.cell
        grad_cell = grad_cell + grad_hidden * gates.output * (1 - tanh_cell * tanh_cell)
        grad_gates = jnp.concatenate(
            [
                grad_cell * gates.candidate * gates.input * (1 - gates.input),
                grad_cell * cell_before * gates.forget * (1 - gates.forget),
                grad_cell * gates.input * (1 - gates.candidate * gates.candidate),
                grad_hidden * tanh_cell * gates.output * (1 - gates.output),
            ],
            axis=-1,
        )
        return LSTMState(grad_gates @ weight_hh_t, grad_cell * gates.forget), grad_gates

    rows = (grad_states, gates, before.cell, states.cell)
    zeros = jax.tree.map(jnp.zeros_like, start)
    grad_start, grad_gates = jax.lax.scan(step, zeros, rows, reverse=True)
    return grad_start, grad_gates, weight_grad(before.hidden, grad_gates)


_unroll.defvjp(_unroll_and_save, _unroll_backward)
