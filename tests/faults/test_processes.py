"""Signals, workers that die or hang, a second run on the same folder, and clocks that jump."""

import signal

import numpy as np
import pytest

from faults import inject
from faults.pipeline import FLAGS, SAVE_NEVER, TRAININGS
from faults.processes import FaultMissed, finish, start
from faults.references import (
    Record,
    Suite,
    assert_same,
    files_in,
    finish_and_compare,
    reference,
    workspace,
)
from utils.io.checkpoints import read_header

HANG_SECONDS = 45.0  # after which a worker counts as hanging; to load a model takes about three
EXIT_CODES = {"SIGINT": 130, "SIGTERM": 143}


@pytest.mark.faults("two runs on one folder")
@pytest.mark.parametrize("script", FLAGS)
def test_second_run_refused(suite: Suite, script: str) -> None:
    """While a script is at work, a second run of it is refused and does no harm."""
    with workspace(suite, script) as folder:
        first = start(script, folder)
        first.wait_until(lambda: first.updates > 0)
        first.signal(signal.SIGSTOP)
        try:
            ended = finish(script, folder)
        finally:
            first.signal(signal.SIGCONT)
        first.wait().assert_succeeded()
        ended.assert_failed("is in use by", str(first.group))
        assert_same(files_in(folder), reference(suite, script).after)


@pytest.mark.faults("stopped by {name}")
@pytest.mark.parametrize("number", range(2), ids=lambda number: f"stop {number}")
@pytest.mark.parametrize("name", EXIT_CODES)
@pytest.mark.parametrize("script", FLAGS)
def test_stopped_by_a_signal(
    suite: Suite,
    rng: np.random.Generator,
    record_property: Record,
    script: str,
    name: str,
    number: int,
) -> None:
    """Ctrl-C reaches all processes, SIGTERM the script alone. A training saves its last step."""
    flags = SAVE_NEVER.get(script, ())
    with workspace(suite, script) as folder:
        running = start(script, folder, *flags)
        wanted = 1 if script not in TRAININGS else int(rng.integers(1, 4))
        running.wait_until(lambda: running.updates >= wanted)
        updates = running.updates
        running.signal(getattr(signal, name), whole_group=name == "SIGINT")
        ended = running.wait()
        if ended.code == 0:
            raise FaultMissed("it ended before the signal came")
        assert ended.code == EXIT_CODES[name], f"exit code {ended.code}: {ended.errors[-500:]}"
        ended.assert_no_traceback()
        if script in TRAININGS:
            final = folder / "run" / f"{TRAININGS[script]}.eqx"
            saved = folder / "run" / f"{TRAININGS[script]}.training.eqx"
            if not final.exists():
                step = read_header(saved).progress["step"]
                assert step >= updates, f"step {step} was saved, but {updates} were done"
        finish_and_compare(suite, script, folder, *flags)
    record_property("progress", f"{updates} updates of the progress bar before the signal")


@pytest.mark.faults("workers: {order}")
@pytest.mark.parametrize("order", ["die-once", "die", "hang"])
@pytest.mark.parametrize("script", ["collect_data", "train_dream", "test_agent"])
def test_workers_die_or_hang(suite: Suite, script: str, order: str) -> None:
    """A worker that dies once or hangs is replaced. One that always dies ends the script."""
    with workspace(suite, script) as folder:
        notes = folder.parent / "notes"
        seconds = HANG_SECONDS if order == "hang" else None
        ended = finish(script, folder, inject=inject.worker_orders(order, 0, notes, seconds))
        if order == "die":
            ended.assert_failed("episode on track", "died or hung 3 times")
            finish_and_compare(suite, script, folder)
        else:
            ended.assert_succeeded()
            assert len(notes.read_text().splitlines()) > 1, "no worker was replaced"
            assert_same(files_in(folder), reference(suite, script).after)


@pytest.mark.faults("clock jumps")
@pytest.mark.parametrize("hours", [-30, 30], ids=lambda hours: f"{hours} hours")
@pytest.mark.parametrize("script", FLAGS)
def test_clock_jumps(suite: Suite, rng: np.random.Generator, script: str, hours: int) -> None:
    """The wall clock is set back or forth while the script is at work."""
    done = reference(suite, script)
    with workspace(suite, script) as folder:
        jump = inject.clock_jump(3600.0 * hours, after=float(rng.uniform(0, done.seconds)))
        finish(script, folder, inject=jump).assert_succeeded()
        assert_same(files_in(folder), done.after)
