"""kill −9 at every rename and at random moments. A rerun ends as if nothing had happened."""

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from faults import inject
from faults.pipeline import (
    FLAGS,
    ITERATE,
    RENAMES,
    REPRODUCE,
    ROUND,
    ROUND_RENAMES,
    chain_of,
    flags_of,
)
from faults.processes import FaultMissed, finish, start
from faults.references import Record, Suite, finish_and_compare, reference, workspace

RANDOM_KILLS = 16  # of each script
ITERATE_KILLS = 8  # of tools.iterate, which takes five times as long
REPRODUCE_KILLS = 3  # of tools.reproduce, in one run
REPRODUCE_RUNS = 4
ROUNDS = 5  # by hand; in each, every script is killed once


def rename_cases() -> Iterator[Any]:
    """Before and after each rename; of tools.iterate at the moments in ROUND_RENAMES."""
    for script, process, count in RENAMES:
        for number in range(1, count + 1):
            for moment in ("before", "after"):
                name = f"{script}-{moment} rename {number} of the {process}"
                yield pytest.param(script, process, number, moment, id=name)
    for process, number, moment in ROUND_RENAMES:
        name = f"{ITERATE}-{moment} rename {number} of the {process}"
        yield pytest.param(ITERATE, process, number, moment, id=name)


@pytest.mark.faults("kill −9 at a rename")
@pytest.mark.parametrize(("script", "process", "number", "moment"), list(rename_cases()))
def test_killed_at_a_rename(
    suite: Suite,
    record_property: Record,
    script: str,
    process: str,
    number: int,
    moment: str,
) -> None:
    """The script is killed at a rename of its own, or all its processes at one of a worker."""
    with workspace(suite, script) as folder:
        notes = folder.parent / "notes"
        dying = (
            inject.dying_at_rename(number, moment)
            if process == "script"
            else inject.worker_orders(moment, number, notes)
        )
        ended = finish(script, folder, inject=dying)
        assert_killed(ended.code)
        finish_and_compare(suite, script, folder)
    record_property("kills", 1)


@pytest.mark.faults("kill −9 at random")
@pytest.mark.parametrize(
    ("script", "number"),
    [
        pytest.param(script, number, id=f"{script}-kill {number}")
        for script in FLAGS
        for number in range(ITERATE_KILLS if script == ITERATE else RANDOM_KILLS)
    ],
)
def test_killed_at_random(
    suite: Suite,
    rng: np.random.Generator,
    record_property: Record,
    script: str,
    number: int,
) -> None:
    """Even numbers kill the whole process group, odd ones the script alone."""
    with workspace(suite, script) as folder:
        moment = kill(suite, rng, script, folder, chain_of(script), whole_group=number % 2 == 0)
        finish_and_compare(suite, script, folder)
    record_property("kills", 1)
    record_property("killed", moment)


@pytest.mark.faults("kill −9 at random", script=ITERATE)
@pytest.mark.parametrize("number", range(ROUNDS), ids=lambda number: f"round {number}")
def test_killed_in_a_round(
    suite: Suite,
    rng: np.random.Generator,
    record_property: Record,
    number: int,
) -> None:
    """In a Sim2Real2Sim round by hand every script is killed once and run again."""
    moments = []
    with workspace(suite, "collect_data", "round") as folder:
        for script in ROUND:
            with contextlib.suppress(FaultMissed):  # it is done; running it again changes nothing
                moments.append(kill(suite, rng, script, folder, "round", number % 2 == 0))
            finish_and_compare(suite, script, folder, chain="round")
    if not moments:
        raise FaultMissed("no script was killed")
    record_property("kills", len(moments))
    record_property("killed", moments)


@pytest.mark.faults("kill −9 at random", script="other tools")
@pytest.mark.parametrize("number", range(REPRODUCE_RUNS), ids=lambda number: f"run {number}")
def test_reproduce_is_killed_again_and_again(
    suite: Suite, rng: np.random.Generator, record_property: Record, number: int
) -> None:
    """The whole recipe, killed at a later moment each time, resumes to the same bytes."""
    moments = []
    with workspace(suite, REPRODUCE) as folder:
        for _ in range(REPRODUCE_KILLS):
            with contextlib.suppress(FaultMissed):  # it is done; running it again changes nothing
                whole_group = number % 2 == 0
                moments.append(kill(suite, rng, REPRODUCE, folder, "reproduce", whole_group))
        finish_and_compare(suite, REPRODUCE, folder, chain="reproduce")
    if not moments:
        raise FaultMissed("it was not killed")
    record_property("kills", len(moments))
    record_property("killed", moments)


def kill(
    suite: Suite,
    rng: np.random.Generator,
    script: str,
    folder: Path,
    chain: str,
    whole_group: bool,
) -> str:
    """Start a script and kill it after a random share of its processor time, so that it is at work.

    Returns the moment. FaultMissed if the script was faster.
    """
    share = float(rng.uniform(0.02, 0.98))
    enough = share * reference(suite, script, chain).cpu
    running = start(script, folder, base=flags_of(chain))
    begun = running.cpu_seconds()  # of the fork
    running.wait_until(lambda: running.progress()[:1] == b"M")
    running.wait_until(lambda: running.cpu_seconds() - begun >= enough)
    worked, updates = running.cpu_seconds() - begun, running.updates
    running.signal(signal.SIGKILL, whole_group)
    assert_killed(running.wait().code)
    return f"{script} after {worked:.2f} s of work and {updates} updates of its progress bar"


def assert_killed(code: int) -> None:
    """FaultMissed unless the signal ended the process: only then was it at work."""
    if code != -signal.SIGKILL:
        assert code == 0, f"exit code {code} where it should have been killed"
        raise FaultMissed("it ended before it was killed")
