"""NaN and infinity in losses, gradients and fitness: the last good state survives."""

import math
from collections.abc import Iterator

import equinox as eqx
import jax
import numpy as np

from faults import inject
from faults.resources import SAVE_NEVER
from faults.stages import assert_same, files_in, finish, reference, workspace
from faults.trials import Suite, Trial
from utils.checkpoints import load_controller, read_header
from utils.files import read_metrics

TRAININGS = {"see": "vae", "predict": "rnn"}
AT = 3  # the step or generation that goes wrong
VALUES = {"NaN": math.nan, "infinity": math.inf, "minus infinity": -math.inf}


def trials(suite: Suite) -> Iterator[Trial]:
    """Every wrong number in every place."""
    for stage in TRAININGS:
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
    model = TRAININGS[stage]
    with workspace(suite, stage) as folder:
        bad = inject.bad_loss if what == "loss" else inject.bad_gradient
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
        ended = finish("dream", folder, inject=inject.bad_fitness(value, candidates, AT))
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
        finish("dream", folder, *flags, inject=inject.bad_judge(value)).succeeded()
        _, chosen = load_controller(folder / "run" / "controller.eqx")
        _, good = load_controller(folder / "run" / "snapshots" / "000002.eqx")
        assert eqx.tree_equal(chosen, good)
