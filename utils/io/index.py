"""An index beside files: what was read of those that have not changed since.

To start on 10,000 episodes without one, a stage opens 10,000 files. As in Git's index, a file
counts as unchanged if its size, times and inode are. The index is a cache: where it is missing,
damaged or made by other rules, the files are read again.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from utils.io.files import READ_ERRORS, open_regular

INDEX_NAME = ".index"
VERSION = 1  # of the rows
MAX_ROW_BYTES = 10_000  # on average; a larger index is hostile
# A file that changes twice within one tick of the file system's clock may keep its times. FAT's
# clock is the coarsest, with ticks of two seconds.
TICK_NS = 2_000_000_000

Stamp = tuple[int, int, int, int]  # size, mtime and ctime in ns, inode


def list_files(folder: Path, modes: Iterable[str]) -> dict[Path, Stamp | None]:
    """The files `folder`/<mode>/*.npz in order of mode and name, with their stamps.

    The stamp of a link to nothing is None.
    """
    stamps: dict[Path, Stamp | None] = {}
    for mode in modes:
        if (here := folder / mode).is_dir():
            with os.scandir(here) as found:
                named = {e.name: e for e in found if e.name.endswith(".npz") and e.name[0] != "."}
            stamps |= {here / name: _stamp_of(named[name]) for name in sorted(named)}
    return stamps


def _stamp_of(entry: os.DirEntry[str]) -> Stamp | None:
    try:
        status = entry.stat()
    except OSError:  # removed since, or a link to nothing: the reader says so
        return None
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def read_index(
    folder: Path, rules: str, stamps: Mapping[Path, Stamp | None]
) -> dict[Path, list[Any]]:
    """The rows of the files that still have the stamps under which their rows were saved.

    Args:
        rules: how the rows were made. An index made by other rules is not read.
        stamps: of `list_files`.
    """
    limit = MAX_ROW_BYTES * (len(stamps) + 1)
    try:
        with open_regular(folder / INDEX_NAME) as file:
            digest, body = file.readline(100), file.read(limit)
        if digest != _digest_line(rules, body):
            return {}
        saved = json.loads(body)
        return {
            path: saved[name][len(stamp) :]
            for path, stamp in stamps.items()
            if stamp is not None
            and (name := f"{path.parent.name}/{path.name}") in saved
            and tuple(saved[name][: len(stamp)]) == stamp
        }
    except (OSError, *READ_ERRORS):
        return {}


def write_index(
    file: BinaryIO,
    rules: str,
    stamps: Mapping[Path, Stamp | None],
    rows: Mapping[Path, Sequence[Any]],
    read_from: int,
) -> None:
    """Write the rows of the files that were settled when their reading began.

    A file is settled if it changed at least a tick earlier: any later change then changes its
    stamp. The stamps must be older than the reading.

    Args:
        read_from: when the reading of new files began, by the clock of their file system, in ns.
    """
    saved = {
        f"{path.parent.name}/{path.name}": [*stamp, *rows[path]]
        for path, stamp in stamps.items()
        if stamp is not None and path in rows and max(stamp[1:3]) + TICK_NS <= read_from
    }
    body = json.dumps(saved, separators=(",", ":")).encode()
    file.write(_digest_line(rules, body) + body)


def _digest_line(rules: str, body: bytes) -> bytes:
    text = f"{VERSION} {rules}\n".encode() + body
    return hashlib.sha256(text).hexdigest().encode() + b"\n"


def mark_changed(path: Path) -> None:
    """Let the next scan read a file again: its bytes are not those that were indexed."""
    os.utime(path)
