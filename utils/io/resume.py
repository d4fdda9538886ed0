"""Whether a training is finished, goes on, or begins anew: decided from checkpoint headers."""

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
    """What a training script is to do.

    `action` is "finished", "resume" (from the training state), "continue" (new episodes: from
    the last weights) or "begin"; `reason` is for the user.
    """

    action: str
    reason: str
    continued_from: str = ""  # sha256 of the weights that this training began with, if any
    first: int = 0  # step at which this training began
    done: int = 0  # step after which it goes on

    def progress(self, step: int) -> dict[str, Any]:
        """The `progress` of a header written after `step`."""
        return {"step": step, "first": self.first, "continued_from": self.continued_from}


def plan_training(
    final: Path,
    state: Path,
    inputs: dict[str, str],
    settings: dict[str, Any],
    fresh: bool,
    successors: Mapping[str, str] | None = None,
) -> ResumePlan:
    """Compare what is there with what is asked for.

    `inputs["data"]` is the fingerprint of the episodes; the other inputs are models below. A
    model below that only went on learning, from the weights `successors` names, counts as the
    same. Files that cannot be read as checkpoints raise UserError: a user decides about them.
    """
    finished = read_header(final) if final.exists() else None
    origin = "" if finished is None else sha256_of(final)
    if state.exists():
        begun = read_header(state)
        started = begun.progress["continued_from"]
        if _same(begun, inputs, settings) and started in (("",) if fresh else ("", origin)):
            first, done = begun.progress["first"], begun.progress["step"]
            return ResumePlan("resume", f"going on after step {done}", started, first, done)
    if finished is None:
        return ResumePlan("begin", "from scratch")
    if fresh and finished.progress["continued_from"]:
        return ResumePlan("begin", "from scratch, as asked")
    if _same(finished, inputs, settings):
        return ResumePlan("finished", f"{final} is finished for these inputs and settings")
    below = {name: sha for name, sha in inputs.items() if name != "data"}
    changed = [
        name
        for name, sha in below.items()
        if finished.inputs.get(name) not in (sha, (successors or {}).get(name))
    ]
    changed += [k for k in _lasting(settings) if finished.settings.get(k) != settings[k]]
    if fresh or changed:
        return ResumePlan("begin", f"from scratch: {', '.join(changed) or 'data'} changed")
    done = finished.progress["step"]
    return ResumePlan(
        "continue", "other episodes: going on from the last weights", origin, done, done
    )


def _same(header: Header, inputs: dict[str, str], settings: dict[str, Any]) -> bool:
    return header.inputs == inputs and _lasting(header.settings) == _lasting(settings)


def _lasting(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings without how long to go on when episodes were added: that may change then."""
    return {name: value for name, value in settings.items() if not name.startswith("continue_")}


def stop_if_diverged(state: Any, step: int, saved: Path) -> None:
    """UserError if anything in a training state is no number any more; the last saved one stays."""
    leaves = jax.tree.leaves(eqx.filter(state, eqx.is_inexact_array))
    if not all(np.isfinite(leaf).all() for leaf in leaves):
        kept = f"the last good state is kept in {saved}" if saved.exists() else "no state was saved"
        raise UserError(
            f"the training diverged by step {step}; {kept}. "
            "Try a lower --learning-rate with --fresh"
        )


@contextlib.contextmanager
def save_on_interrupt(save: Callable[[], None]) -> Iterator[None]:
    """Ctrl-C or SIGTERM inside: `save()` what was done, then go on stopping."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        save()
        raise
