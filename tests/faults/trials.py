"""Trials: one fault against one stage, survived or not, and the ledger that they are written to."""

import contextlib
import ctypes
import json
import multiprocessing
import os
import resource
import time
import traceback
import zlib
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

STAGES = ("collect", "see", "encode", "predict", "dream", "drive", "round", "other", "loader")
FORK = multiprocessing.get_context("fork")
PR_SET_CHILD_SUBREAPER = 36  # of prctl(2)
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


def cpu_seconds() -> float:
    """Processor time of this process and of all below it that it has seen end."""
    used = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return round(sum(u.ru_utime + u.ru_stime for u in used), 2)


class Ledger:
    """The records of a suite's run as JSON lines; a rerun goes on from those that still hold.

    `about(trial)` is what a record depends on: code, seed, machine.
    """

    def __init__(self, path: Path, about: Callable[[Trial], dict[str, Any]]):
        self.path, self.about = path, about
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_text().splitlines() if path.exists() else []
        self._records = {record["key"]: record for record in map(json.loads, lines)}

    def get(self, trial: Trial) -> dict[str, Any] | None:
        """The record of a trial that has been run, by this very code."""
        record = self._records.get(trial.key)
        return record if record and record["about"] == self.about(trial) else None

    def add(self, trial: Trial, record: dict[str, Any]) -> None:
        """Append a record."""
        record = {**record, "about": self.about(trial)}
        self._records[trial.key] = record
        with open(self.path, "a") as file:
            file.write(json.dumps(record) + "\n")


def run_all(
    suite: Suite, trials: Iterable[Trial], ledger: Ledger, lanes: int, deadline: float
) -> None:
    """Run what the ledger lacks, `lanes` at a time; print each as it ends."""
    todo = [trial for trial in trials if ledger.get(trial) is None]
    with ProcessPoolExecutor(lanes, FORK) as pool:
        futures = {pool.submit(_run_in_time, trial, suite, deadline): trial for trial in todo}
        for done, future in enumerate(as_completed(futures), 1):
            record = future.result()
            if record is None:
                continue
            ledger.add(futures[future], record)
            verdict = {True: "survived", False: "BROKEN", None: "not tried"}[record["survived"]]
            said = f" - {record['problem']}" if record["problem"] else ""
            print(f"[{done}/{len(todo)}] {verdict} {record['key']} {record['seconds']}s{said}")


def _run_in_time(trial: Trial, suite: Suite, deadline: float) -> dict[str, Any] | None:
    """Run a trial in a process of its own: what it does to JAX or its environment ends with it."""
    if time.monotonic() > deadline:
        return None
    receiver, sender = FORK.Pipe(duplex=False)
    process = FORK.Process(target=_run_alone, args=(trial, suite, sender))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        process.join()
        problem = f"the trial's own process ended with {process.exitcode}"
        return trial.record() | {"survived": False, "problem": problem, "seconds": 0.0, "cpu": 0.0}
    finally:
        process.join()


def _run_alone(trial: Trial, suite: Suite, sender: Connection) -> None:
    """Also inherit the children of killed children: their processor time counts."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    record = trial.run(suite)
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass
    sender.send(record | {"cpu": cpu_seconds()})
