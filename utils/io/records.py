"""Files of JSON records, one per line: metrics, times and logs."""

import contextlib
import datetime
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from utils.errors import UserError, program_name
from utils.io.files import append_text, open_regular, write_atomically
from utils.io.renames import with_current_names

# Times have a file of their own because the bytes of metrics and checkpoints are reproducible.
TIMES_NAME = "times.jsonl"


def append_record(path: Path, record: dict[str, Any]) -> None:
    """Append one JSON line to `path`. Raises UserError if it cannot be written."""
    append_text(path, json.dumps(record) + "\n")


def read_records(path: Path) -> list[dict[str, Any]]:
    """The complete JSON objects in `path`. A line cut off by a kill is skipped."""
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


class Metrics:
    """A metrics file of one training.

    Opening it drops the records after step `resume_at`, so that the file of a resumed run equals
    that of an uninterrupted one. A training that begins at step `begun_at` also drops the records
    that an earlier attempt at the same training wrote (those with the same `first`).

    A `listener` is called with every record that has been appended.
    """

    listener: Callable[[dict[str, Any]], None] | None = None

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
        """Append one record. It needs a `step`."""
        append_record(self.path, record)
        if self.listener is not None:
            self.listener(record)


@contextlib.contextmanager
def timed(folder: Path, stage: str) -> Iterator[None]:
    """Record in `folder`/times.jsonl when a stage ran and for how long. Hold the folder's lock.

    Writes {stage, begun, command} at the start and {stage, seconds, ended} at the end. `ended` is
    "done" or the name of the exception. A stage without a second record was killed.
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
        with contextlib.suppress(UserError):  # the stage itself reports a full disk
            append_record(folder / TIMES_NAME, {"stage": stage, "seconds": seconds, "ended": ended})
