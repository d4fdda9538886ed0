"""The data contract: episode files, latent files, and scans of folders of them."""

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from utils.data.prefetch import read_ahead
from utils.data.splits import MODES, is_held_out
from utils.errors import UserError
from utils.io.files import write_atomically
from utils.io.index import INDEX_NAME, list_files, mark_changed, read_index, write_index
from utils.io.npz import (
    MAX_CORRUPT_SHARE,
    CorruptFileError,
    CorruptFileLog,
    Shape,
    describe_error,
    fingerprint_of,
    open_archive,
    read_arrays,
    read_members,
    write_arrays,
)

FRAME_SHAPE = (64, 64, 3)
ZOOM_STEPS = 50  # first second of an episode, in which the camera zooms in
STEP_SCHEMA: dict[str, tuple[str, Shape]] = {
    "actions": ("float32", ("T", 3)),
    "rewards": ("float32", ("T",)),
    "terminated": ("bool", ("T",)),
    "truncated": ("bool", ("T",)),
    "lap_finished": ("bool", ()),
    "seed": ("int64", ()),
    "provenance": ("str", ()),  # JSON: mode, settings, agent, environment, versions
}
LATENT_ARRAYS = ("mu", "logvar", "mirror_mu", "mirror_logvar")
SCANNED = ("seed", "provenance", "rewards")  # the arrays of an episode file that a scan reads
EPISODE_SCHEMA: dict[str, tuple[str, Shape]] = {
    "frames": ("uint8", ("T+1", *FRAME_SHAPE)),
    **STEP_SCHEMA,
}


@dataclasses.dataclass(frozen=True)
class Episode:
    """One episode of T steps. Row t has frame t, action t, and the reward and end it caused."""

    frames: np.ndarray  # uint8 (T+1, 64, 64, 3)
    actions: np.ndarray  # float32 (T, 3)
    rewards: np.ndarray  # float32 (T)
    terminated: np.ndarray  # bool (T)
    truncated: np.ndarray  # bool (T)
    lap_finished: bool
    seed: int
    provenance: dict[str, Any]

    @property
    def score(self) -> float:
        """The return: the sum of the rewards."""
        return float(np.sum(self.rewards, dtype=np.float64))


def latent_schema(latent: int) -> dict[str, tuple[str, Shape]]:
    """The arrays of a latent file. Those of mirrored frames may be empty.

    Args:
        latent: dimensions of V's latent.
    """
    schema: dict[str, tuple[str, Shape]] = {}
    for name in LATENT_ARRAYS:
        rows = "T+1 or 0" if name.startswith("mirror_") else "T+1"
        schema[name] = ("float32", (rows, latent))
    return {**schema, **STEP_SCHEMA}


def write_episode(path: Path, episode: Episode) -> None:
    """Write an episode file, atomically."""
    write_arrays(path, {"frames": episode.frames, **step_arrays(episode)})


def step_arrays(episode: Episode, origin: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """All arrays of an episode except its frames, by their names in the file.

    `origin` is added to the provenance of a latent file: the sha256 of the VAE, the fingerprint of
    the episode, and whether mirrored frames were encoded, too.
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
    """Read and check an episode file. Raises CorruptFileError."""
    arrays = read_arrays(path, EPISODE_SCHEMA)
    actions = arrays["actions"]
    if (np.abs(actions) > 1).any() or (actions[:, 1:] < 0).any():
        raise CorruptFileError(path, "actions: outside the action space")
    return Episode(
        frames=arrays["frames"],
        actions=actions,
        rewards=arrays["rewards"],
        terminated=arrays["terminated"],
        truncated=arrays["truncated"],
        lap_finished=bool(arrays["lap_finished"]),
        seed=int(arrays["seed"]),
        provenance=_parse_provenance(path, str(arrays["provenance"])),
    )


def _parse_provenance(path: Path, text: str) -> dict[str, Any]:
    try:
        provenance = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CorruptFileError(path, f"provenance: {describe_error(error)}") from error
    if not isinstance(provenance, dict):
        raise CorruptFileError(path, "provenance: not a JSON object")
    return provenance


@dataclasses.dataclass(frozen=True)
class EpisodeFile:
    """What a scan reads of an episode file or a latent file: all but its large arrays."""

    path: Path
    seed: int
    steps: int
    fingerprint: str  # of `fingerprint_of`
    provenance_json: str

    @property
    def mode(self) -> str:
        """The driving mode."""
        return self.path.parent.name

    @functools.cached_property
    def provenance(self) -> dict[str, Any]:
        """Where the episode comes from."""
        return _parse_provenance(self.path, self.provenance_json)

    @property
    def held_out(self) -> bool:
        """Whether V and M use this episode only for their validation losses."""
        return is_held_out(self.seed)

    def read(
        self, schema: Mapping[str, tuple[str, Shape]], names: Iterable[str] | None = None
    ) -> dict[str, np.ndarray]:
        """Read arrays. Raises CorruptFileError, also if the file changed since the scan."""
        try:
            return read_arrays(self.path, schema, names, self.fingerprint)
        except CorruptFileError:
            with contextlib.suppress(OSError):  # a read-only folder
                mark_changed(self.path)
            raise


class Listing:
    """The files of data/rollouts or data/latents, and what its index holds of them.

    Attributes:
        stamps: all files, in order of mode and seed.
        indexed: the entries of the files that have not changed since they were indexed.
        new: the other files.
    """

    def __init__(
        self,
        folder: Path,
        schema: Mapping[str, tuple[str, Shape]],
        names: Iterable[str] | None,
    ):
        self.schema, self.names = schema, names
        self.rules = repr((sorted(schema.items()), names))
        self.stamps = list_files(folder, MODES)
        rows = read_index(folder, self.rules, self.stamps)
        self.indexed = {path: EpisodeFile(path, *row) for path, row in rows.items()}
        self.new = [path for path in self.stamps if path not in self.indexed]

    def read_new(self) -> Iterator["Future[EpisodeFile]"]:
        """The entries of the new files, in order. Futures raise CorruptFileError."""
        return read_ahead(self._read, self.new)

    def _read(self, path: Path) -> EpisodeFile:
        with open_archive(path, self.schema) as archive:
            arrays = read_members(path, archive, self.schema, self.names)
            fingerprint = fingerprint_of(archive)
        seed, provenance = int(arrays["seed"]), str(arrays["provenance"])
        if path.stem != str(seed):
            raise CorruptFileError(path, f"seed: {seed} does not match the file name")
        _parse_provenance(path, provenance)
        return EpisodeFile(path, seed, len(arrays["rewards"]), fingerprint, provenance)


def scan_files(
    folder: Path,
    schema: Mapping[str, tuple[str, Shape]],
    names: Iterable[str] | None = SCANNED,
    max_corrupt_share: float = MAX_CORRUPT_SHARE,
) -> list[EpisodeFile]:
    """Scan the files `folder`/<mode>/<seed>.npz, in order of mode and seed.

    Files that have not changed since they were indexed are not opened. Corrupt files are named on
    stderr and left out.

    Args:
        folder: data/rollouts or data/latents.
        schema: the arrays that each file must have.
        names: the arrays to read and check; None for all.
        max_corrupt_share: raise UserError if more than this share of the files is corrupt.
    """
    files = Listing(folder, schema, names)
    reads = files.read_new()

    def entry(path: Path) -> EpisodeFile:
        return files.indexed.get(path) or next(reads).result()

    corrupt = CorruptFileLog(len(files.stamps), "left out", max_corrupt_share)
    return corrupt.read_all(files.stamps, entry)


def update_index(
    folder: Path,
    schema: Mapping[str, tuple[str, Shape]],
    names: Iterable[str] | None = SCANNED,
) -> None:
    """Index the new files of a folder, so that scans with the same arguments need not open them.

    Only the scripts that write data call it, holding the lock of the data folder. Corrupt files are
    not indexed: every scan reads and names them.
    """
    files = Listing(folder, schema, names)
    if not files.new:
        return

    def write(file: BinaryIO) -> None:
        begun = os.fstat(file.fileno()).st_mtime_ns
        entries = dict(files.indexed)
        for read in files.read_new():
            with contextlib.suppress(CorruptFileError):
                entry = read.result()
                entries[entry.path] = entry
        rows = {path: dataclasses.astuple(entry)[1:] for path, entry in entries.items()}
        write_index(file, files.rules, files.stamps, rows, begun)

    write_atomically(folder / INDEX_NAME, write)


def scan_latents(
    data_dir: Path, latent: int, max_corrupt_share: float = MAX_CORRUPT_SHARE
) -> list[EpisodeFile]:
    """`scan_files` for latent files. They are small, so every array is read and checked."""
    return scan_files(data_dir / "latents", latent_schema(latent), None, max_corrupt_share)


def dataset_fingerprint(entries: Iterable[EpisodeFile]) -> str:
    """Hex sha256 of a set of files: their modes, seeds and contents."""
    lines = sorted(f"{entry.mode}/{entry.seed}/{entry.fingerprint}" for entry in entries)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def find_latents(
    data_dir: Path, latent: int, vae_sha256: str, mirror: bool = False
) -> list[EpisodeFile]:
    """The latent files of `data_dir`.

    Raises UserError if there are none, if some are stale, or if `mirror` and some have no mirrored
    frames.
    """
    entries = scan_latents(data_dir, latent)
    if not entries:
        raise UserError(f"no latents in {data_dir / 'latents'}: run process_data.py")
    stale = [entry for entry in entries if entry.provenance.get("vae") != vae_sha256]
    if stale:
        raise UserError(
            f"{len(stale)} latent files were made with another VAE, such as {stale[0].path}: "
            "run process_data.py"
        )
    plain = [entry for entry in entries if not entry.provenance.get("mirror")]
    if mirror and plain:
        raise UserError(
            f"{len(plain)} latent files have no mirror images, such as {plain[0].path}: run "
            "process_data.py without --no-mirror, or train_rnn.py with it"
        )
    return entries
