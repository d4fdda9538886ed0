"""Damaged and hostile files against the loaders alone, by the thousand."""

import contextlib
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from faults import corpus
from faults.corpus import CONTRACTS
from faults.guard import guarded, in_time
from faults.references import scratch
from faults.trials import Suite, Trial
from utils.errors import UserError


def trials(suite: Suite) -> Iterator[Trial]:
    """Every kind of damage for every kind of file."""
    for kind in ("episode", "latent", "checkpoint"):
        yield Trial("damage: corpus", "loader", kind, read_corpus, (kind,))
        yield Trial("damage: truncation", "loader", kind, read_truncated, (kind,))
        yield Trial("damage: bit flips", "loader", kind, read_flipped, (kind,))
        yield Trial("damage: hypothesis", "loader", kind, read_mutated, (kind,))
    for kind in ("episode", "latent"):  # stages read these ahead, in threads
        yield Trial("many readers at once", "loader", kind, read_together, (kind,))


def read_damaged(path: Path, kind: str, sound: Any) -> str:
    """Read; what was said in refusing it, one line that names the file, or "" if it is `sound`."""
    with in_time(), guarded():
        try:
            found = corpus.read(path, kind)
        except UserError as failure:
            said = str(failure)
            assert str(path) in said and "\n" not in said and len(said) < 1000, said
            return said
    assert same(found, sound), "damage was read as if it were sound"
    return ""


def same(one: Any, other: Any) -> bool:
    """Whether two results of a loader are equal, to the last bit."""
    return repr_of(one) == repr_of(other)


def repr_of(value: Any) -> Any:
    """A value that compares by its contents."""
    if hasattr(value, "dtype"):
        return str(value.dtype), value.shape, np.asarray(value).tobytes()
    if isinstance(value, dict):
        return {key: repr_of(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [repr_of(item) for item in value]
    return repr_of(vars(value)) if hasattr(value, "__dict__") else value


@contextlib.contextmanager
def sound_file(suite: Suite, kind: str) -> Iterator[tuple[Path, Any, bytes]]:
    """A path, what is read from it when it is sound, and its bytes."""
    with scratch(suite) as folder:
        path = folder / "7.npz"
        corpus.write_sound(path, kind)
        yield path, corpus.read(path, kind), path.read_bytes()


def read_corpus(suite: Suite, rng: np.random.Generator, kind: str) -> dict[str, Any]:
    """Every case must be refused."""
    cases = list(corpus.checkpoint_cases() if kind == "checkpoint" else corpus.npz_cases(kind))
    with sound_file(suite, kind) as (path, sound, data):
        os.chdir(path.parent)
        for name, damage in cases:
            path.write_bytes(data)
            damage(path, rng)
            said = read_damaged(path, kind, sound)
            assert said, f"{name} was not refused"
            # Where one array is to blame, it is named; a number of steps is blamed on what differs.
            key = name.partition(": ")[0]
            if kind != "checkpoint" and key in CONTRACTS[kind] and key != "rewards":
                assert f"{key}: " in said, f"{name}: {said}"
            assert not list(path.parent.glob("unpickled*")), f"{name} was unpickled"
            path.rmdir() if path.is_dir() else path.unlink()
        os.chdir("/")
    return {"trials": len(cases)}


def read_truncated(suite: Suite, rng: np.random.Generator, kind: str) -> dict[str, Any]:
    """Every length, or a thousand of them, must be refused."""
    with sound_file(suite, kind) as (path, sound, data):
        lengths = sorted({int(x) for x in np.linspace(0, len(data) - 1, 1000)})
        for length in lengths:
            path.write_bytes(data[:length])
            assert read_damaged(path, kind, sound), f"cut to {length} bytes and not refused"
    return {"trials": len(lengths)}


def read_flipped(suite: Suite, rng: np.random.Generator, kind: str) -> dict[str, Any]:
    """A bit in every region: every byte, or four thousand of them."""
    with sound_file(suite, kind) as (path, sound, data):
        positions = sorted({int(x) for x in np.linspace(0, len(data) - 1, 4000)})
        refused = 0
        for position in positions:
            changed = bytearray(data)
            changed[position] ^= 1 << int(rng.integers(8))
            path.write_bytes(changed)
            refused += bool(read_damaged(path, kind, sound))
    return {"trials": len(positions), "refused": refused, "harmless": len(positions) - refused}


def read_mutated(suite: Suite, rng: np.random.Generator, kind: str) -> dict[str, Any]:
    """Cuts, repeats and overwrites anywhere, as hypothesis finds them."""
    pieces = st.tuples(
        st.integers(0, 10**6), st.integers(0, 64), st.binary(max_size=40), st.integers(0, 3)
    )
    with sound_file(suite, kind) as (path, sound, data):
        count = 0

        @seed(suite.seed)
        @settings(
            max_examples=1500,
            deadline=None,
            database=None,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        )
        @given(st.lists(pieces, min_size=1, max_size=6))
        def attempt(edits: list[tuple[int, int, bytes, int]]) -> None:
            nonlocal count
            changed = bytearray(data)
            for position, length, new, repeats in edits:
                start = position % (len(changed) + 1)
                changed[start : start + length] = new * repeats
            path.write_bytes(changed)
            read_damaged(path, kind, sound)
            count += 1

        attempt()
    return {"trials": count}


def read_together(suite: Suite, rng: np.random.Generator, kind: str) -> dict[str, Any]:
    """Sixteen threads read a sound file: what libraries share among threads harms none."""
    sys.setswitchinterval(1e-6)
    with sound_file(suite, kind) as (path, sound, _), ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda _: corpus.read(path, kind), range(2000)))
        assert all(same(one, sound) for one in found)
    return {"trials": len(found)}
