"""The data contract: episode files and latent files, .npz that are checked before they are read.

Every array's name, dtype and shape is compared with the contract from its .npy header, and its
size with the zip directory, before its bytes are read; nothing is ever unpickled.
"""

import contextlib
import dataclasses
import hashlib
import json
import math
import sys
import threading
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np

from utils.commandline import Failure
from utils.environment import FRAME_SHAPE, Episode
from utils.files import READ_ERRORS, open_to_read, write_atomically
from utils.tracks import MODES, is_held_out

# A shape entry "T" is the number of steps, "T+1" the number of observations.
Shape = tuple[int | str, ...]
STEP_ARRAYS: dict[str, tuple[str, Shape]] = {
    "actions": ("float32", ("T", 3)),
    "rewards": ("float32", ("T",)),
    "terminated": ("bool", ("T",)),
    "truncated": ("bool", ("T",)),
    "lap_finished": ("bool", ()),
    "seed": ("int64", ()),
    "provenance": ("str", ()),  # JSON: mode, settings, agent, environment, versions
}
EPISODE_ARRAYS: dict[str, tuple[str, Shape]] = {
    "frames": ("uint8", ("T+1", *FRAME_SHAPE)),
    **STEP_ARRAYS,
}

MAX_STEPS_ON_FILE = 100_000  # a hundred times the longest episode; anything above is hostile
MAX_TEXT_LENGTH = 20_000
COMPRESSION_LEVEL = 3  # zlib: within 8 % of level 6's size at a third of its time
# NumPy parses headers by `ast`, which in some Pythons (as 3.11) counts its depth for all threads
# together: two at once now and then end in "AST constructor recursion depth mismatch".
PARSER = threading.Lock()
TOLERATED_DAMAGE = 0.05  # share of damaged files above which a stage stops

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


class DamagedFile(Failure):
    """An .npz that cannot be trusted: names the file and what is wrong in it."""

    def __init__(self, path: Path, reason: str):
        super().__init__(path, reason)  # all arguments, or it could not come from a worker
        self.path = path

    def __str__(self) -> str:
        return "{}: {}".format(*self.args)


def latent_arrays(latent: int) -> dict[str, tuple[str, Shape]]:
    """The arrays of a latent file for `latent` dimensions."""
    return {
        "mu": ("float32", ("T+1", latent)),
        "logvar": ("float32", ("T+1", latent)),
        **STEP_ARRAYS,
    }


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
    contract: Mapping[str, tuple[str, Shape]],
    names: Iterable[str] | None = None,
    fingerprint: str | None = None,
) -> dict[str, np.ndarray]:
    """Read the arrays `names` (default: all) of an .npz that keeps to `contract`.

    Raises DamagedFile, naming file and key, on anything that does not, and on a file that is
    another than the one with this `fingerprint`.
    """
    try:
        with open_to_read(path) as file, zipfile.ZipFile(file) as archive:
            _check_directory(path, archive, {key + ".npy" for key in contract})
            if fingerprint not in (None, _fingerprint(archive)):
                raise DamagedFile(path, "was replaced after this run had begun")
            steps = _steps_of(path, archive)
            wanted = contract if names is None else names
            return {key: _read_member(path, archive, key, contract[key], steps) for key in wanted}
    except READ_ERRORS as error:
        raise DamagedFile(path, _reason(error)) from error
    except OSError as error:
        raise DamagedFile(path, error.strerror or "cannot be read") from error


def _check_directory(path: Path, archive: zipfile.ZipFile, expected: set[str]) -> None:
    names = archive.namelist()
    if set(names) != expected:
        difference = ", ".join(sorted(set(names) ^ expected)[:4])
        raise DamagedFile(path, f"missing or unknown arrays: {difference[:200]}")
    if len(names) != len(expected):
        twice = next(name for name in names if names.count(name) > 1)
        raise DamagedFile(path, f"{twice} is there twice")
    for info in archive.infolist():
        # LZMA and its like have errors of their own, and no bound on the memory they take.
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise DamagedFile(path, f"{info.filename}: compressed by a foreign method")


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


@contextlib.contextmanager
def _member(path: Path, archive: zipfile.ZipFile, key: str) -> Iterator[IO[bytes]]:
    """An array's .npy; DamagedFile names its key if it cannot be read to its end."""
    try:
        with archive.open(key + ".npy") as file:
            yield file
    except READ_ERRORS as error:
        raise DamagedFile(path, f"{key}: {_reason(error)}") from error


def _header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(file)
    if version != (1, 0):
        raise ValueError(f".npy version {version} where (1, 0) is expected")
    with PARSER:
        return np.lib.format.read_array_header_1_0(file)


def _steps_of(path: Path, archive: zipfile.ZipFile) -> int:
    with _member(path, archive, "rewards") as file:
        shape, _, _ = _header(file)
    if len(shape) != 1 or not 0 < shape[0] <= MAX_STEPS_ON_FILE:
        raise DamagedFile(path, f"rewards: shape {shape} where (T,) is expected")
    return shape[0]


def _read_member(
    path: Path, archive: zipfile.ZipFile, key: str, rule: tuple[str, Shape], steps: int
) -> np.ndarray:
    kind, pattern = rule
    expected = tuple({"T": steps, "T+1": steps + 1}.get(size, size) for size in pattern)
    with _member(path, archive, key) as file:
        shape, fortran_order, dtype = _header(file)
        if shape != expected or fortran_order:
            raise DamagedFile(path, f"{key}: shape {shape} where {expected} is expected")
        is_text = kind == "str" and dtype.kind == "U" and dtype.itemsize <= 4 * MAX_TEXT_LENGTH
        if not (is_text or dtype == kind):
            raise DamagedFile(path, f"{key}: dtype {dtype} where {kind} is expected")
        size = dtype.itemsize * math.prod(shape)
        if archive.getinfo(key + ".npy").file_size > size + 1000:
            raise DamagedFile(path, f"{key}: more bytes than its shape has")
        data = file.read(size + 1)  # to the end, so that the zip's checksum is compared
    if len(data) != size:
        raise DamagedFile(path, f"{key}: {len(data)} bytes where {size} are expected")
    array = np.frombuffer(data, dtype).reshape(shape)
    if dtype.kind == "f" and not np.isfinite(array).all():
        raise DamagedFile(path, f"{key}: NaN or infinity")
    return array


def write_episode(path: Path, episode: Episode) -> None:
    """Write an episode file, atomically."""
    write_arrays(
        path,
        {
            "frames": episode.frames,
            **episode_rows(episode),
        },
    )


def episode_rows(episode: Episode, origin: Mapping[str, str] | None = None) -> dict[str, Any]:
    """All arrays of an episode but its frames, by their names on file.

    `origin` is added to the provenance: what a latent file was made from.
    """
    provenance = {**episode.provenance, **(origin or {})}
    return {
        "actions": episode.actions,
        "rewards": episode.rewards,
        "terminated": episode.terminated,
        "truncated": episode.truncated,
        "lap_finished": np.bool_(episode.lap_finished),
        "seed": np.int64(episode.seed),
        "provenance": np.str_(json.dumps(provenance, sort_keys=True)),
    }


def read_episode(path: Path) -> Episode:
    """Read and check an episode file. Raises DamagedFile."""
    arrays = read_arrays(path, EPISODE_ARRAYS)
    rows = np.abs(arrays["actions"])
    if (rows > 1).any() or (arrays["actions"][:, 1:] < 0).any():
        raise DamagedFile(path, "actions: outside the action space")
    return Episode(
        frames=arrays["frames"],
        actions=arrays["actions"],
        rewards=arrays["rewards"],
        terminated=arrays["terminated"],
        truncated=arrays["truncated"],
        lap_finished=bool(arrays["lap_finished"]),
        seed=int(arrays["seed"]),
        provenance=_parse_provenance(path, arrays["provenance"]),
    )


def _parse_provenance(path: Path, text: np.ndarray) -> dict[str, Any]:
    try:
        provenance = json.loads(str(text))
    except (ValueError, RecursionError) as error:
        raise DamagedFile(path, f"provenance: {_reason(error)}") from error
    if not isinstance(provenance, dict):
        raise DamagedFile(path, "provenance: not a JSON object")
    return provenance


@dataclasses.dataclass(frozen=True)
class Entry:
    """What a scan knows of a file without reading its large arrays."""

    path: Path
    mode: str
    seed: int
    steps: int
    fingerprint: str  # hex; changes with any byte of any array
    provenance: dict[str, Any]

    @property
    def held_out(self) -> bool:
        """Whether V and M keep this episode for validation."""
        return is_held_out(self.seed)

    def read(
        self, contract: Mapping[str, tuple[str, Shape]], names: Iterable[str] | None = None
    ) -> dict[str, np.ndarray]:
        """`read_arrays` of the very file that was scanned. Raises DamagedFile."""
        return read_arrays(self.path, contract, names, self.fingerprint)


class SetAside:
    """Damaged files, each named on stderr once; more than a share of all are a Failure."""

    def __init__(self, files: int, consequence: str, tolerated: float = TOLERATED_DAMAGE):
        self.files, self.consequence, self.tolerated = files, consequence, tolerated
        self.damaged: dict[Path, DamagedFile] = {}

    def read_all(self, items: Iterable[ItemT], read: Callable[[ItemT], ResultT]) -> list[ResultT]:
        """`read` every item but those whose file is damaged."""
        results, known = [], len(self.damaged)
        for item in items:
            try:
                results.append(read(item))
            except DamagedFile as error:
                if error.path not in self.damaged:
                    print(f"{self.consequence}: {error}", file=sys.stderr)
                self.damaged[error.path] = error
        if len(self.damaged) > known:
            print(f"{len(self.damaged)} of {self.files} files {self.consequence}", file=sys.stderr)
        if len(self.damaged) > max(1, self.tolerated * self.files):
            first = next(iter(self.damaged.values()))
            raise Failure(f"{len(self.damaged)} of {self.files} files are damaged; first {first}")
        return results


def scan(
    folder: Path,
    contract: Mapping[str, tuple[str, Shape]],
    names: Iterable[str] | None = ("seed", "provenance", "rewards"),
    tolerated: float = TOLERATED_DAMAGE,
) -> list[Entry]:
    """The trustworthy files of `folder`/<mode>/<seed>.npz, in order of mode and seed.

    Of each file the zip directory and the arrays `names` (None: all) are read. Damaged files are
    named on stderr and left out; more than the `tolerated` share of them is a Failure.
    """
    paths = [path for mode in MODES for path in sorted((folder / mode).glob("[!.]*.npz"))]
    aside = SetAside(len(paths), "left out", tolerated)
    return aside.read_all(paths, lambda path: _entry(path, contract, names))


def _entry(
    path: Path, contract: Mapping[str, tuple[str, Shape]], names: Iterable[str] | None
) -> Entry:
    arrays = read_arrays(path, contract, names)
    seed = int(arrays["seed"])
    if path.stem != str(seed):
        raise DamagedFile(path, f"seed: {seed} in a file of another name")
    with zipfile.ZipFile(path) as archive:
        fingerprint = _fingerprint(archive)
    return Entry(
        path=path,
        mode=path.parent.name,
        seed=seed,
        steps=len(arrays["rewards"]),
        fingerprint=fingerprint,
        provenance=_parse_provenance(path, arrays["provenance"]),
    )


def _fingerprint(archive: zipfile.ZipFile) -> str:
    members = [(info.filename, info.CRC, info.file_size) for info in archive.infolist()]
    return hashlib.sha256(repr(members).encode()).hexdigest()


def scan_latents(data_dir: Path, latent: int, tolerated: float = TOLERATED_DAMAGE) -> list[Entry]:
    """`scan` for latent files, which are small: every array of them is read and checked."""
    return scan(data_dir / "latents", latent_arrays(latent), None, tolerated)


def dataset_fingerprint(entries: Iterable[Entry]) -> str:
    """Hex sha256 of a set of files: which there are, and every byte in them."""
    lines = sorted(f"{entry.mode}/{entry.seed}/{entry.fingerprint}" for entry in entries)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def find_latents(data_dir: Path, latent: int, vae_sha256: str) -> list[Entry]:
    """The latent files of `data_dir`; Failure if there are none, or if some are another VAE's."""
    entries = scan_latents(data_dir, latent)
    if not entries:
        raise Failure(f"no latents in {data_dir / 'latents'}: run process_data.py")
    stale = [entry for entry in entries if entry.provenance.get("vae") != vae_sha256]
    if stale:
        raise Failure(
            f"{len(stale)} latent files are of another VAE, as {stale[0].path}: run process_data.py"
        )
    return entries
