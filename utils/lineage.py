"""Whether a training is finished, goes on, or begins anew: decided from checkpoint headers."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optax

from utils.checkpoints import Header, read_header
from utils.commandline import Failure
from utils.files import sha256_of


@dataclasses.dataclass(frozen=True)
class Plan:
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
) -> Plan:
    """Compare what is there with what is asked for.

    `inputs["data"]` is the fingerprint of the episodes; the other inputs are models below. A
    model below that only went on learning, from the weights `successors` names, counts as the
    same. Files that cannot be read as checkpoints raise Failure: a user decides about them.
    """
    finished = read_header(final) if final.exists() else None
    origin = "" if finished is None else sha256_of(final)
    if state.exists():
        begun = read_header(state)
        started = begun.progress["continued_from"]
        if _same(begun, inputs, settings) and started in (("",) if fresh else ("", origin)):
            first, done = begun.progress["first"], begun.progress["step"]
            return Plan("resume", f"going on after step {done}", started, first, done)
    if finished is None:
        return Plan("begin", "from scratch")
    if fresh and finished.progress["continued_from"]:
        return Plan("begin", "from scratch, as asked")
    if _same(finished, inputs, settings):
        return Plan("finished", f"{final} is finished for these inputs and settings")
    below = {name: sha for name, sha in inputs.items() if name != "data"}
    changed = [
        name
        for name, sha in below.items()
        if finished.inputs.get(name) not in (sha, (successors or {}).get(name))
    ]
    if fresh or changed or finished.settings != settings:
        changed += [k for k in settings if finished.settings.get(k) != settings[k]]
        return Plan("begin", f"from scratch: {', '.join(changed) or 'data'} changed")
    done = finished.progress["step"]
    return Plan("continue", "new episodes: going on from the last weights", origin, done, done)


def _same(header: Header, inputs: dict[str, str], settings: dict[str, Any]) -> bool:
    return header.inputs == inputs and header.settings == settings


def stop_if_diverged(model: Any, step: int, state: Path) -> None:
    """Failure if a weight is no number any more; the last saved state is good and stays."""
    if not math.isfinite(float(optax.tree.norm(model))):
        raise Failure(
            f"the weights diverged by step {step}; the last good state is kept in {state}. "
            "Try a lower --learning-rate with --fresh"
        )
