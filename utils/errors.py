"""The user-facing error, and the name of the running program for its message."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path


class UserError(Exception):
    """A problem the user can solve. The message is one line that names the file or the step."""


@contextlib.contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Turn an OSError inside, such as a full disk, into a UserError that names `path`."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def program_name() -> str:
    """What a user types to run this program: `train_rnn.py`, or `python -m tools.report`."""
    spec = sys.modules["__main__"].__spec__
    if spec is None:
        return Path(sys.argv[0]).name
    return f"python -m {spec.name.removesuffix('.__main__')}"
