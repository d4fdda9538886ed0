"""The only code that writes files: atomic replacement, locks on folders, safe reading."""

import contextlib
import errno
import hashlib
import json
import os
import stat
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from utils.errors import write_errors
from utils.io import locks

# Temporary files start with a dot and have this suffix, so no pattern of a reader matches them.
TEMPORARY_SUFFIX = ".partial"

# Everything that NumPy, zipfile, json and the constructor of a model raise on files that are
# truncated, corrupt, foreign or malicious.
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
    """Yield a temporary path that replaces `path` when the block ends without an error.

    After a kill at any moment `path` holds either the old bytes or the new ones. On an OSError,
    such as a full disk, `path` keeps the old bytes and the temporary file is removed.

    Raises UserError that names `path`.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY_SUFFIX}")
    try:
        with write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary, "wb") as file:
                # `remove_orphans` skips a file that a live process has locked.
                locks.try_flock(file.fileno(), temporary)
                yield temporary
                locks.fsync(file.fileno(), path)
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Call `write(file)` on a temporary file that then replaces `path`; see `atomic_replace`."""
    with atomic_replace(path) as temporary, open(temporary, "wb") as file:
        write(file)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))


def append_text(path: Path, text: str) -> None:
    """Append `text` to `path`. Raises UserError if it cannot be written."""

    def open_here(name: str, flags: int) -> int:  # never follows a link out of the folder
        return os.open(name, flags | os.O_NOFOLLOW, 0o666)

    with write_errors(path), open(path, "a", opener=open_here) as file:
        file.write(text)


def remove_orphans(folder: Path) -> None:
    """Remove the temporary files of killed processes below `folder`, not those of live ones."""
    for orphan in folder.rglob(f".*.[0-9]*{TEMPORARY_SUFFIX}"):
        if orphan.is_file():
            with contextlib.suppress(OSError):
                if not locks.has_writer(orphan):
                    orphan.unlink()


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Reserve `folder` for this process. Raises UserError if another process holds it."""
    with locks.hold(folder):
        remove_orphans(folder)
        try:
            yield
        finally:
            # Worker processes may have been stopped in the middle of a write.
            remove_orphans(folder)


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading. A pipe or a device, which may block, raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return open(descriptor, "rb")
    os.close(descriptor)
    raise OSError(errno.EINVAL, "not a regular file", str(path))


def sha256_of(path: Path) -> str:
    """Hex sha256 of the file's bytes."""
    with open_regular(path) as file:
        return sha256_of_rest(file)


def sha256_of_rest(file: BinaryIO) -> str:
    """Hex sha256 of the bytes from the current position to the end of the file."""
    digest = hashlib.sha256()
    while part := file.read(1 << 20):
        digest.update(part)
    return digest.hexdigest()
