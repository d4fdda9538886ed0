"""The one place that writes files: whole or not at all, and one run to a folder."""

import contextlib
import datetime
import errno
import fcntl
import hashlib
import json
import math
import os
import stat
import struct
import sys
import time
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from utils.errors import UserError
from utils.io.renames import with_current_names
from utils.settings import program_name

# Temporary files start with a dot and end so, hence no reader's pattern ever matches one.
TEMPORARY_SUFFIX = ".partial"
LOCK_NAME = ".lock"
# Which stages worked on a folder, and how long. Apart from metrics and checkpoints, whose bytes
# say nothing of when they were made.
TIMES_NAME = "times.jsonl"

# What numpy, zipfile, json and a model's constructor raise on files that are cut off, flipped,
# foreign or made to harm.
READ_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    ValueError,
    KeyError,
    NotImplementedError,
    RuntimeError,
    MemoryError,
    OverflowError,
    SyntaxError,
    struct.error,
    tokenize.TokenError,
    TypeError,
    IndexError,
    AttributeError,
    ZeroDivisionError,
    AssertionError,
)


@contextlib.contextmanager
def atomic_replace(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`; what was written there becomes `path` when all went well.

    Killed at any moment, `path` holds the old bytes or the new ones. A full disk or any other
    OSError leaves the old ones, removes the temporary file and names `path`.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY_SUFFIX}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # no sweep takes it for an orphan while we live
            yield temporary
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_atomically(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Call `write(file)` on a file that becomes `path` as `atomic_replace` says."""
    with atomic_replace(path) as temporary, open(temporary, "wb") as file:
        write(file)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))


def remove_orphans(folder: Path) -> None:
    """Remove what killed runs left half-written below `folder`, and nothing a live one writes."""
    for orphan in folder.rglob(f".*.[0-9]*{TEMPORARY_SUFFIX}"):
        if orphan.is_file():
            with contextlib.suppress(OSError), open(orphan, "rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                orphan.unlink()


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process; a second run gets a UserError that names the first.

    The lock is the kernel's (flock), so it dies with its process, however that ends.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK_NAME
    # No following of links: the file is written to, and may lie nowhere but here.
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(lock, 100).decode(errors="replace").strip() or "another process"
            raise UserError(f"{folder} is in use by {owner}; wait for it or stop it") from None
        with write_errors(path):
            os.ftruncate(lock, 0)
            os.write(lock, f"process {os.getpid()}".encode())
        remove_orphans(folder)
        try:
            yield
        finally:
            # Workers may have been stopped while they wrote.
            remove_orphans(folder)
        os.ftruncate(lock, 0)
    finally:
        os.close(lock)


@contextlib.contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """An OSError inside, as of a full disk, becomes a UserError that names `path`."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file; OSError names anything else: a pipe or a device could hang a reader."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return open(descriptor, "rb")
    os.close(descriptor)
    raise OSError(errno.EINVAL, "not a regular file", str(path))


@contextlib.contextmanager
def timed(folder: Path, stage: str) -> Iterator[None]:
    """Append to `folder`'s times when a stage began and how long it worked; hold its lock.

    Two records: {stage, begun, command}, then {stage, seconds, ended}, `ended` "done" or the name
    of what stopped it. Where the second is missing, the stage was killed.
    """
    begun = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    command = [*program_name().split(), *sys.argv[1:]]
    append_record(folder / TIMES_NAME, {"stage": stage, "begun": begun, "command": command})
    start, ended = time.monotonic(), "done"
    try:
        yield
    except BaseException as error:
        ended = type(error).__name__
        raise
    finally:
        seconds = round(time.monotonic() - start, 3)
        with contextlib.suppress(UserError):  # a full disk is for the stage to report
            append_record(folder / TIMES_NAME, {"stage": stage, "seconds": seconds, "ended": ended})


def append_record(path: Path, record: dict[str, Any]) -> None:
    """Append a JSON line to `path`; UserError names it if it cannot be written."""

    def open_here(name: str, flags: int) -> int:  # no following of links, as with the lock
        return os.open(name, flags | os.O_NOFOLLOW, 0o666)

    with write_errors(path), open(path, "a", opener=open_here) as file:
        file.write(json.dumps(record) + "\n")


def sha256_of(path: Path) -> str:
    """Hex sha256 of the file's bytes."""
    with open_regular(path) as file:
        return sha256_of_rest(file)


def sha256_of_rest(file: BinaryIO) -> str:
    """Hex sha256 of the bytes from where the file is read to its end."""
    digest = hashlib.sha256()
    while part := file.read(1 << 20):
        digest.update(part)
    return digest.hexdigest()


class Metrics:
    """One JSON line a record in `path`; resuming at a step drops the records from it on.

    Dropping keeps an interrupted and resumed run's file equal to an uninterrupted one's. Of a
    training that begins at `begun_at`, what an earlier try of it recorded as `first` goes too.
    """

    def __init__(self, path: Path, resume_at: int, begun_at: float = math.inf):
        self.path = path
        kept = [
            record
            for record in read_metrics(path)
            if record["step"] <= resume_at and record.get("first", -1) < begun_at
        ]
        lines = "".join(json.dumps(record) + "\n" for record in kept)
        write_atomically(path, lambda file: file.write(lines.encode()))

    def append(self, **record: Any) -> None:
        """Append one record, which has a `step`."""
        append_record(self.path, record)


def read_records(path: Path) -> list[dict[str, Any]]:
    """All whole JSON objects of a file of lines; a line cut off by a kill is left out."""
    records = []
    if path.exists():
        with open_regular(path) as file:
            for line in file:
                with contextlib.suppress(ValueError, RecursionError):
                    records.append(json.loads(line))
    return [record for record in records if isinstance(record, dict)]


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics file that have a step, with the current names of metrics."""
    records = [record for record in read_records(path) if isinstance(record.get("step"), int)]
    return [with_current_names(record) for record in records]
