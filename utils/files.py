"""The one place that writes files: whole or not at all, and one run to a folder."""

import contextlib
import datetime
import fcntl
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from utils.commandline import Failure

# Temporary files start with a dot and end so, hence no reader's pattern ever matches one.
TEMPORARY_SUFFIX = ".partial"
LOCK_NAME = ".lock"
# Which stages worked on a folder, and how long. Apart from metrics and checkpoints, whose bytes
# say nothing of when they were made.
TIMES_NAME = "times.jsonl"


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`; what was written there becomes `path` when all went well.

    Killed at any moment, `path` holds the old bytes or the new ones. A full disk or any other
    OSError leaves the old ones, removes the temporary file and names `path`.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY_SUFFIX}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise Failure(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_atomically(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Call `write(file)` on a file that becomes `path` as `replacing` says."""
    with replacing(path) as temporary, open(temporary, "wb") as file:
        write(file)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))


def sweep(folder: Path) -> None:
    """Remove what killed runs left half-written below `folder`; call it with the lock held."""
    for orphan in folder.rglob(f".*{TEMPORARY_SUFFIX}"):
        orphan.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process; a second run gets a Failure that names the first.

    The lock is the kernel's (flock), so it dies with its process, however that ends.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / LOCK_NAME, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().strip() or "another process"
            raise Failure(f"{folder} is in use by {owner}; wait for it or stop it") from None
        file.truncate(0)
        file.write(f"process {os.getpid()}")
        file.flush()
        sweep(folder)
        yield
        file.truncate(0)


@contextlib.contextmanager
def timed(folder: Path, stage: str) -> Iterator[None]:
    """Append to `folder`'s times when a stage began and how long it worked; hold its lock.

    Two records: {stage, begun, command}, then {stage, seconds, ended}, `ended` "done" or the name
    of what stopped it. Where the second is missing, the stage was killed.
    """
    begun = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    command = [Path(sys.argv[0]).name, *sys.argv[1:]]
    _append(folder / TIMES_NAME, {"stage": stage, "begun": begun, "command": command})
    start, ended = time.monotonic(), "done"
    try:
        yield
    except BaseException as error:
        ended = type(error).__name__
        raise
    finally:
        seconds = round(time.monotonic() - start, 3)
        with contextlib.suppress(OSError):  # a full disk is for the stage to report
            _append(folder / TIMES_NAME, {"stage": stage, "seconds": seconds, "ended": ended})


def _append(path: Path, record: dict[str, Any]) -> None:
    with open(path, "a") as file:
        file.write(json.dumps(record) + "\n")


def sha256_of(path: Path) -> str:
    """Hex sha256 of the file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Metrics:
    """One JSON line a record in `path`; resuming at a step drops the records from it on.

    Dropping keeps an interrupted and resumed run's file equal to an uninterrupted one's.
    """

    def __init__(self, path: Path, resume_at: int):
        self.path = path
        kept = [record for record in read_metrics(path) if record["step"] <= resume_at]
        lines = "".join(json.dumps(record) + "\n" for record in kept)
        write_atomically(path, lambda file: file.write(lines.encode()))

    def append(self, **record: Any) -> None:
        """Append one record, which has a `step`."""
        _append(self.path, record)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All whole records of a file of metrics or times; a line cut off by a kill is left out."""
    records = []
    if path.exists():
        for line in path.read_text().splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                records.append(json.loads(line))
    return records
