"""NaN and infinity in losses, gradients and fitness: the last good state survives."""

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from faults.inject import Inject
from faults.references import assert_same, files_in, reference, workspace
from faults.stages import SAVE_NEVER, finish
from faults.trials import Suite, Trial
from utils.io.checkpoints import load_controller, read_header
from utils.io.records import read_metrics

MODELS = {"see": "vae", "predict": "rnn"}
AT = 3  # the step or generation that goes wrong
VALUES = {"NaN": math.nan, "infinity": math.inf, "minus infinity": -math.inf}


def trials(suite: Suite) -> Iterator[Trial]:
    """Every wrong number in every place."""
    for stage in MODELS:
        for name, value in VALUES.items():
            for what in ("loss", "gradient"):
                for saved in (True, False):
                    title = f"{name}, {'a state' if saved else 'no state'} saved before"
                    how = (stage, what, value, saved)
                    yield Trial(f"NaN and infinity: {what}", stage, title, training, how)
    for name, value in VALUES.items():
        for candidates in (4, 3, 1):
            title, how = f"{name} of {candidates} of 4 candidates", (value, candidates)
            yield Trial("NaN and infinity: fitness", "dream", title, fitness, how)
        yield Trial("NaN and infinity: fitness", "dream", f"{name} of a mean", judged, (value,))


def training(
    suite: Suite, rng: np.random.Generator, stage: str, what: str, value: float, saved: bool
) -> None:
    """The training stops, says what to try, and goes on from its last good state when rerun."""
    model = MODELS[stage]
    with workspace(suite, stage) as folder:
        bad = bad_loss if what == "loss" else bad_gradient
        flags = () if saved else SAVE_NEVER[stage]
        ended = finish(stage, folder, *flags, inject=bad(value, AT))
        state = folder / "run" / f"{model}.training.eqx"
        kept = f"the last good state is kept in run/{state.name}" if saved else "no state was saved"
        ended.failed("diverged", kept, "Try a lower --learning-rate")
        assert not (folder / "run" / f"{model}.eqx").exists()
        assert state.exists() == saved
        if saved:
            assert read_header(state).progress["step"] == AT - 1
        finish(stage, folder).succeeded()
        assert_same(files_in(folder), reference(suite, stage).after)


def fitness(suite: Suite, rng: np.random.Generator, value: float, candidates: int) -> None:
    """With no return at all the search stops; with some it goes on and never prefers a bad one."""
    with workspace(suite, "dream") as folder:
        ended = finish("dream", folder, inject=bad_fitness(value, candidates, AT))
        if candidates == 4:
            kept = "the last good state is kept in run/controller.training.eqx"
            ended.failed(f"no dream of generation {AT} has a return", kept, "Try")
            state = folder / "run" / "controller.training.eqx"
            assert read_header(state).progress["step"] == AT - 1
            finish("dream", folder).succeeded()
            assert_same(files_in(folder), reference(suite, "dream").after)
            return
        ended.succeeded()
        records = read_metrics(folder / "run" / "controller.metrics.jsonl")
        assert all(math.isfinite(v) for r in records for v in r.values() if isinstance(v, float))
        _, controller = load_controller(folder / "run" / "controller.eqx")
        assert all(
            np.isfinite(x).all() for x in jax.tree.leaves(eqx.filter(controller, eqx.is_array))
        )


def judged(suite: Suite, rng: np.random.Generator, value: float) -> None:
    """A mean without a score is not chosen: of two saved ones the other is."""
    flags = ("--no-real-validation", "--validate-every", "2")
    with workspace(suite, "dream") as folder:
        finish("dream", folder, *flags, inject=bad_judge(value)).succeeded()
        _, chosen = load_controller(folder / "run" / "controller.eqx")
        _, good = load_controller(folder / "run" / "snapshots" / "000002.eqx")
        assert eqx.tree_equal(chosen, good)


# --- what goes wrong ------------------------------------------------------------------------------


def bad_loss(value: float, at: int) -> Inject:
    """The loss of gradient step `at` is multiplied by NaN or infinity."""

    def inject(script: Any) -> None:
        name = "vae_loss" if hasattr(script, "vae_loss") else "rnn_loss"
        loss = getattr(script, name)

        def poisoned(*arguments: Any) -> Any:
            result = loss(*arguments)
            if name == "vae_loss":
                return result._replace(total=result.total * value)
            return result[0]._replace(total=result[0].total * value), result[1]

        _use_once(script, at, lambda: mock.patch.object(script, name, poisoned))

    return inject


def bad_gradient(value: float, at: int) -> Inject:
    """One entry of the gradient of step `at` is NaN or infinite."""

    def poison(gradients: Any) -> Any:
        leaves, tree = jax.tree.flatten(gradients)
        leaves[0] = leaves[0].at[(0,) * leaves[0].ndim].set(value)
        return jax.tree.unflatten(tree, leaves)

    def inject(script: Any) -> None:
        _use_once(
            script,
            at,
            contextlib.nullcontext,
            lambda optimiser: optax.GradientTransformation(
                optimiser.init, lambda g, s, p=None: optimiser.update(poison(g), s, p)
            ),
        )

    return inject


def _use_once(
    script: Any,
    at: int,
    context: Callable[[], Any],
    change: Callable[[Any], Any] = lambda optimiser: optimiser,
) -> None:
    """Gradient step `at` is one that was made with another optimiser or inside a context."""
    make_step = script.make_step

    def make(settings: Any, optimiser: Any) -> Any:
        good, bad = (make_step(settings, o) for o in (optimiser, change(optimiser)))
        count = itertools.count(1)

        def step(*arguments: Any) -> Any:
            if next(count) != at:
                return good(*arguments)
            with context():
                return bad(*arguments)

        return step

    script.make_step = make


def bad_fitness(value: float, candidates: int, at: int) -> Inject:
    """Dreams of the first `candidates` of generation `at` return NaN or infinity."""

    def inject(script: Any) -> None:
        evolve, returns = script.run_generations, script.dream_returns
        # Another function than `evolve`'s own: that one's trace is remembered, as it was.
        poisoned_evolve = eqx.filter_jit(lambda *arguments: evolve.__wrapped__(*arguments))
        count = itertools.count(1)
        script.generations_per_call = lambda *_: 1

        def poisoned_returns(*arguments: Any) -> Any:
            found = returns(*arguments)
            bad = (jnp.arange(found.shape[0]) < candidates)[:, None]
            return jnp.where(bad, jnp.float32(value), found)

        def choose(*arguments: Any) -> Any:
            if next(count) != at:
                return evolve(*arguments)
            with mock.patch.object(script, "dream_returns", poisoned_returns):
                return poisoned_evolve(*arguments)

        script.run_generations = choose

    return inject


def bad_judge(value: float) -> Inject:
    """The fixed dreams of the last mean return no number."""

    def inject(script: Any) -> None:
        judge, count = script.dream_score, itertools.count(1)
        script.dream_score = lambda *a: judge(*a) if next(count) == 1 else np.float32(value)

    return inject
