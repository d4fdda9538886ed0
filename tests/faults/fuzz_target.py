"""The process that fuzzes one file reader with atheris (optional: requirements/faults.txt).

    python -m faults.fuzz_target episode -max_total_time=60 SEEDS

For the targets that end in "inside" the fuzzer writes the contents of a file and the checksums are
computed for it; otherwise it would never get past them. For the others it writes the whole file.
"""

import io
import json
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

TARGETS = (
    *("episode", "latent", "checkpoint"),
    *("episode inside", "latent inside", "checkpoint inside"),
)
READERS = ["utils.data.episodes", "utils.io.npz", "utils.io.files", "utils.io.checkpoints"]


def inside(path: Path, kind: str) -> bytes:
    """The contents that a fuzzer of a file's inside starts from."""
    if kind == "checkpoint":
        return path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        return b"\0" + archive.read("rewards.npy")


def arrays_of(found: Any) -> list[np.ndarray]:
    """The numeric arrays in the result of a reader."""
    if isinstance(found, tuple):
        found = dict(enumerate(found[1]))
    values = (found if isinstance(found, dict) else vars(found)).values()
    return [array for array in map(np.asarray, values) if array.dtype.kind in "fiub"]


def shape_of(found: Any) -> list[Any]:
    """Shapes and dtypes of the arrays in the result of a reader."""
    return [(array.shape, array.dtype) for array in arrays_of(found)]


def checkpoint_builder(path: Path) -> Callable[[bytes], bytes]:
    """Makes a checkpoint with valid checksums from a header and leaves that the fuzzer wrote."""
    from faults import corpus

    whole = path.read_bytes()

    def build(data: bytes) -> bytes:
        line, _, leaves = data.partition(b"\n")
        try:
            corpus.write_checkpoint(path, dict(json.loads(line)), leaves)
        except (ValueError, TypeError, RecursionError, AttributeError):  # not a header
            return whole
        return path.read_bytes()

    return build


def zip_builder(path: Path) -> Callable[[bytes], bytes]:
    """Makes a zip file with valid checksums: the first byte says which member the rest replaces."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}

    def build(data: bytes) -> bytes:
        key = list(members)[data[0] % len(members)] if data else "rewards.npy"
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in {**members, key: data[1:]}.items():
                archive.writestr(zipfile.ZipInfo(name), content)
        return buffer.getvalue()

    return build


def main() -> None:
    """Fuzz one target."""
    import atheris

    with atheris.instrument_imports(include=READERS):  # has an effect on imports in its body only
        from faults import corpus
    from faults.guard import guarded
    from utils.errors import UserError

    target, arguments = sys.argv[1], [sys.argv[0], *sys.argv[2:]]
    kind, _, part = target.partition(" ")
    path = Path(tempfile.mkdtemp()) / "7.npz"
    corpus.write_valid(path, kind)
    valid = corpus.read(path, kind)
    build: Callable[[bytes], bytes] = bytes
    if part:
        build = checkpoint_builder(path) if kind == "checkpoint" else zip_builder(path)

    def attempt(data: bytes) -> None:
        path.write_bytes(build(data))
        try:
            with guarded():
                found = corpus.read(path, kind)
        except UserError as refusal:
            message = str(refusal)
            assert str(path) in message and message.isprintable(), repr(message)
            return
        # With valid checksums the numbers may differ, but not what kind of numbers they are.
        if kind == "checkpoint":
            assert shape_of(found) == shape_of(valid)
        else:
            assert all(np.isfinite(array).all() for array in arrays_of(found))

    atheris.Setup(arguments, attempt)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
