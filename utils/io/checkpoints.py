"""Checkpoints: a JSON header on the first line, then the leaves of a pytree.

The header records the arguments of the constructor, the settings, and the sha256 of the inputs and
of the leaves. Other headers refer to a checkpoint by the sha256 of its file.
"""

import contextlib
import dataclasses
import hashlib
import io
import json
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import equinox as eqx
import jax
import numpy as np

from models.controller import Controller
from models.rnn import MDNRNN
from models.vae import ConvVAE
from utils.errors import UserError
from utils.io.files import READ_ERRORS, open_regular, sha256_of_rest, write_atomically
from utils.io.renames import with_current_names
from utils.runtime import find_device

FORMAT = "world-model-checkpoint 1"
MAX_HEADER_BYTES = 1_000_000
PRECISIONS = ("float32", "float16")
DAMAGED = "is damaged: its sha256 is not the one in its header"

TreeT = TypeVar("TreeT")


@dataclasses.dataclass(frozen=True)
class Header:
    """The first line of a checkpoint."""

    kind: str  # "vae", "rnn", "controller", or one of these + " training"
    sizes: dict[str, int]  # arguments of the constructor
    settings: dict[str, Any]  # of the script that wrote it
    inputs: dict[str, str]  # sha256 of the files it was made from
    progress: dict[str, Any]  # steps done, and other facts for later scripts
    precision: str = "float32"  # of the leaves in the file; in memory they are float32


def save(path: Path, header: Header, tree: Any) -> None:
    """Write a checkpoint, atomically. The same header and leaves give the same bytes."""
    payload = io.BytesIO()
    eqx.tree_serialise_leaves(payload, _in_precision(header.precision, tree))
    leaves = payload.getvalue()
    fields = {
        "format": FORMAT,
        "sha256": hashlib.sha256(leaves).hexdigest(),
        **dataclasses.asdict(header),
    }
    text = json.dumps({**fields, "header_sha256": _digest(fields)}, sort_keys=True) + "\n"
    write_atomically(path, lambda file: file.writelines((text.encode(), leaves)))


def read_header(path: Path) -> Header:
    """The header of a checkpoint, its bytes checked. Raises UserError."""
    with _opened(path) as file:
        header, sha256 = _parse(path, file.readline(MAX_HEADER_BYTES))
        if sha256_of_rest(file) != sha256:
            raise UserError(f"{path} {DAMAGED}")
        return header


def load(path: Path, kind: str, build: Callable[[Header], TreeT]) -> tuple[Header, TreeT]:
    """Read a checkpoint.

    Args:
        path: the file.
        kind: the expected `Header.kind`.
        build: gives a tree of the right shapes for a header. It is traced, not computed.

    Raises UserError if the file is missing, damaged, or of another kind or architecture, or if JAX
    finds no device.
    """
    find_device()
    with _opened(path) as file:
        header, sha256 = _parse(path, file.readline(MAX_HEADER_BYTES))
        if header.kind != kind:
            raise UserError(f"{path} holds a {header.kind}, not a {kind}")
        try:
            shapes = eqx.filter_eval_shape(
                lambda header: _in_precision(header.precision, build(header)), header
            )
            # A file may be endless, so read no more than the model needs, and one byte.
            maximum = _bytes_on_file(shapes)
            leaves = file.read(min(maximum, os.fstat(file.fileno()).st_size) + 1)
            if len(leaves) > maximum:
                raise ValueError("the file has more leaves")
            if hashlib.sha256(leaves).hexdigest() != sha256:
                raise UserError(f"{path} {DAMAGED}")
            stream = io.BytesIO(leaves)
            tree = eqx.tree_deserialise_leaves(stream, shapes, _read_leaf)
            if stream.read(1):
                raise ValueError("the file has more leaves")
        except jax.errors.JaxRuntimeError:  # of the device, such as too little memory
            raise
        except READ_ERRORS as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{path} holds a {kind} of another architecture: {reason}") from error
        _check_numbers(path, kind, tree)
        return header, jax.tree.map(_as_float32, tree)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    if not path.exists():
        raise UserError(f"{path} is missing: run the step that makes it")
    try:
        with open_regular(path) as file:
            yield file
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or 'cannot be read'}") from error


def _parse(path: Path, line: bytes) -> tuple[Header, str]:
    """The header in a checkpoint's first line, and the sha256 of its leaves."""
    try:
        fields = json.loads(line)
        if fields.pop("header_sha256") != _digest(fields):
            raise ValueError("wrong sha256")
        if fields.pop("format") != FORMAT:
            raise ValueError("unknown format")
        sha256, header = fields.pop("sha256"), Header(**fields)
        for name in ("sizes", "settings", "inputs", "progress"):
            if not isinstance(getattr(header, name), dict):
                raise TypeError(f"{name} is not an object")
        if not all(isinstance(size, int) for size in header.sizes.values()):
            raise TypeError("a size is not an integer")
        if header.precision not in PRECISIONS:
            raise ValueError("unknown precision")
        settings = with_current_names(header.settings)
        progress = {
            name: with_current_names(value) if isinstance(value, dict) else value
            for name, value in header.progress.items()
        }
        return dataclasses.replace(header, settings=settings, progress=progress), sha256
    except READ_ERRORS as error:
        reason = " ".join(str(error).split())[:200]
        note = f"{path} is damaged or not a checkpoint of this project"
        raise UserError(f"{note}: {reason}") from error


def _read_leaf(file: BinaryIO, like: Any) -> Any:
    """The next leaf of a file. Its dtype must match: JAX would convert it silently."""
    if not isinstance(like, jax.ShapeDtypeStruct):
        return eqx.default_deserialise_filter_spec(file, like)
    array = np.load(file, allow_pickle=False)
    if array.dtype != like.dtype:
        raise ValueError(f"a leaf of {array.dtype} where {like.dtype} is expected")
    return jax.device_put(array)  # jnp.asarray would compile a program for each shape


def _check_numbers(path: Path, kind: str, tree: Any) -> None:
    """Raise UserError that names the first leaf with a NaN, or in a model with an infinity.

    The state of a search may contain infinity: its best value before the first generation.
    """
    for where, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if eqx.is_inexact_array(leaf):
            wrong = np.isnan(leaf) if kind.endswith(" training") else ~np.isfinite(leaf)
            if wrong.any():
                name = jax.tree_util.keystr(where, simple=True, separator=".")
                raise UserError(f"{path}: {name}: NaN or infinity")


def _in_precision(precision: str, tree: TreeT) -> TreeT:
    """The tree with its floating-point arrays cast to this precision."""

    def cast(leaf: Any) -> Any:
        return leaf.astype(precision) if _is_float_other_than(precision, leaf) else leaf

    return jax.tree.map(cast, tree)


def _as_float32(leaf: Any) -> Any:
    """A leaf of a file in float32. NumPy converts it: JAX would compile a program per shape."""
    if _is_float_other_than("float32", leaf):
        return jax.device_put(np.asarray(leaf, np.float32))
    return leaf


def _is_float_other_than(precision: str, leaf: Any) -> bool:
    return eqx.is_inexact_array(leaf) and leaf.dtype != precision


def _bytes_on_file(shapes: Any) -> int:
    """Upper bound of the size of the leaves in a file, with their .npy headers."""
    leaves = jax.tree.leaves(shapes)
    return sum(1024 + math.prod(x.shape) * x.dtype.itemsize for x in leaves if hasattr(x, "shape"))


def _digest(fields: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def count_parameters(tree: Any) -> int:
    """Number of parameters in a pytree."""
    return sum(leaf.size for leaf in jax.tree.leaves(eqx.filter(tree, eqx.is_array)))


def load_vae(path: Path) -> tuple[Header, ConvVAE]:
    """V and its header."""
    return load(path, "vae", lambda header: ConvVAE(**header.sizes, key=jax.random.key(0)))


def load_rnn(path: Path) -> tuple[Header, MDNRNN]:
    """M and its header."""
    return load(path, "rnn", lambda header: MDNRNN(**header.sizes, key=jax.random.key(0)))


def load_controller(path: Path) -> tuple[Header, Controller]:
    """C and its header."""
    return load(path, "controller", lambda header: Controller(**header.sizes))
