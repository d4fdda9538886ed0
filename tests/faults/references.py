"""The uninterrupted runs that all others are compared with, and folders made from their files."""

import contextlib
import hashlib
import json
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from faults import inject
from faults.stages import ABSENT, FLAGS, ROUND, finish, start
from faults.trials import Suite
from utils.io.files import LOCK_NAME
from utils.io.records import TIMES_NAME

Files = dict[str, str]  # sha256 of every file of a folder, by its path in there


def files_in(folder: Path) -> Files:
    """What is in a folder, but for locks and times."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (LOCK_NAME, TIMES_NAME)
    }


def assert_same(found: Files, expected: Files) -> None:
    """Assert that two folders hold the same files with the same bytes."""
    missing, more = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    changed = [name for name in expected if name in found and found[name] != expected[name]]
    assert not (missing or more or changed), f"missing {missing}, left {more}, changed {changed}"


@contextlib.contextmanager
def scratch(suite: Suite) -> Iterator[Path]:
    """An empty folder for a trial, removed after it."""
    folder = suite.scratch / uuid.uuid4().hex / "here"
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder.parent, ignore_errors=True)


@dataclass(frozen=True)
class Reference:
    """A stage's uninterrupted run."""

    before: Files
    after: Files
    sizes: dict[str, int]  # bytes of the files that it made
    renames: tuple[str, ...] = ()  # the files that the script itself renamed into place, in order
    worker_renames: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()  # the files that the script itself opened to fill, in order
    cpu: float = 0.0  # seconds, with its workers'
    seconds: float = 0.0


def reference(suite: Suite, stage: str, chain: str | None = None) -> Reference:
    """The uninterrupted run of a stage; of a round it is the one by tools.iterate."""
    return Reference(**_references(suite, chain or chain_of(stage))[stage])


def referenced(suite: Suite) -> list[str]:
    """What there are uninterrupted runs of: six stages and a round, but for the quick share."""
    return [*_references(suite, "run"), *_references(suite, "iterate")]


def chain_of(stage: str) -> str:
    """The chain that a stage is tried in unless another is named."""
    return "iterate" if stage == "round" else "run"


def _references(suite: Suite, chain: str) -> dict[str, Any]:
    path = suite.work / chain / "references.json"
    return json.loads(path.read_text()) if path.exists() else {}


def prepare(suite: Suite, folder: Path, files: Files, chain: str = "run") -> None:
    """Put files of a chain of references into a folder."""
    for name, sha256 in files.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(suite.work / chain / "store" / sha256, target)


@contextlib.contextmanager
def workspace(suite: Suite, stage: str, chain: str | None = None) -> Iterator[Path]:
    """A folder with what was there before the stage ran."""
    chain = chain or chain_of(stage)
    with scratch(suite) as folder:
        prepare(suite, folder, reference(suite, stage, chain).before, chain)
        yield folder


def make_references(
    suite: Suite, rng: np.random.Generator, chain: str, stages: tuple[str, ...]
) -> None:
    """Run a chain of stages uninterrupted and keep every file that they made, by its sha256.

    "run" is all six stages; "other" the same with another seed; "round" a Sim2Real2Sim round on
    top of "run", "iterate" one by tools.iterate; "absent" the stages of "run" that learn, each with
    one of its files removed.
    What all is compared with must be reproducible itself: a stage that will be killed is run
    twice, and the second run, with all compiled, says how long it takes.
    """
    store = suite.work / chain / "store"
    shutil.rmtree(store.parent, ignore_errors=True)
    store.mkdir(parents=True)
    references: dict[str, dict[str, Any]] = {}
    with scratch(suite) as folder:
        extra = ("--seed", "1") if chain == "other" else ()
        if chain in ("round", "iterate"):
            prepare(suite, folder, reference(suite, "drive").after)
        elif chain in ("run", "other"):
            mode = ("--mode", "random", "--episodes", "2")
            finish("collect", folder, *mode, *extra).succeeded()
        for stage in stages:
            if chain == "absent":
                shutil.rmtree(folder)
                prepare(suite, folder, reference(suite, stage).before)
                (folder / ABSENT[stage]).unlink()
            _keep(folder, store)
            before = files_in(folder)
            base = ROUND if chain == "round" else FLAGS
            finish(stage, folder, *extra, base=base).succeeded()
            _keep(folder, store)
            after, measured = files_in(folder), {}
            if chain in ("run", "round", "iterate"):
                with scratch(suite) as again:
                    prepare(suite, again, before, chain)
                    measured = _measure(stage, again, base)
                    assert_same(files_in(again), after)
            sizes = {n: (folder / n).stat().st_size for n in after if before.get(n) != after[n]}
            references[stage] = {"before": before, "after": after, "sizes": sizes, **measured}
    (suite.work / chain / "references.json").write_text(json.dumps(references))


def _measure(stage: str, folder: Path, base: Mapping[str, str]) -> dict[str, Any]:
    """Renames, writes and processor time of a stage."""
    counts, begun, cpu = folder.parent / "counts", time.monotonic(), 0.0
    running = start(stage, folder, base=base, inject=inject.counting(counts))
    while running.process.is_alive():
        cpu = max(cpu, running.cpu_seconds())
        time.sleep(0.01)
    running.wait().succeeded()
    lines = counts.read_text().splitlines() if counts.exists() else []
    return {
        "renames": [line.split(" ", 1)[1] for line in lines if line.startswith("rename ")],
        "worker_renames": [line.split(" ", 1)[1] for line in lines if line.startswith("worker ")],
        "writes": [line.split(" ", 1)[1] for line in lines if line.startswith("write ")],
        "cpu": cpu,
        "seconds": time.monotonic() - begun,
    }


def _keep(folder: Path, store: Path) -> None:
    for name, sha256 in files_in(folder).items():
        shutil.copy2(folder / name, store / sha256)
