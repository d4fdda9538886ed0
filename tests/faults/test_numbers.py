"""NaN and infinity in losses, gradients and returns: the last good state survives."""

import contextlib
import importlib
import itertools
import math
from collections.abc import Callable
from typing import Any
from unittest import mock

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from faults.pipeline import SAVE_NEVER, TRAININGS
from faults.processes import Inject, finish
from faults.references import Suite, finish_and_compare, workspace
from utils.io.checkpoints import load_controller, read_header
from utils.io.records import read_metrics

AT = 3  # the step or generation that goes wrong
VALUES = pytest.mark.parametrize(
    "value", [math.nan, math.inf, -math.inf], ids=["NaN", "infinity", "minus infinity"]
)


@pytest.mark.faults("NaN and infinity: {what}")
@pytest.mark.parametrize("saved", [True, False], ids=["a state saved", "no state saved"])
@pytest.mark.parametrize("what", ["loss", "gradient"])
@VALUES
@pytest.mark.parametrize("script", ["run_vae_training", "train_rnn"])
def test_training_diverges(suite: Suite, script: str, value: float, what: str, saved: bool) -> None:
    """The training stops and says what to try. A rerun continues from its last good state."""
    model = TRAININGS[script]
    with workspace(suite, script) as folder:
        bad = bad_loss if what == "loss" else bad_gradient
        flags = () if saved else SAVE_NEVER[script]
        ended = finish(script, folder, *flags, inject=bad(value, AT))
        state = folder / "run" / f"{model}.training.eqx"
        kept = f"the last good state is kept in run/{state.name}" if saved else "no state was saved"
        ended.assert_failed("diverged", kept, "Try a lower --learning-rate")
        assert not (folder / "run" / f"{model}.eqx").exists()
        assert state.exists() == saved
        if saved:
            assert read_header(state).progress["step"] == AT - 1
        finish_and_compare(suite, script, folder)


@pytest.mark.faults("NaN and infinity: fitness", script="train_dream")
@VALUES
def test_all_candidates_without_a_return(suite: Suite, value: float) -> None:
    """The search stops. A rerun continues from its last good state."""
    with workspace(suite, "train_dream") as folder:
        ended = finish("train_dream", folder, inject=bad_fitness(value, 4, AT))
        kept = "the last good state is kept in run/controller.training.eqx"
        ended.assert_failed(f"no dream of generation {AT} has a return", kept, "Try")
        state = folder / "run" / "controller.training.eqx"
        assert read_header(state).progress["step"] == AT - 1
        finish_and_compare(suite, "train_dream", folder)


@pytest.mark.faults("NaN and infinity: fitness", script="train_dream")
@pytest.mark.parametrize("candidates", [3, 1], ids=lambda count: f"{count} of 4 candidates")
@VALUES
def test_some_candidates_without_a_return(suite: Suite, value: float, candidates: int) -> None:
    """The search continues, and a candidate without a return is never preferred."""
    with workspace(suite, "train_dream") as folder:
        finish("train_dream", folder, inject=bad_fitness(value, candidates, AT)).assert_succeeded()
        records = read_metrics(folder / "run" / "controller.metrics.jsonl")
        assert all(math.isfinite(v) for r in records for v in r.values() if isinstance(v, float))
        _, controller = load_controller(folder / "run" / "controller.eqx")
        arrays = jax.tree.leaves(eqx.filter(controller, eqx.is_array))
        assert all(np.isfinite(array).all() for array in arrays)


@pytest.mark.faults("NaN and infinity: fitness", script="train_dream")
@VALUES
def test_mean_without_a_score(suite: Suite, value: float) -> None:
    """Of two saved means, the one with a score is chosen."""
    flags = ("--no-real-validation",)
    with workspace(suite, "train_dream") as folder:
        finish("train_dream", folder, *flags, inject=bad_score(value)).assert_succeeded()
        _, chosen = load_controller(folder / "run" / "controller.eqx")
        _, good = load_controller(folder / "run" / "snapshots" / "000002.eqx")
        assert eqx.tree_equal(chosen, good)


# --- faults ---------------------------------------------------------------------------------------


def bad_loss(value: float, at: int) -> Inject:
    """The loss of gradient step `at` is multiplied by NaN or infinity."""

    def inject(module: Any) -> None:
        name = "vae_loss" if hasattr(module, "vae_loss") else "rnn_loss"
        loss = getattr(module, name)

        def poisoned(*arguments: Any) -> Any:
            result = loss(*arguments)
            if name == "vae_loss":
                return result._replace(total=result.total * value)
            return result[0]._replace(total=result[0].total * value), result[1]

        _use_once(module, at, lambda: mock.patch.object(module, name, poisoned))

    return inject


def bad_gradient(value: float, at: int) -> Inject:
    """One entry of the gradient of step `at` is NaN or infinite."""

    def poison(gradients: Any) -> Any:
        leaves, tree = jax.tree.flatten(gradients)
        leaves[0] = leaves[0].at[(0,) * leaves[0].ndim].set(value)
        return jax.tree.unflatten(tree, leaves)

    def inject(module: Any) -> None:
        _use_once(
            module,
            at,
            contextlib.nullcontext,
            lambda optimiser: optax.GradientTransformation(
                optimiser.init, lambda g, s, p=None: optimiser.update(poison(g), s, p)
            ),
        )

    return inject


def _use_once(
    module: Any,
    at: int,
    context: Callable[[], Any],
    change: Callable[[Any], Any] = lambda optimiser: optimiser,
) -> None:
    """Gradient step `at` is made with a changed optimiser or called inside a context."""
    make_step = module.make_step

    def make(settings: Any, optimiser: Any) -> Any:
        good, bad = (make_step(settings, o) for o in (optimiser, change(optimiser)))
        count = itertools.count(1)

        def step(*arguments: Any) -> Any:
            if next(count) != at:
                return good(*arguments)
            with context():
                return bad(*arguments)

        return step

    module.make_step = make


def bad_fitness(value: float, candidates: int, at: int) -> Inject:
    """The dreams of the first `candidates` of generation `at` return NaN or infinity."""

    def inject(module: Any) -> None:
        # Not imported at the top: evosax would start JAX when pytest collects this module.
        evolution = importlib.import_module("utils.search.evolution")
        run, returns = module.run_generations, evolution.dream_returns
        # A new function: the trace of the old one is cached, with the unchanged returns.
        poisoned_run = eqx.filter_jit(lambda *arguments: run.__wrapped__(*arguments))
        count = itertools.count(1)
        module.generations_per_call = lambda *_: 1

        def poisoned_returns(*arguments: Any) -> Any:
            found = returns(*arguments)
            bad = (jnp.arange(found.shape[0]) < candidates)[:, None]
            return jnp.where(bad, jnp.float32(value), found)

        def choose(*arguments: Any) -> Any:
            if next(count) != at:
                return run(*arguments)
            with mock.patch.object(evolution, "dream_returns", poisoned_returns):
                return poisoned_run(*arguments)

        module.run_generations = choose

    return inject


def bad_score(value: float) -> Inject:
    """The fixed dreams of the last mean return NaN or infinity."""

    def inject(module: Any) -> None:
        score, count = module.dream_score, itertools.count(1)
        module.dream_score = lambda *a: score(*a) if next(count) == 1 else value

    return inject
