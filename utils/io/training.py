"""What the trainings of V and M share: resuming, saving, metrics and the final checkpoint.

The training loop itself stays in the scripts:

    training = Training("vae", settings, sizes, inputs)
    if training.finished: return
    state = training.restore(build, load_vae, wrap)
    with training.running(state) as steps:
        for number in steps:
            state, loss = step(..., state, ...)
            if training.evaluates_at(number): training.metrics.append(step=number, ...)
            training.reached(number, state)
    training.finish(state.vae)
"""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax

from utils.io import checkpoints
from utils.io.checkpoints import Header
from utils.io.records import Metrics
from utils.io.resume import plan_training, save_on_interrupt, stop_if_diverged
from utils.io.tracking import TrackingSettings, track_finished, tracked
from utils.runtime import progress
from utils.settings import recorded_settings, setting

ModelT = TypeVar("ModelT")
StateT = TypeVar("StateT")


@dataclasses.dataclass(frozen=True)
class TrainingSettings(TrackingSettings):
    """The flags that the trainings of V and M share. Each script has its own numbers of steps."""

    steps: int = setting(1, "gradient steps", minimum=1)
    continue_steps: int = setting(1, "gradient steps after episodes were added", minimum=1)
    evaluate_every: int = setting(
        1, "steps between evaluations on held-out episodes", minimum=1, changes_result=False
    )
    save_seconds: float = setting(
        30.0, "seconds between saved training states", minimum=0.0, changes_result=False
    )
    fresh: bool = setting(
        False, "start from scratch, not from the last weights", changes_result=False
    )


class Training:
    """One training of a model, which can be interrupted at any step and resumed.

    It writes `name`.training.eqx (the state, from time to time), `name`.metrics.jsonl and
    `name`.eqx (the final model) to the run folder. `name` is `kind` unless it is given.
    """

    def __init__(
        self,
        kind: str,
        settings: TrainingSettings,
        sizes: dict[str, int],
        inputs: dict[str, str],
        name: str = "",
    ):
        folder, name = settings.run_dir, name or kind
        self.kind, self.settings, self.sizes, self.inputs = kind, settings, sizes, inputs
        self.values = recorded_settings(settings)
        self.final, self.saved = folder / f"{name}.eqx", folder / f"{name}.training.eqx"
        self.plan = plan_training(
            self.final, self.saved, inputs, self.values, settings.fresh, sizes=sizes
        )
        self.finished = self.plan.action == "finished"
        if self.finished:
            self.saved.unlink(missing_ok=True)  # a kill just after the end leaves it behind
            track_finished(self.final.with_suffix(".metrics.jsonl"), settings)
        self.steps = settings.continue_steps if self.plan.continued_from else settings.steps
        self.last = self.plan.first + self.steps
        self.batches_done = self.plan.done - self.plan.first

    def restore(
        self,
        build: Callable[[], ModelT],
        load: Callable[[Path], tuple[Header, ModelT]],
        wrap: Callable[[ModelT], StateT],
    ) -> StateT:
        """The state to start from: saved, of the last weights, or new.

        `build` makes a new model, `load` reads a finished one, and `wrap` adds the optimiser's
        state to a model.
        """
        if self.plan.action == "resume":
            kind = f"{self.kind} training"
            return checkpoints.load(self.saved, kind, lambda _: wrap(build()))[1]
        if self.plan.action == "continue":
            return wrap(load(self.final)[1])
        return computed_once(lambda: wrap(build()))

    @contextlib.contextmanager
    def running(self, state: Any) -> Iterator[range]:
        """The numbers of the steps to take. An interrupt inside saves the state reached."""
        # One tuple, replaced at once: an interrupt between two assignments would pair a state with
        # the number of another step.
        self._reached = self.plan.done, state
        self._saved_at = time.monotonic()
        self.metrics = Metrics(self.final.with_suffix(".metrics.jsonl"), self.plan.done)
        with tracked(self.metrics, self.settings, self._header(self.kind, self.plan.first)):
            self.bar = progress(self.steps, "step", self.batches_done)
            with self.bar, save_on_interrupt(self._save_state):
                yield range(self.plan.done + 1, self.last + 1)

    def evaluates_at(self, step: int) -> bool:
        """Whether metrics are due at this step: every so often, and at the last."""
        return step % self.settings.evaluate_every == 0 or step == self.last

    def reached(self, step: int, state: Any) -> None:
        """Note that `state` is the state after `step`; save it if it is time to."""
        self._reached = step, state
        self.bar.update()
        due = time.monotonic() - self._saved_at > self.settings.save_seconds
        if due or step == self.last:
            self._save_state()
            self._saved_at = time.monotonic()

    def finish(self, model: Any) -> None:
        """Write the final model and remove the training state."""
        checkpoints.save(self.final, self._header(self.kind, self.last), model)
        self.saved.unlink()

    def _save_state(self) -> None:
        step, state = self._reached
        stop_if_diverged(state, step, self.saved)
        checkpoints.save(self.saved, self._header(f"{self.kind} training", step), state)

    def _header(self, kind: str, step: int) -> Header:
        return Header(kind, self.sizes, self.values, self.inputs, self.plan.progress(step))


def computed_once(build: Callable[[], StateT]) -> StateT:
    """A pytree of arrays that `build` makes, computed by one program.

    It compiles faster than a program for each operation. XLA optimises it less than others, which
    saves time and changes no bit of the weights.
    """
    options = {"xla_backend_optimization_level": 1}
    return jax.jit(build, compiler_options=options)()


def as_metrics(values: Mapping[str, Any], prefix: str = "") -> dict[str, float | None]:
    """Scalars as Python floats for a metrics file; NaN, which means not measured, as None."""
    floats = {f"{prefix}{name}": float(value) for name, value in values.items()}
    return {name: None if math.isnan(value) else value for name, value in floats.items()}
