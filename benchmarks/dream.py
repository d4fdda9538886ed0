"""The dream: agent-steps per second, and generations per second with CMA-ES in them.

    python -m benchmarks.dream --one-core
    python -m benchmarks.dream --horizon 200 --turns 9    # on a GPU

Candidates × dreams, as `train_dream.py` has them (64 × 16) and many (1024 × 16). The floor counts
the multiplications of LSTM, heads and controller.
"""

import jax
import jax.numpy as jnp

from benchmarks import measuring
from benchmarks.measuring import Ceilings, Measurement, Work
from models.controller import Controller
from models.dream import DreamState, dream_returns
from models.rnn import MDNRNN, LSTMState, mixture_noise
from train_dream import Settings
from utils.data.start_states import StartStates
from utils.search.evolution import (
    DreamEvaluator,
    fit_whitening,
    initial_search,
    run_generations,
)

POPULATIONS = (64, 1024)
DREAMS = 16


def products_of_a_step(rnn: MDNRNN) -> int:
    """Multiplications of one step of one dream."""
    weights = rnn.cell.weight_ih.size + rnn.cell.weight_hh.size + rnn.heads.weight.size
    return weights + 3 * (rnn.latent + rnn.hidden)


def some_moments(rnn: MDNRNN, count: int) -> DreamState:
    """Random places to begin a dream at."""
    z_key, *keys = jax.random.split(jax.random.key(1), 3)
    memory = LSTMState(*(jax.random.normal(key, (count, rnn.hidden)) / 4 for key in keys))
    return DreamState(jax.random.normal(z_key, (count, rnn.latent)), memory)


def dreams(rnn: MDNRNN, candidates: int, horizon: int) -> Work:
    """Every candidate in every dream, and nothing else."""
    keys = jax.random.split(jax.random.key(2), 2)
    zero = Controller(rnn.latent + rnn.hidden)
    controllers = jax.tree.map(
        lambda x: 0.1 * jax.random.normal(keys[0], (candidates, *x.shape)), zero
    )
    noise = mixture_noise(keys[1], (DREAMS, horizon, rnn.latent))
    arguments = (rnn, controllers, some_moments(rnn, DREAMS), noise, 1.0, 1.0)
    compiled = jax.jit(dream_returns).lower(*arguments).compile()
    return lambda: compiled(*arguments)


def search(rnn: MDNRNN, candidates: int, horizon: int, at_once: int) -> tuple[Work, Work]:
    """Generations of train_dream.py, `at_once` in a call; and CMA-ES alone, one generation."""
    settings = Settings(candidates=candidates, dreams=DREAMS, horizon=horizon)
    start_states = StartStates(*[some_moments(rnn, 256)] * 3)
    whitening = fit_whitening(start_states, settings.principal_components)
    origin, limit = Controller(rnn.latent + rnn.hidden), jnp.float32(settings.reward_limit)
    evaluator = DreamEvaluator(rnn, start_states, whitening, origin, limit, settings)
    cma, params, state = initial_search(settings, whitening.components, jax.random.key(0))
    key = jax.random.key(3)

    def generations() -> jax.Array:
        nonlocal state
        found = run_generations(
            cma, params, state, evaluator, key, jnp.int32(1), jnp.int32(at_once)
        )
        state = found[0]
        return found[1]

    @jax.jit
    def ask_and_tell(state):
        population, state = cma.ask(key, state, params)
        return cma.tell(key, population, jnp.arange(candidates, dtype=jnp.float32), state, params)

    return generations, lambda: ask_and_tell(state)


def main() -> None:
    """Measure and print."""
    arguments = measuring.parse(__doc__, horizon=50, at_once=1)
    rnn = MDNRNN(key=jax.random.key(0))
    contestants, amounts = {}, {}
    for candidates in POPULATIONS:
        steps, size = candidates * DREAMS * arguments.horizon, f"{candidates} × {DREAMS}"
        contestants[f"dreams, {size}"] = dreams(rnn, candidates, arguments.horizon)
        amounts[f"dreams, {size}"] = steps, "agent-steps", steps
        generations, alone = search(rnn, candidates, arguments.horizon, arguments.at_once)
        name = f"generations, {size} × {arguments.horizon}"
        contestants[name] = generations
        amounts[name] = arguments.at_once, "generations", arguments.at_once * steps
        contestants[f"  CMA-ES alone, {candidates}"] = alone
        amounts[f"  CMA-ES alone, {candidates}"] = 1, "generations", 0
    seconds = measuring.take_turns({**measuring.ceilings(), **contestants}, arguments)
    rows = []
    for name, (amount, unit, steps) in amounts.items():
        operations = 2 * products_of_a_step(rnn) * steps
        rows.append(Measurement(name, seconds[name], amount, unit, operations))
    measuring.report("The dream", rows, Ceilings.of(seconds), arguments)
    for candidates in POPULATIONS:
        name = f"dreams, {candidates} × {DREAMS}"
        with measuring.profile(name, most=6):
            measuring.wait(contestants[name]())


if __name__ == "__main__":
    main()
