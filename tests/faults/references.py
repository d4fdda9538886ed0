"""Runs without a fault, which all others are compared with, and folders made from their files.

A reference is made when a case first asks for it, once for all processes of pytest-xdist.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faults import inject
from faults.ledger import sources_sha256
from faults.pipeline import CHAINS, FEWER_EPISODES, chain_of, flags_of
from faults.processes import finish, start
from utils.io.index import INDEX_NAME
from utils.io.locks import LOCK_NAME
from utils.io.records import TIMES_NAME

Record = Callable[[str, object], None]  # pytest's record_property
Files = dict[str, str]  # sha256 of every file of a folder, by its path in the folder
# Files that hold times or process numbers, so that no two runs write the same bytes.
NOT_COMPARED = (
    *(LOCK_NAME, TIMES_NAME, INDEX_NAME),
    *("stages.jsonl", "report.json"),  # of tools.reproduce
    "test_log.jsonl",  # one line for every time that test_agent.py ran
)
MEASURED = (
    "run",
    "round",
    "iterate",
    "reproduce",
)  # chains whose scripts are killed at measured moments


@dataclass(frozen=True)
class Suite:
    """Where the suite works, and its options."""

    folder: Path  # records, references and the compilation cache; kept
    scratch: Path  # a folder for each case, removed after it
    seed: int  # of every random choice
    fuzz_seconds: int  # for each fuzzed reader

    @property
    def references(self) -> Path:
        """The references of the pipeline as it is now."""
        return self.folder / references_name()


def references_name() -> str:
    """The name of the folder of references, which changes with the pipeline."""
    return f"references-{sources_sha256()[:12]}"


def files_in(folder: Path) -> Files:
    """The files in a folder, without those that are NOT_COMPARED."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in NOT_COMPARED
    }


def assert_same(found: Files, expected: Files) -> None:
    """Assert that two folders hold the same files with the same bytes."""
    missing, more = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    changed = [name for name in expected if name in found and found[name] != expected[name]]
    assert not (missing or more or changed), (
        f"missing {missing}, unexpected {more}, changed {changed}"
    )


@contextlib.contextmanager
def scratch(suite: Suite) -> Iterator[Path]:
    """An empty folder for a case, removed after it."""
    folder = suite.scratch / uuid.uuid4().hex / "here"
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder.parent, ignore_errors=True)


@dataclass(frozen=True)
class Reference:
    """A script's run without a fault."""

    before: Files
    after: Files
    sizes: dict[str, int]  # bytes of the files that it wrote
    renames: tuple[str, ...] = ()  # files that the script itself renamed into place, in order
    worker_renames: tuple[str, ...] = ()  # the same of its workers
    writes: tuple[str, ...] = ()  # files that the script itself opened for writing, in order
    cpu: float = 0.0  # seconds of processor time, workers included
    seconds: float = 0.0


def reference(suite: Suite, script: str, chain: str | None = None) -> Reference:
    """The run of a script in a chain without a fault; it is made if it does not exist."""
    chain = chain or chain_of(script)
    folder = suite.references / chain
    path, failed = folder / f"{script}.json", folder / "failed"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # held until the file is closed
            assert not failed.exists(), f"no reference: {failed.read_text()}"
            try:
                _make_until(suite, chain, script)
            except AssertionError as error:
                failed.write_text(str(error))
                raise
    return Reference(**json.loads(path.read_text()))


def remove_old_references(folder: Path) -> None:
    """Remove the references of changed pipelines, and let failed ones be made again."""
    for path in folder.glob("references-*"):
        if path.name != references_name():
            shutil.rmtree(path)
    for path in folder.glob("references-*/*/failed"):
        path.unlink()


def prepare(suite: Suite, folder: Path, files: Files, chain: str = "run") -> None:
    """Copy files of a chain of references into a folder."""
    for name, sha256 in files.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(suite.references / chain / "store" / sha256, target)


@contextlib.contextmanager
def workspace(suite: Suite, script: str, chain: str | None = None) -> Iterator[Path]:
    """A folder with the files that existed before the script ran."""
    chain = chain or chain_of(script)
    before = reference(suite, script, chain).before
    with scratch(suite) as folder:
        prepare(suite, folder, before, chain)
        yield folder


def finish_and_compare(
    suite: Suite, script: str, folder: Path, *flags: str, chain: str | None = None
) -> None:
    """Run the same command again: the files are those of the run without a fault."""
    chain = chain or chain_of(script)
    finish(script, folder, *flags, base=flags_of(chain)).assert_succeeded()
    assert_same(files_in(folder), reference(suite, script, chain).after)


def _make_until(suite: Suite, chain: str, last: str) -> None:
    """Make the references of a chain in order, up to one script's."""
    for number, script in enumerate(CHAINS[chain]):
        path = suite.references / chain / f"{script}.json"
        if not path.exists():
            with scratch(suite) as folder:
                _prepare_first(suite, folder, chain, number)
                made = _make(suite, folder, chain, script)
            whole = path.with_suffix(".partial")
            whole.write_text(json.dumps(made))
            os.replace(whole, path)
        if script == last:
            return


def _prepare_first(suite: Suite, folder: Path, chain: str, number: int) -> None:
    """The files that exist before the script at this place in its chain."""
    script = CHAINS[chain][number]
    if chain == "fewer_episodes":
        prepare(suite, folder, reference(suite, script).before)
        (folder / FEWER_EPISODES[script]).unlink()
    elif number > 0:
        path = suite.references / chain / f"{CHAINS[chain][number - 1]}.json"
        prepare(suite, folder, json.loads(path.read_text())["after"], chain)
    elif chain in ("round", "iterate"):
        prepare(suite, folder, reference(suite, "test_agent").after)
    elif chain != "reproduce":
        random = ("--mode", "random", "--episodes", "2")
        finish("collect_data", folder, *random, *_seed(chain)).assert_succeeded()


def _seed(chain: str) -> tuple[str, ...]:
    return ("--seed", "1") if chain == "other_seed" else ()


def _make(suite: Suite, folder: Path, chain: str, script: str) -> dict[str, Any]:
    """Run a script in a folder and store all files by their sha256.

    In a chain whose scripts are killed it runs twice, which must give the same bytes. The second
    run finds everything compiled and tells how long the script takes.
    """
    before = _store(suite, folder, chain)
    finish(script, folder, *_seed(chain), base=flags_of(chain)).assert_succeeded()
    after = _store(suite, folder, chain)
    measured: dict[str, Any] = {}
    if chain in MEASURED:
        with scratch(suite) as again:
            prepare(suite, again, before, chain)
            measured = _measure(script, again, chain)
            assert_same(files_in(again), after)
    sizes = {
        name: (folder / name).stat().st_size
        for name, sha256 in after.items()
        if before.get(name) != sha256
    }
    return {"before": before, "after": after, "sizes": sizes, **measured}


def _measure(script: str, folder: Path, chain: str) -> dict[str, Any]:
    """Renames, writes and processor time of a script."""
    counts, begun, cpu = folder.parent / "counts", time.monotonic(), 0.0
    running = start(script, folder, base=flags_of(chain), inject=inject.counting(counts))
    while running.process.is_alive():
        cpu = max(cpu, running.cpu_seconds())
        time.sleep(0.01)
    running.wait().assert_succeeded()
    lines = counts.read_text().splitlines() if counts.exists() else []
    found: dict[str, list[str]] = {"rename": [], "worker": [], "write": []}
    for kind, path in (line.split(" ", 1) for line in lines):
        found[kind].append(path)
    return {
        "renames": found["rename"],
        "worker_renames": found["worker"],
        "writes": found["write"],
        "cpu": cpu,
        "seconds": time.monotonic() - begun,
    }


def _store(suite: Suite, folder: Path, chain: str) -> Files:
    """Copy the files of a folder into the chain's store; returns their sha256."""
    store, files = suite.references / chain / "store", files_in(folder)
    store.mkdir(exist_ok=True)
    for name, sha256 in files.items():
        shutil.copy2(folder / name, store / sha256)
    return files
