"""All trials, in one order, and what becomes of their results."""

import argparse
import datetime
import hashlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from faults import damage, fuzz, kills, numbers, paths, report, resources, staleness
from faults.stages import CHAINS, ROOT, import_scripts, make_references
from faults.trials import Ledger, Suite, Trial, run_all

PARTS = [kills, resources, damage, staleness, numbers, paths, fuzz]
# What `make test` does of it: no model is trained, everything takes some seconds.
QUICK_CHAINS = {"run": ("collect",)}
QUICK = (
    "kill −9 at a rename | collect | before rename 2 of the worker",
    "kill −9 at random | collect | kill 0",
    "disk full: RLIMIT_FSIZE | collect | file 1 by size does not fit",
    "paths: links inside | collect",
    "damage: corpus | loader | latent",
    "damage: corpus | loader | checkpoint",
    "damage: truncation | loader",
)


def run(arguments: argparse.Namespace, about: dict[str, Any], work: Path) -> None:
    """Make the references, run the trials and, if all were asked for, write the report."""
    begun = time.monotonic()
    sys.stdout.reconfigure(line_buffering=True)
    os.environ["FAULTS_FUZZ_SECONDS"] = str(arguments.fuzz_seconds)
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
        # Trials and uninterrupted runs hold as long as the code does that they are of.
        pipeline = [*ROOT.glob("*.py"), *ROOT.glob("models/*.py"), *ROOT.glob("utils/*.py")]
        stages = [ROOT / "faults" / name for name in ("stages.py", "inject.py")]
        where = {"seed": arguments.seed, "machine": about["machine"]}
        preparations = Ledger(
            work / "references.jsonl", {**where, "sources": sha256_of_all(pipeline + stages)}
        )
        for chain, stages in (QUICK_CHAINS if arguments.quick else CHAINS).items():
            trial = Trial("reference", "round", chain, make_references, (chain, stages))
            run_all(suite, [trial], preparations, 1, deadline)
            if not preparations.records[trial.key]["survived"]:
                sys.exit("the uninterrupted run failed: no trials")
        wanted = QUICK if arguments.quick else (arguments.only,)
        trials = [t for t in all_trials(suite) if any(part in t.key for part in wanted)]
        if arguments.list:
            for trial in trials:
                print(trial.key)
            return
        everything = [*pipeline, *ROOT.glob("faults/*.py")]
        ledger = Ledger(work / "results.jsonl", {**where, "sources": sha256_of_all(everything)})
        run_all(suite, trials, ledger, arguments.lanes, deadline)
        records = [ledger.records[t.key] for t in trials if t.key in ledger.records]
        # A run that was stopped and gone on with took as long as all its trials did.
        minutes = sum(record["seconds"] for record in records) / 60 / arguments.lanes
        date = datetime.date.today().isoformat()
        summary = report.summarise(records, about, date, minutes)
        print(f"{len(records)} of {len(trials)} run; {summary['survived']} of {summary['trials']}")
        if wanted == ("",) and len(records) == len(trials):
            report.write(summary, ROOT / "docs")
        sys.exit(1 if summary["broken"] or len(records) < len(trials) else 0)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def sha256_of_all(paths: list[Path]) -> str:
    """Hex sha256 of some source files."""
    texts = [f"{path.relative_to(ROOT)}\n{path.read_text()}" for path in sorted(paths)]
    return hashlib.sha256("".join(texts).encode()).hexdigest()


def all_trials(suite: Suite) -> Iterator[Trial]:
    """The trials of all parts."""
    for part in PARTS:
        yield from part.trials(suite)
