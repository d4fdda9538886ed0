"""A corpus of damaged and hostile files, as bad disks, other programs and attackers make them.

It includes the arrays and headers of tests/hostile_files.py.
"""

import dataclasses
import hashlib
import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from hostile_files import (
    HOSTILE_HEADERS,
    LATENT,
    LATENT_WRONG,
    STEPS,
    WRONG,
    Trap,
    arrays_in,
    latents_in,
    replace_member,
    small_episode,
)

from utils.data.episodes import EPISODE_SCHEMA, latent_schema, read_episode
from utils.io import checkpoints
from utils.io.checkpoints import Header
from utils.io.npz import read_arrays, write_arrays

CONTRACTS = {"episode": EPISODE_SCHEMA, "latent": latent_schema(LATENT)}
Damage = Callable[[Path, np.random.Generator], None]
HEADER = Header("rnn", {"latent": 2}, {}, {}, {"step": 3, "first": 0, "continued_from": ""})


def tree(latent: int) -> list[np.ndarray]:
    """The leaves of a model small enough to damage at every byte."""
    return [np.ones(latent, np.float32), np.ones((3, latent), np.float32)]


def valid_arrays(kind: str) -> dict[str, Any]:
    """The arrays of a small valid episode or latent file."""
    episode = small_episode(STEPS)
    return arrays_in(episode) if kind == "episode" else latents_in(episode)


def write_valid(path: Path, kind: str) -> None:
    """Write a small valid file of a few kilobytes."""
    if kind == "checkpoint":
        checkpoints.save(path, HEADER, tree(2))
    else:
        write_arrays(path, valid_arrays(kind))


def read(path: Path, kind: str) -> Any:
    """Read a file as the scripts do."""
    if kind == "checkpoint":
        return checkpoints.load(path, "rnn", lambda header: tree(**header.sizes))
    return read_episode(path) if kind == "episode" else read_arrays(path, CONTRACTS[kind])


# --- damage to any file ---------------------------------------------------------------------------


def truncated(path: Path, rng: np.random.Generator) -> None:
    """Cut off at a random length."""
    os.truncate(path, int(rng.integers(path.stat().st_size)))


def overwritten(path: Path, rng: np.random.Generator) -> None:
    """A block of 512 random bytes in the middle."""
    data = bytearray(path.read_bytes())
    start = int(rng.integers(len(data)))
    data[start : start + 512] = rng.bytes(len(data[start : start + 512]))
    path.write_bytes(data)


def flipped(path: Path, rng: np.random.Generator) -> None:
    """One random bit flipped."""
    flip(path, int(rng.integers(path.stat().st_size)), int(rng.integers(8)))


def flip(path: Path, position: int, bit: int) -> None:
    """Flip one bit of a file."""
    with open(path, "r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ 1 << bit]))


def pickled(path: Path, rng: np.random.Generator) -> None:
    """A pickle that creates the file `unpickled` when it is loaded."""
    path.write_bytes(pickle.dumps(Trap(path.with_name("unpickled"))))


def foreign(path: Path, rng: np.random.Generator) -> None:
    """A zip file of another program."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("word/document.xml", "<w/>")


def in_place_of(make: Callable[[Path], object]) -> Damage:
    """Damage that puts something else under the file's name."""

    def damage(path: Path, rng: np.random.Generator) -> None:
        path.unlink()
        make(path)

    return damage


ANY_FILE: dict[str, Damage] = {
    "truncated": truncated,
    "emptied": lambda path, rng: os.truncate(path, 0),
    "a block overwritten": overwritten,
    "a pickle": pickled,
    "a foreign zip": foreign,
    "a pipe": in_place_of(os.mkfifo),
    "a folder": in_place_of(Path.mkdir),
    "a device": in_place_of(lambda path: path.symlink_to("/dev/zero")),
    "a link to itself": in_place_of(lambda path: path.symlink_to(path.name)),
}

# --- .npz -----------------------------------------------------------------------------------------


def flipped_in(key: str) -> Damage:
    """One bit flipped in the compressed bytes of an array."""

    def damage(path: Path, rng: np.random.Generator) -> None:
        with zipfile.ZipFile(path) as archive:
            info = archive.getinfo(f"{key}.npy")
        start = info.header_offset + 30 + len(info.filename) + 20
        flip(path, start + int(rng.integers(max(1, info.compress_size - 8))), int(rng.integers(8)))

    return damage


def with_array(key: str, change: Callable[[np.ndarray], Any]) -> Damage:
    """A changed array under a key, in a zip file with valid checksums."""

    def damage(path: Path, rng: np.random.Generator) -> None:
        with np.load(path) as file:
            arrays = {name: file[name] for name in file}
        write_arrays(path, {**arrays, key: change(arrays[key])})

    return damage


def with_member(key: str, data: Callable[[bytes], bytes]) -> Damage:
    """Changed bytes of an array's .npy, in a zip file with valid checksums."""

    def damage(path: Path, rng: np.random.Generator) -> None:
        with zipfile.ZipFile(path) as archive:
            honest = archive.read(f"{key}.npy")
        replace_member(path, key, data(honest))

    return damage


def pickled_array(mark: Path) -> bytes:
    """An .npy of objects that create a file when they are unpickled."""
    payload = io.BytesIO()
    np.lib.format.write_array(payload, np.array([Trap(mark)], object), allow_pickle=True)
    return payload.getvalue()


def with_nan(array: np.ndarray) -> np.ndarray:
    """A copy with NaN as its last element."""
    changed = array.copy()
    changed.reshape(-1)[-1] = np.nan
    return changed


def npz_damage(big: str) -> dict[str, Damage]:
    """Damage to an episode file (`big` is "frames") or a latent file (`big` is "mu")."""
    return {
        **ANY_FILE,
        f"bit flip in {big}": flipped_in(big),
        "bit flip in rewards": flipped_in("rewards"),
        "bit flip in provenance": flipped_in("provenance"),
        "bit flip in the directory": lambda path, rng: flip(
            path, path.stat().st_size - 1 - int(rng.integers(400)), int(rng.integers(8))
        ),
        "pickled actions": with_member("actions", lambda _: pickled_array(Path("unpickled"))),
        "lying header of rewards": with_member("rewards", lambda _: HOSTILE_HEADERS["a petabyte"]),
        "zip bomb in rewards": with_member("rewards", lambda data: data + bytes(50_000_000)),
        "another shape of actions": with_array("actions", lambda a: a[:, :2]),
        "another dtype of rewards": with_array("rewards", lambda a: a.astype("f8")),
        "another length of rewards": with_array("rewards", lambda a: a[:-1]),
        "NaN in rewards": with_array("rewards", with_nan),
        "another seed": with_array("seed", lambda a: a + 1),
        "another provenance": with_array("provenance", lambda a: np.str_("[]")),
    }


def npz_cases(kind: str) -> Iterator[tuple[str, Damage]]:
    """All damage that a reader of the whole file must refuse."""
    wrong = WRONG if kind == "episode" else LATENT_WRONG
    for name, (key, value) in wrong.items():
        yield f"{key}: {name}", with_array(key, lambda _, value=value: value)
    for key in CONTRACTS[kind]:
        for name, data in HOSTILE_HEADERS.items():
            # This header is valid for the actions of three steps.
            if not (key == "actions" and name == "long header"):
                yield f"{key}: {name}", with_member(key, lambda _, data=data: data)
        yield f"{key}: bomb", with_member(key, lambda data: data + bytes(30_000_000))
        yield f"{key}: pickled", with_member(key, lambda _: pickled_array(Path("unpickled")))
        yield f"{key}: half", with_member(key, lambda data: data[: len(data) // 2])
    for name, damage in ANY_FILE.items():
        if name != "truncated":
            yield name, damage


# --- checkpoints ----------------------------------------------------------------------------------


def with_header(**changes: Any) -> Damage:
    """A header with changed fields and a valid checksum."""

    def damage(path: Path, rng: np.random.Generator) -> None:
        line, leaves = path.read_bytes().split(b"\n", 1)
        fields = {**json.loads(line), **changes}
        write_checkpoint(path, fields, leaves)

    return damage


def with_leaves(change: Callable[[bytes], bytes]) -> Damage:
    """Changed bytes of the leaves, with a valid checksum."""

    def damage(path: Path, rng: np.random.Generator) -> None:
        line, leaves = path.read_bytes().split(b"\n", 1)
        write_checkpoint(path, json.loads(line), change(leaves))

    return damage


def with_leaf(change: Callable[[np.ndarray], Any]) -> Damage:
    """A changed first leaf, with a valid checksum."""

    def changed(leaves: bytes) -> bytes:
        stream, made = io.BytesIO(leaves), io.BytesIO()
        np.save(made, change(np.load(stream)))
        return made.getvalue() + stream.read()

    return with_leaves(changed)


def write_checkpoint(path: Path, fields: dict[str, Any], leaves: bytes) -> None:
    """Write a checkpoint with valid checksums, as an attacker would."""
    fields = {k: v for k, v in fields.items() if k != "header_sha256"}
    fields["sha256"] = hashlib.sha256(leaves).hexdigest()
    text = json.dumps(fields, sort_keys=True)
    fields["header_sha256"] = hashlib.sha256(text.encode()).hexdigest()
    path.write_bytes(json.dumps(fields, sort_keys=True).encode() + b"\n" + leaves)


CHECKPOINT_DAMAGE: dict[str, Damage] = {
    **ANY_FILE,
    "bit flip in the header": lambda path, rng: flip(path, int(rng.integers(300)), 1),
    "bit flip in the leaves": lambda path, rng: flip(
        path, path.stat().st_size - 1 - int(rng.integers(200)), int(rng.integers(8))
    ),
    "another kind": with_header(kind="sandwich"),
    "another architecture": with_header(sizes={"latent": 3, "hidden": 10**9, "features": 7}),
    "sizes that are no numbers": with_header(sizes={"latent": "32"}),
    "inputs that are no object": with_header(inputs=[]),
    "pickled leaves": with_leaves(lambda _: pickled_array(Path("unpickled"))),
    "a leaf too many": with_leaves(lambda leaves: leaves + leaves[:200]),
    "NaN in a leaf": with_leaf(with_nan),
    "infinity in a leaf": with_leaf(lambda leaf: np.full_like(leaf, np.inf)),
    "another shape of a leaf": with_leaf(lambda leaf: leaf.reshape(-1)[:-1]),
    "another dtype of a leaf": with_leaf(lambda leaf: leaf.astype("f8")),
    "leaves cut off": with_leaves(lambda leaves: leaves[: len(leaves) // 2]),
}


def checkpoint_cases() -> Iterator[tuple[str, Damage]]:
    """All damage that a reader of checkpoints must refuse."""
    for name, damage in CHECKPOINT_DAMAGE.items():
        if name != "truncated":
            yield name, damage
    for name, data in HOSTILE_HEADERS.items():
        if data:
            yield f"leaf: {name}", with_leaves(lambda leaves, data=data: data + leaves)
        yield f"only leaf: {name}", with_leaves(lambda _, data=data: data)
    for field in (f.name for f in dataclasses.fields(Header)):
        for value in (None, [], 3, "text", {"latent": None}, {"latent": -1}, {"latent": 1e300}):
            if field in ("kind", "sizes") and value != {"latent": None}:
                yield f"{field}: {value}", with_header(**{field: value})
    for text in (b"", b"\n", b"{}", b"[" * 100_000, b"{" * 900_000, b"\xff\n", b"1e999\n"):
        yield f"line {text[:9]!r}", in_place_of(lambda path, t=text: path.write_bytes(t))
