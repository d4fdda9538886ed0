"""All trials, in one order, and what becomes of their results."""

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from faults import kills
from faults.stages import import_scripts, make_references
from faults.trials import Ledger, Suite, Trial, run_all

PARTS = [kills]
CHAINS = ("run", "other", "round")


def run(arguments: argparse.Namespace, about: dict[str, Any], work: Path) -> None:
    """Make the references, run the trials and, if all were asked for, write the report."""
    begun = time.monotonic()
    sys.stdout.reconfigure(line_buffering=True)
    import_scripts()
    # Files of a trial are forced to disk by the hundred: memory is a quicker disk.
    memory = Path("/dev/shm")
    scratch = Path(tempfile.mkdtemp(prefix="faults-", dir=memory if memory.is_dir() else work))
    os.chmod(scratch, 0o755)
    try:
        suite = Suite(work, scratch, arguments.seed)
        if arguments.fresh:
            (work / "results.jsonl").unlink(missing_ok=True)
        deadline = begun + 60 * arguments.minutes
        preparations = Ledger(work / "references.jsonl", about)
        for chain in CHAINS:
            trial = Trial("reference", "round", chain, make_references, (chain,))
            run_all(suite, [trial], preparations, 1, deadline)
            if not preparations.records[trial.key]["survived"]:
                sys.exit("the uninterrupted run failed: no trials")
        trials = [t for t in all_trials(suite) if arguments.only in t.key]
        if arguments.list:
            for trial in trials:
                print(trial.key)
            return
        ledger = Ledger(work / "results.jsonl", about)
        run_all(suite, trials, ledger, arguments.lanes, deadline)
        broken = [r for r in ledger.records.values() if r["survived"] is False]
        print(f"{len(ledger.records)} of {len(trials)} in {(time.monotonic() - begun) / 60:.1f} min")
        sys.exit(1 if broken else 0)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def all_trials(suite: Suite) -> Iterator[Trial]:
    """The trials of all parts."""
    for part in PARTS:
        yield from part.trials(suite)
