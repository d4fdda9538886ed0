"""kill −9 at every rename and at random moments; the rerun must end as if nothing had happened."""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from faults import inject
from faults.references import assert_same, chain_of, files_in, reference, referenced, workspace
from faults.stages import FLAGS, ROUND, finish, start
from faults.trials import NotTried, Suite, Trial

RANDOM_KILLS = 16  # of each stage
ROUND_KILLS = 8  # of tools.iterate, which takes five times as long
ROUNDS = 5  # by hand; in each, every stage is killed once


def trials(suite: Suite) -> Iterator[Trial]:
    """All kills."""
    for stage in referenced(suite):
        done = reference(suite, stage)
        for who, renames in (("script", done.renames), ("worker", done.worker_renames)):
            for number, target in enumerate(renames, 1):
                moments = ("before", "after")
                if stage == "round":  # the renames that are its own, each once: it takes long
                    moments = (moments[number % 2],) if "/rounds/" in target else ()
                for moment in moments:
                    name = f"{moment} rename {number} of the {who}"
                    how = (stage, who, number, moment)
                    yield Trial("kill −9 at a rename", stage, name, at_rename, how)
        for number in range(ROUND_KILLS if stage == "round" else RANDOM_KILLS):
            yield Trial("kill −9 at random", stage, f"kill {number}", at_random, (stage, number))
    for number in range(ROUNDS):
        yield Trial("kill −9 at random", "round", f"round {number}", whole_round, (number,))


def at_rename(
    suite: Suite, rng: np.random.Generator, stage: str, who: str, number: int, moment: str
) -> dict[str, Any]:
    """Kill around a rename of the script, or all its processes around one of a worker."""
    with workspace(suite, stage) as folder:
        notes = folder.parent / "notes"
        dying = (
            inject.dying_at_rename(number, moment)
            if who == "script"
            else inject.worker_orders(moment, number, notes)
        )
        ended = finish(stage, folder, inject=dying)
        assert_killed(ended.code)
        finish_and_compare(suite, stage, folder)
    return {"kills": 1}


def at_random(suite: Suite, rng: np.random.Generator, stage: str, number: int) -> dict[str, Any]:
    """Kill at a random moment of the stage's work, in turns the script alone or its group."""
    with workspace(suite, stage) as folder:
        fact = kill(suite, rng, stage, folder, chain_of(stage), whole_group=number % 2 == 0)
        finish_and_compare(suite, stage, folder)
    return {"kills": 1, **fact}


def whole_round(suite: Suite, rng: np.random.Generator, number: int) -> dict[str, Any]:
    """Every stage of a Sim2Real2Sim round is killed once and run again, one upon the other."""
    moments = {}
    with workspace(suite, "collect", "round") as folder:
        for stage in ROUND:
            for _ in range(5):
                try:
                    moments |= kill(suite, rng, stage, folder, "round", number % 2 == 0)
                    break
                except NotTried:
                    finish_and_compare(suite, stage, folder, "round")
                    return {"kills": len(moments), "trials": len(moments), **moments}
            finish_and_compare(suite, stage, folder, "round")
    return {"kills": len(ROUND), "trials": len(ROUND), **moments}


def kill(
    suite: Suite,
    rng: np.random.Generator,
    stage: str,
    folder: Path,
    chain: str,
    whole_group: bool,
) -> dict[str, Any]:
    """Start a stage and kill it after a random share of its processor time: it is at work then.

    Returns that share. NotTried if it was faster.
    """
    share = float(rng.uniform(0.02, 0.98))
    enough = share * reference(suite, stage, chain).cpu
    running = start(stage, folder, base=ROUND if chain == "round" else FLAGS)
    begun = running.cpu_seconds()  # what importing and forking took
    running.wait_until(lambda: running.progress()[:1] == b"M")
    running.wait_until(lambda: running.cpu_seconds() - begun >= enough)
    worked, beats = running.cpu_seconds() - begun, running.beats
    running.signal(signal.SIGKILL, whole_group)
    assert_killed(running.wait().code)
    return {f"{stage} killed after": f"{worked:.2f} s of work, bar at {beats}"}


def assert_killed(code: int) -> None:
    """NotTried unless the signal ended the process: then it was at work."""
    if code != -signal.SIGKILL:
        assert code == 0, f"exit code {code} where it should have been killed"
        raise NotTried("it ended before it was killed")


def finish_and_compare(suite: Suite, stage: str, folder: Path, chain: str | None = None) -> None:
    """Run the stage again: same files, same bytes, nothing else."""
    finish(stage, folder, base=ROUND if chain == "round" else FLAGS).succeeded()
    assert_same(files_in(folder), reference(suite, stage, chain).after)
