"""The LSTM (Graves 2013, section 2.1, without peepholes): one step, and a whole sequence.

The gradient of a sequence is written down here rather than derived by JAX: what the recurrent
weights owe to all steps is then one matrix product, not one a step added up in the loop.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from models.layers.linear import outer_sum


class LSTMState(NamedTuple):
    """What the RNN carries from step to step."""

    hidden: Float[Array, "*batch hidden"]
    cell: Float[Array, "*batch hidden"]


class Gates(NamedTuple):
    """What an LSTM lets in, keeps, proposes and lets out, 0..1; the candidate −1..1."""

    into: Float[Array, "*batch hidden"]
    forget: Float[Array, "*batch hidden"]
    candidate: Float[Array, "*batch hidden"]
    out: Float[Array, "*batch hidden"]


def _gates(projected: Float[Array, "*batch gates"]) -> Gates:
    into, forget, candidate, out = jnp.split(projected, 4, axis=-1)
    # Forgetting starts near "keep" (bias 1): gradients reach back from the first batch on.
    sigmoid = jax.nn.sigmoid
    return Gates(sigmoid(into), sigmoid(forget + 1), jnp.tanh(candidate), sigmoid(out))


def _next_state(gates: Gates, cell: Float[Array, "*batch hidden"]) -> LSTMState:
    cell = gates.forget * cell + gates.into * gates.candidate
    return LSTMState(gates.out * jnp.tanh(cell), cell)


def advance(
    state: LSTMState,
    projected: Float[Array, "*batch gates"],
    from_hidden: Float[Array, "hidden gates"],
) -> LSTMState:
    """One step; `projected` is the input's part of the gates."""
    return _next_state(_gates(projected + state.hidden @ from_hidden), state.cell)


def _run(
    state: LSTMState,
    projected: Float[Array, "time *batch gates"],
    from_hidden: Float[Array, "hidden gates"],
) -> tuple[LSTMState, Gates]:
    def step(state: LSTMState, projected: Array) -> tuple[LSTMState, tuple[LSTMState, Gates]]:
        gates = _gates(projected + state.hidden @ from_hidden)
        state = _next_state(gates, state.cell)
        return state, (state, gates)

    return jax.lax.scan(step, state, projected)[1]


@jax.custom_vjp
def run(
    state: LSTMState,
    projected: Float[Array, "time *batch gates"],
    from_hidden: Float[Array, "hidden gates"],
) -> LSTMState:
    """`advance` over a sequence: the state after every step, leaves (time, *batch, hidden)."""
    return _run(state, projected, from_hidden)[0]


Saved = tuple[LSTMState, LSTMState, Gates, Array]


def _run_and_save(
    state: LSTMState, projected: Array, from_hidden: Array
) -> tuple[LSTMState, Saved]:
    along, gates = _run(state, projected, from_hidden)
    return along, (state, along, gates, from_hidden)


def _run_backwards(saved: Saved, given: LSTMState) -> tuple[LSTMState, Array, Array]:
    """Gradients from those of all states: backpropagation through time."""
    start, along, gates, from_hidden = saved
    before = jax.tree.map(lambda s, rest: jnp.concatenate([s[None], rest[:-1]]), start, along)
    # Transposed once: XLA would do it within the product of every step.
    to_hidden = jax.lax.optimization_barrier(from_hidden.T)

    def step(later: LSTMState, row: tuple) -> tuple[LSTMState, Array]:
        given, gates, cell_before, cell = row
        shown = jnp.tanh(cell)
        hidden = given.hidden + later.hidden
        cell = given.cell + later.cell + hidden * gates.out * (1 - shown * shown)
        owed = jnp.concatenate(
            [
                cell * gates.candidate * gates.into * (1 - gates.into),
                cell * cell_before * gates.forget * (1 - gates.forget),
                cell * gates.into * (1 - gates.candidate * gates.candidate),
                hidden * shown * gates.out * (1 - gates.out),
            ],
            axis=-1,
        )
        return LSTMState(owed @ to_hidden, cell * gates.forget), owed

    rows = (given, gates, before.cell, along.cell)
    nothing = jax.tree.map(jnp.zeros_like, start)
    first, owed = jax.lax.scan(step, nothing, rows, reverse=True)
    return first, owed, outer_sum(before.hidden, owed)


run.defvjp(_run_and_save, _run_backwards)
