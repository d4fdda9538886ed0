"""Decide from checkpoint headers whether a training is finished, resumes, continues or begins."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np

from utils.errors import UserError
from utils.io.checkpoints import Header, read_header
from utils.io.files import sha256_of


@dataclasses.dataclass(frozen=True)
class ResumePlan:
    """What a training script does.

    `action` is "finished", "resume" (from the saved training state), "continue" (from the last
    weights, because episodes were added) or "begin"; `reason` is printed.
    """

    action: str
    reason: str
    continued_from: str = ""  # sha256 of the weights that this training started from
    first: int = 0  # step at which this training started
    done: int = 0  # last step that is done

    def progress(self, step: int) -> dict[str, Any]:
        """The `progress` of a checkpoint header written after `step`."""
        return {"step": step, "first": self.first, "continued_from": self.continued_from}


def plan_training(
    final: Path,
    state: Path,
    inputs: dict[str, str],
    settings: dict[str, Any],
    fresh: bool,
    successors: Mapping[str, str] | None = None,
    sizes: Mapping[str, int] | None = None,
) -> ResumePlan:
    """Compare the checkpoints on file with the inputs, settings and sizes asked for.

    Args:
        final: the finished model, if there is one.
        state: the training state of an interrupted run, if there is one.
        inputs: the sha256 of what the model is trained on: "data" is the fingerprint of the
            episodes, the others are models.
        settings: the recorded settings. One that only the checkpoint or only this version has
            counts as changed.
        fresh: never start from weights on file.
        successors: for an input model that was itself continued, the sha256 it had before. A
            model trained on that one is continued, not begun anew.
        sizes: the constructor's arguments, where settings determine them.

    Raises UserError if a file is not a readable checkpoint.
    """
    finished = read_header(final) if final.exists() else None
    origin = "" if finished is None else sha256_of(final)
    if state.exists():
        begun = read_header(state)
        started = begun.progress["continued_from"]
        if _same(begun, inputs, settings, sizes) and started in (("",) if fresh else ("", origin)):
            first, done = begun.progress["first"], begun.progress["step"]
            return ResumePlan("resume", f"resuming after step {done}", started, first, done)
    if finished is None:
        return ResumePlan("begin", "from scratch")
    if fresh and finished.progress["continued_from"]:
        return ResumePlan("begin", "from scratch, as asked")
    if _same(finished, inputs, settings, sizes):
        return ResumePlan("finished", f"{final} is finished for these inputs and settings")
    below = {name: sha for name, sha in inputs.items() if name != "data"}
    changed = [
        name
        for name, sha in below.items()
        if finished.inputs.get(name) not in (sha, (successors or {}).get(name))
    ]
    changed += _differences(_compared(finished.settings), _compared(settings))
    changed += [k for k, size in (sizes or {}).items() if finished.sizes.get(k) != size]
    if fresh or changed:
        return ResumePlan("begin", f"from scratch: {', '.join(changed) or 'data'} changed")
    done = finished.progress["step"]
    return ResumePlan(
        "continue", "new episodes: continuing from the last weights", origin, done, done
    )


def _same(
    header: Header,
    inputs: dict[str, str],
    settings: dict[str, Any],
    sizes: Mapping[str, int] | None,
) -> bool:
    same_sizes = sizes is None or header.sizes == sizes
    same_settings = _compared(header.settings) == _compared(settings)
    return header.inputs == inputs and same_settings and same_sizes


def _differences(recorded: dict[str, Any], settings: dict[str, Any]) -> list[str]:
    """The names of settings with different values, or that only one of the two has."""
    names = {**settings, **recorded}
    missing = object()
    return [n for n in names if recorded.get(n, missing) != settings.get(n, missing)]


def _compared(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings without the length of a continuation, which may differ from one to the next."""
    return {name: value for name, value in settings.items() if not name.startswith("continue_")}


def stop_if_diverged(state: Any, step: int, saved: Path) -> None:
    """UserError if a training state contains NaN or infinity. The last saved state is kept."""
    leaves = jax.tree.leaves(eqx.filter(state, eqx.is_inexact_array))
    if not all(np.isfinite(leaf).all() for leaf in leaves):
        kept = f"the last good state is kept in {saved}" if saved.exists() else "no state was saved"
        raise UserError(
            f"the training diverged by step {step}; {kept}. "
            "Try a lower --learning-rate with --fresh"
        )


@contextlib.contextmanager
def save_on_interrupt(save: Callable[[], None]) -> Iterator[None]:
    """On Ctrl-C or SIGTERM inside: call `save()`, then stop."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        save()
        raise
