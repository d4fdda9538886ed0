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
from types import ModuleType
from typing import Any

from faults import (
    clusters,
    corpus,
    damage,
    fuzz,
    guard,
    inject,
    kills,
    loaders,
    memory,
    numbers,
    paths,
    references,
    report,
    resources,
    stages,
    staleness,
)
from faults.stages import CHAINS, ROOT, import_scripts
from faults.trials import Ledger, Suite, Trial, run_all

# Each kind of fault, with what it uses besides what all do; what takes longest goes first.
PARTS: dict[ModuleType, tuple[ModuleType, ...]] = {
    memory: (),
    fuzz: (corpus, guard),
    loaders: (corpus, guard),
    kills: (),
    resources: (),
    clusters: (),
    damage: (corpus,),
    staleness: (),
    numbers: (),
    paths: (),
}
SHARED = (inject, references, stages)
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
    memory_disk = Path("/dev/shm")
    where = memory_disk if memory_disk.is_dir() else work
    scratch = Path(tempfile.mkdtemp(prefix="faults-", dir=where))
    os.chmod(scratch, 0o755)
    try:
        suite = Suite(work, scratch, arguments.seed)
        if arguments.fresh:
            (work / "results.jsonl").unlink(missing_ok=True)
        ledger = Ledger(work / "results.jsonl", lambda trial: depends_on(trial, about))
        deadline = begun + 60 * arguments.minutes
        uninterrupted = []
        for chain, parts in (QUICK_CHAINS if arguments.quick else CHAINS).items():
            trial = Trial("reference", "round", chain, references.make_references, (chain, parts))
            run_all(suite, [trial], ledger, 1, deadline)
            uninterrupted.append(ledger.get(trial))
            if not (uninterrupted[-1] and uninterrupted[-1]["survived"]):
                sys.exit("the uninterrupted run failed: no trials")
        wanted = QUICK if arguments.quick else (arguments.only,)
        trials = [t for t in all_trials(suite) if any(text in t.key for text in wanted)]
        if arguments.list:
            for trial in trials:
                print(trial.key)
            return
        run_all(suite, trials, ledger, arguments.lanes, deadline)
        records = [record for record in map(ledger.get, trials) if record]
        # A run that was stopped and gone on with took as long as all its trials did.
        spent = {
            "minutes": sum(r["seconds"] for r in uninterrupted) / 60
            + sum(r["seconds"] for r in records) / 60 / arguments.lanes,
            "cpu_minutes": sum(r["cpu"] for r in [*uninterrupted, *records]) / 60,
        }
        about = {**about, "date": datetime.date.today().isoformat(), **spent}
        summary = report.summarise(records, about)
        print(f"{len(records)} of {len(trials)} run; {summary['survived']} of {summary['trials']}")
        if wanted == ("",) and len(records) == len(trials):
            report.write(summary, ROOT / "docs")
        sys.exit(1 if summary["broken"] or len(records) < len(trials) else 0)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def depends_on(trial: Trial, about: dict[str, Any]) -> dict[str, Any]:
    """What a result holds for: the pipeline, what all trials share, and the trial's own part."""
    own = sys.modules[trial.attempt.__module__]
    paths = [*ROOT.glob("*.py"), *ROOT.glob("models/*.py"), *ROOT.glob("utils/*.py")]
    paths += {Path(module.__file__) for module in (own, *SHARED, *PARTS.get(own, ()))}
    return {"sources": sha256_of_all(paths), "seed": about["seed"], "machine": about["machine"]}


def sha256_of_all(paths: list[Path]) -> str:
    """Hex sha256 of some source files."""
    texts = [f"{path.relative_to(ROOT)}\n{path.read_text()}" for path in sorted(paths)]
    return hashlib.sha256("".join(texts).encode()).hexdigest()


def all_trials(suite: Suite) -> Iterator[Trial]:
    """The trials of all parts."""
    for part in PARTS:
        yield from part.trials(suite)
