"""Trials: one fault against one stage, survived or not, and the ledger that they are written to."""

import json
import multiprocessing
import time
import traceback
import zlib
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

STAGES = ("collect", "see", "encode", "predict", "dream", "drive", "round", "loader")
FORK = multiprocessing.get_context("fork")
ATTEMPTS = 5  # of a trial whose fault came too late to strike


class NotTried(Exception):
    """The fault did not strike, or this machine cannot make it: no trial."""


@dataclass(frozen=True)
class Suite:
    """Where things lie, and the seed of every random choice."""

    work: Path  # reference runs, compilation cache, results; kept
    scratch: Path  # a folder for each trial, removed after it
    seed: int


@dataclass(frozen=True)
class Trial:
    """`attempt(suite, rng, *arguments)` raises AssertionError where the fault was not survived.

    It may return facts; a fact "trials" says how many trials it was.
    """

    fault: str  # a row of the table
    stage: str  # a column: one of STAGES
    name: str  # tells it from the others of its cell
    attempt: Callable[..., dict[str, Any] | None]
    arguments: tuple[Any, ...] = ()

    @property
    def key(self) -> str:
        """Its name in the ledger."""
        return f"{self.fault} | {self.stage} | {self.name}"

    def record(self) -> dict[str, Any]:
        """What the ledger has of a trial that was not run yet."""
        about = {"key": self.key, "fault": self.fault, "stage": self.stage, "trials": 1}
        return {**about, "survived": None, "problem": None}

    def run(self, suite: Suite) -> dict[str, Any]:
        """The ledger's record of this trial."""
        begun, record = time.monotonic(), self.record()
        for number in range(ATTEMPTS):
            rng = np.random.default_rng([suite.seed, zlib.crc32(self.key.encode()), number])
            try:
                record |= self.attempt(suite, rng, *self.arguments) or {}
                record |= {"survived": True, "problem": None}
                break
            except NotTried as reason:
                record["problem"] = f"not tried: {reason}"
            except Exception as error:
                where = traceback.extract_tb(error.__traceback__)[-1]
                place = f"{Path(where.filename).name}:{where.lineno}"
                record |= {"survived": False, "problem": f"{type(error).__name__} {place}: {error}"}
                break
        return record | {"seconds": round(time.monotonic() - begun, 2)}


class Ledger:
    """The records of a suite's run as JSON lines; a rerun of the same suite goes on from them."""

    def __init__(self, path: Path, about: dict[str, Any]):
        self.path = path
        lines = path.read_text().splitlines() if path.exists() else []
        known = [json.loads(line) for line in lines]
        same = bool(known) and {k: known[0].get(k) for k in about} == about
        self.records = {r["key"]: r for r in known[1:] if same}
        path.parent.mkdir(parents=True, exist_ok=True)
        if not same:
            path.write_text(json.dumps(about) + "\n")

    def add(self, record: dict[str, Any]) -> None:
        """Append a record."""
        self.records[record["key"]] = record
        with open(self.path, "a") as file:
            file.write(json.dumps(record) + "\n")


def run_all(
    suite: Suite, trials: Iterable[Trial], ledger: Ledger, lanes: int, deadline: float
) -> None:
    """Run what the ledger lacks, `lanes` at a time; print each as it ends."""
    todo = [trial for trial in trials if trial.key not in ledger.records]
    with ProcessPoolExecutor(lanes, FORK) as pool:
        futures = [pool.submit(_run_in_time, trial, suite, deadline) for trial in todo]
        for done, future in enumerate(as_completed(futures), 1):
            record = future.result()
            if record is None:
                continue
            ledger.add(record)
            verdict = {True: "survived", False: "BROKEN", None: "not tried"}[record["survived"]]
            said = f" - {record['problem']}" if record["problem"] else ""
            print(f"[{done}/{len(todo)}] {verdict} {record['key']} {record['seconds']}s{said}")


def _run_in_time(trial: Trial, suite: Suite, deadline: float) -> dict[str, Any] | None:
    """Run a trial in a process of its own: what it does to JAX or its environment ends with it."""
    if time.monotonic() > deadline:
        return None
    receiver, sender = FORK.Pipe(duplex=False)
    process = FORK.Process(target=lambda: sender.send(trial.run(suite)))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        process.join()
        problem = f"the trial's own process ended with {process.exitcode}"
        return trial.record() | {"survived": False, "problem": problem, "seconds": 0.0}
    finally:
        process.join()
