"""All trials, in one order, and what becomes of their results."""

import argparse
import contextlib
import datetime
import functools
import hashlib
import math
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
ROOMS = ("models", "utils", "envs", "tools", "fast_car_racing")
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
    where = {"seed": about["seed"], "machine": about["machine"]}
    for part in PARTS:
        sha256_of_sources(part)  # now, as they were imported: they may be changed meanwhile
    with scratch_folder(work) as scratch:
        suite = Suite(work, scratch, arguments.seed)
        if arguments.fresh:
            (work / "results.jsonl").unlink(missing_ok=True)
        ledger = Ledger(work / "results.jsonl", lambda trial: {**where, "sources": sources(trial)})
        deadline = begun + 60 * arguments.minutes
        chains = QUICK_CHAINS if arguments.quick else CHAINS
        first, *others = (reference_of(*chain) for chain in chains.items())
        uninterrupted = run_uninterrupted(suite, ledger, [first], 1)  # the others build on it
        uninterrupted += run_uninterrupted(suite, ledger, others, arguments.lanes)
        wanted = QUICK if arguments.quick else (arguments.only,)
        trials = [t for t in all_trials(suite) if any(text in t.key for text in wanted)]
        if arguments.list:
            print("\n".join(trial.key for trial in trials))
            return
        run_all(suite, trials, ledger, arguments.lanes, deadline)
    records = [record for record in map(ledger.get, trials) if record]
    # A run that was stopped and gone on with took as long as all its trials did.
    everything = [*uninterrupted, *records]
    about |= {
        "date": datetime.date.today().isoformat(),
        "minutes": sum(r["seconds"] for r in everything) / 60 / arguments.lanes,
        "cpu_minutes": sum(r["cpu"] for r in everything) / 60,
    }
    summary = report.summarise(records, len(trials), about)
    print(f"{len(records)} of {len(trials)} run; {summary['survived']} of {summary['trials']}")
    if wanted == ("",):
        report.write(summary, ROOT / "docs")
    sys.exit(1 if summary["broken"] or len(records) < len(trials) else 0)


@contextlib.contextmanager
def scratch_folder(work: Path) -> Iterator[Path]:
    """A folder for the trials, removed after them."""
    # Files of a trial are forced to disk by the hundred: memory is a quicker disk.
    memory_disk = Path("/dev/shm")
    where = memory_disk if memory_disk.is_dir() else work
    folder = Path(tempfile.mkdtemp(prefix="faults-", dir=where))
    os.chmod(folder, 0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def reference_of(chain: str, stages: tuple[str, ...]) -> Trial:
    """The making of what a chain of stages leaves behind when nothing happens to it."""
    return Trial("reference", "round", chain, references.make_references, (chain, stages))


def run_uninterrupted(
    suite: Suite, ledger: Ledger, chains: list[Trial], lanes: int
) -> list[dict[str, Any]]:
    """Make the references that the ledger lacks; its records of all."""
    run_all(suite, chains, ledger, lanes, deadline=math.inf)
    records = [record for record in map(ledger.get, chains) if record]
    if not all(record["survived"] for record in records):
        sys.exit("an uninterrupted run failed: no trials")
    return records


def sources(trial: Trial) -> str:
    """What a result holds for: the pipeline, what all trials share, and the trial's own part."""
    return sha256_of_sources(sys.modules[trial.attempt.__module__])


@functools.cache
def sha256_of_sources(own: ModuleType) -> str:
    """Hex sha256 of the pipeline and of the modules that a part of this suite uses."""
    files = {Path(module.__file__) for module in (own, *SHARED, *PARTS.get(own, ()))}
    files |= {f for room in ROOMS for f in (ROOT / room).rglob("*.py")}
    files |= set(ROOT.glob("*.py"))
    texts = [f"{path.relative_to(ROOT)}\n{path.read_text()}" for path in sorted(files)]
    return hashlib.sha256("".join(texts).encode()).hexdigest()


def all_trials(suite: Suite) -> Iterator[Trial]:
    """The trials of all parts."""
    for part in PARTS:
        yield from part.trials(suite)
