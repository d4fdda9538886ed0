"""Checked .npz files: every array is compared with a schema before it is read.

The dtype, the shape and the size of an array are checked from the .npy header and the zip
directory before its bytes are read. Nothing is ever unpickled.
"""

import contextlib
import functools
import hashlib
import io
import math
import sys
import threading
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
from tqdm import tqdm

from utils.errors import UserError
from utils.io.files import READ_ERRORS, open_regular, write_atomically

# A size "T" is the number of steps, "T+1" the number of observations. An array whose first size is
# "T+1 or 0" may be empty.
Shape = tuple[int | str, ...]
MAX_STEPS_ON_FILE = 100_000  # a hundred times the longest episode; a larger array is hostile
MAX_TEXT_LENGTH = 20_000
COMPRESSION_LEVEL = 3  # of zlib: 8% larger than level 6 in a third of the time
# NumPy parses headers with `ast`. Python 3.11 counts the recursion depth of `ast` for all threads
# together, so two threads at once can fail with "AST constructor recursion depth mismatch".
PARSER_LOCK = threading.Lock()
MAX_CORRUPT_SHARE = 0.05  # a stage stops if a larger share of its files is corrupt

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


class CorruptFileError(UserError):
    """An .npz file that breaks its schema. The message names the file and the array."""

    def __init__(self, path: Path, reason: str):
        super().__init__(path, reason)  # both, so that it can be pickled by a worker
        self.path = path

    def __str__(self) -> str:
        return "{}: {}".format(*self.args)


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write named arrays as a compressed .npz, atomically. Same arrays, same bytes."""

    def write(file: Any) -> None:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=COMPRESSION_LEVEL) as z:
            for name, array in arrays.items():
                # ZipInfo's default date is constant; a real one would change the bytes.
                member = zipfile.ZipInfo(name + ".npy")
                member.compress_type = zipfile.ZIP_DEFLATED
                with z.open(member, "w", force_zip64=True) as entry:
                    np.lib.format.write_array(entry, np.asarray(array), allow_pickle=False)

    write_atomically(path, write)


def read_arrays(
    path: Path,
    schema: Mapping[str, tuple[str, Shape]],
    names: Iterable[str] | None = None,
    fingerprint: str | None = None,
) -> dict[str, np.ndarray]:
    """Read arrays from an .npz file.

    Args:
        path: the file.
        schema: dtype and shape of every array that the file must have.
        names: the arrays to read; None for all.
        fingerprint: what `fingerprint_of` gave for the file earlier, if it must be unchanged.

    Raises CorruptFileError that names file and array.
    """
    with open_archive(path, schema) as archive:
        if fingerprint not in (None, fingerprint_of(archive)):
            raise CorruptFileError(path, "was replaced after this run had begun")
        return read_members(path, archive, schema, names)


@contextlib.contextmanager
def open_archive(path: Path, schema: Iterable[str]) -> Iterator[zipfile.ZipFile]:
    """Open an .npz file that has the arrays of the schema and no others.

    Every error of reading inside becomes a CorruptFileError.
    """
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            _check_directory(path, archive, {key + ".npy" for key in schema})
            yield archive
    except READ_ERRORS as error:
        raise CorruptFileError(path, describe_error(error)) from error
    except OSError as error:
        raise CorruptFileError(path, error.strerror or "cannot be read") from error


def read_members(
    path: Path,
    archive: zipfile.ZipFile,
    schema: Mapping[str, tuple[str, Shape]],
    names: Iterable[str] | None = None,
) -> dict[str, np.ndarray]:
    """Read and check arrays of an open file; `names` None for all."""
    steps = _steps_of(path, archive)
    wanted = schema if names is None else names
    return {key: _read_member(path, archive, key, schema[key], steps) for key in wanted}


def _check_directory(path: Path, archive: zipfile.ZipFile, expected: set[str]) -> None:
    names = archive.namelist()
    if set(names) != expected:
        difference = ", ".join(sorted(set(names) ^ expected)[:4])
        # A hostile name may hold a newline or a terminal's control characters.
        printable = difference[:200].encode("unicode_escape").decode()[:200]
        raise CorruptFileError(path, f"missing or unknown arrays: {printable}")
    if len(names) != len(expected):
        twice = next(name for name in names if names.count(name) > 1)
        raise CorruptFileError(path, f"{twice} occurs twice")
    for info in archive.infolist():
        # Other methods, such as LZMA, raise other errors and need unbounded memory.
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise CorruptFileError(path, f"{info.filename}: unsupported compression method")


def describe_error(error: BaseException) -> str:
    """The error's type and message on one line."""
    text = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


@contextlib.contextmanager
def _member(path: Path, archive: zipfile.ZipFile, key: str) -> Iterator[IO[bytes]]:
    """Open the .npy file of an array. A read error inside becomes a CorruptFileError."""
    try:
        with archive.open(key + ".npy") as file:
            yield file
    except READ_ERRORS as error:
        raise CorruptFileError(path, f"{key}: {describe_error(error)}") from error


def _header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(file)
    if version != (1, 0):
        raise ValueError(f".npy version {version} where (1, 0) is expected")
    length = file.read(2)
    return _parse_header(length + file.read(int.from_bytes(length, "little")))


@functools.lru_cache(256)  # parsing takes a third of the time of reading a small array
def _parse_header(header: bytes) -> tuple[tuple[int, ...], bool, np.dtype]:
    with PARSER_LOCK:
        return np.lib.format.read_array_header_1_0(io.BytesIO(header))


def _steps_of(path: Path, archive: zipfile.ZipFile) -> int:
    with _member(path, archive, "rewards") as file:
        shape, _, _ = _header(file)
    if len(shape) != 1 or not 0 < shape[0] <= MAX_STEPS_ON_FILE:
        raise CorruptFileError(path, f"rewards: shape {shape} where (T,) is expected")
    return shape[0]


def _read_member(
    path: Path, archive: zipfile.ZipFile, key: str, rule: tuple[str, Shape], steps: int
) -> np.ndarray:
    kind, pattern = rule
    lengths: dict[int | str, int | str] = {"T": steps, "T+1": steps + 1, "T+1 or 0": steps + 1}
    expected = tuple(lengths.get(size, size) for size in pattern)
    with _member(path, archive, key) as file:
        shape, fortran_order, dtype = _header(file)
        if pattern[:1] == ("T+1 or 0",) and shape[:1] == (0,):
            expected = (0, *expected[1:])
        if shape != expected or fortran_order:
            raise CorruptFileError(path, f"{key}: shape {shape} where {expected} is expected")
        is_text = kind == "str" and dtype.kind == "U" and dtype.itemsize <= 4 * MAX_TEXT_LENGTH
        if not (is_text or dtype == kind):
            raise CorruptFileError(path, f"{key}: dtype {dtype} where {kind} is expected")
        size = dtype.itemsize * math.prod(shape)
        if archive.getinfo(key + ".npy").file_size > size + 1000:
            raise CorruptFileError(path, f"{key}: more bytes than its shape needs")
        data = file.read(size + 1)  # to the end, so that zipfile checks the CRC
    if len(data) != size:
        raise CorruptFileError(path, f"{key}: {len(data)} bytes where {size} are expected")
    array = np.frombuffer(data, dtype).reshape(shape)
    if dtype.kind == "f" and not np.isfinite(array).all():
        raise CorruptFileError(path, f"{key}: NaN or infinity")
    return array


class CorruptFileLog:
    """Names each corrupt file on stderr once, and raises UserError if there are too many.

    The lines are printed above the progress bars.

    Args:
        files: number of files in total.
        consequence: what happens to a corrupt file, as in "left out"; part of the message.
        max_corrupt_share: raise UserError if more than this share of the files is corrupt. A
            single corrupt file is always allowed.
    """

    def __init__(self, files: int, consequence: str, max_corrupt_share: float = MAX_CORRUPT_SHARE):
        self.files, self.consequence = files, consequence
        self.max_corrupt_share = max_corrupt_share
        self.corrupt: dict[Path, CorruptFileError] = {}

    def read_all(self, items: Iterable[ItemT], read: Callable[[ItemT], ResultT]) -> list[ResultT]:
        """`read(item)` for every item, without those that raise CorruptFileError."""
        results, known = [], len(self.corrupt)
        for item in items:
            try:
                results.append(read(item))
            except CorruptFileError as error:
                if error.path not in self.corrupt:
                    tqdm.write(f"{self.consequence}: {error}", sys.stderr)
                self.corrupt[error.path] = error
        count = len(self.corrupt)
        if count > known:
            tqdm.write(f"{count} of {self.files} files {self.consequence}", sys.stderr)
        if count > max(1, self.max_corrupt_share * self.files):
            first = next(iter(self.corrupt.values()))
            raise UserError(f"{count} of {self.files} files are damaged; first {first}")
        return results


def fingerprint_of(archive: zipfile.ZipFile) -> str:
    """Hex digest that changes with any byte of any array in the archive."""
    members = [(info.filename, info.CRC, info.file_size) for info in archive.infolist()]
    return hashlib.sha256(repr(members).encode()).hexdigest()
