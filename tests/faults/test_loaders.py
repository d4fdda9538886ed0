"""Damaged and hostile files against the file readers alone, by the thousand."""

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from faults import corpus, fuzz_target
from faults.corpus import CONTRACTS
from faults.guard import guarded, in_time
from faults.pipeline import ROOT
from faults.references import Record, Suite, scratch
from utils.errors import UserError

KINDS = pytest.mark.parametrize("kind", ["episode", "latent", "checkpoint"])


def read_damaged(path: Path, kind: str, valid: Any) -> str:
    """The reader's refusal, one line that names the file; "" if it read the values of `valid`."""
    with in_time(), guarded():
        try:
            found = corpus.read(path, kind)
        except UserError as failure:
            message = str(failure)
            assert str(path) in message and message.isprintable(), repr(message)
            assert len(message) < 1000, message
            return message
    assert same(found, valid), "a damaged file was read as if it were valid"
    return ""


def same(one: Any, other: Any) -> bool:
    """Whether two results of a reader are equal to the last bit."""
    return comparable(one) == comparable(other)


def comparable(value: Any) -> Any:
    """A value that compares by its contents."""
    if hasattr(value, "dtype"):
        return str(value.dtype), value.shape, np.asarray(value).tobytes()
    if isinstance(value, dict):
        return {key: comparable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [comparable(item) for item in value]
    return comparable(vars(value)) if hasattr(value, "__dict__") else value


@contextlib.contextmanager
def valid_file(suite: Suite, kind: str) -> Iterator[tuple[Path, Any, bytes]]:
    """The path of a valid file, what is read from it, and its bytes."""
    with scratch(suite) as folder:
        path = folder / "7.npz"
        corpus.write_valid(path, kind)
        yield path, corpus.read(path, kind), path.read_bytes()


@pytest.mark.faults("damage: corpus")
@KINDS
def test_corpus_is_refused(
    suite: Suite, rng: np.random.Generator, record_property: Record, kind: str
) -> None:
    """Every damage of the corpus is refused."""
    cases = list(corpus.checkpoint_cases() if kind == "checkpoint" else corpus.npz_cases(kind))
    with valid_file(suite, kind) as (path, valid, data):
        os.chdir(path.parent)
        for name, damage in cases:
            path.write_bytes(data)
            damage(path, rng)
            message = read_damaged(path, kind, valid)
            assert message, f"{name} was not refused"
            # The message names the array. A wrong number of rewards shows in the other arrays.
            key = name.partition(": ")[0]
            if kind != "checkpoint" and key in CONTRACTS[kind] and key != "rewards":
                assert f"{key}: " in message, f"{name}: {message}"
            assert not list(path.parent.glob("unpickled*")), f"{name} was unpickled"
            path.rmdir() if path.is_dir() else path.unlink()
        os.chdir("/")
    record_property("reads", len(cases))


@pytest.mark.faults("damage: truncation")
@KINDS
def test_truncation_is_refused(suite: Suite, record_property: Record, kind: str) -> None:
    """Every length, or a thousand of them, is refused."""
    with valid_file(suite, kind) as (path, valid, data):
        lengths = sorted({int(x) for x in np.linspace(0, len(data) - 1, 1000)})
        for length in lengths:
            path.write_bytes(data[:length])
            assert read_damaged(path, kind, valid), f"cut to {length} bytes and not refused"
    record_property("reads", len(lengths))


@pytest.mark.faults("damage: bit flips")
@KINDS
def test_bit_flips_are_refused_or_harmless(
    suite: Suite, rng: np.random.Generator, record_property: Record, kind: str
) -> None:
    """A bit of every byte, or of four thousand bytes, is flipped."""
    with valid_file(suite, kind) as (path, valid, data):
        positions = sorted({int(x) for x in np.linspace(0, len(data) - 1, 4000)})
        refused = 0
        for position in positions:
            changed = bytearray(data)
            changed[position] ^= 1 << int(rng.integers(8))
            path.write_bytes(changed)
            refused += bool(read_damaged(path, kind, valid))
    record_property("reads", len(positions))
    record_property("refused", refused)


@pytest.mark.faults("damage: hypothesis")
@KINDS
def test_edits_are_refused_or_harmless(suite: Suite, record_property: Record, kind: str) -> None:
    """Cuts, repeats and overwrites anywhere, chosen by hypothesis."""
    edits = st.tuples(
        st.integers(0, 10**6), st.integers(0, 64), st.binary(max_size=40), st.integers(0, 3)
    )
    with valid_file(suite, kind) as (path, valid, data):
        count = 0

        @seed(suite.seed)
        @settings(
            max_examples=1500,
            deadline=None,
            database=None,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        )
        @given(st.lists(edits, min_size=1, max_size=6))
        def attempt(edits: list[tuple[int, int, bytes, int]]) -> None:
            nonlocal count
            changed = bytearray(data)
            for position, length, new, repeats in edits:
                start = position % (len(changed) + 1)
                changed[start : start + length] = new * repeats
            path.write_bytes(changed)
            read_damaged(path, kind, valid)
            count += 1

        attempt()
    record_property("reads", count)


@pytest.mark.faults("many readers at once")
@pytest.mark.parametrize("kind", ["episode", "latent"])  # the scripts read these in threads
def test_many_readers_at_once(suite: Suite, record_property: Record, kind: str) -> None:
    """Sixteen threads read a valid file: state that libraries share among threads does no harm."""
    sys.setswitchinterval(1e-6)
    with valid_file(suite, kind) as (path, valid, _), ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda _: corpus.read(path, kind), range(2000)))
        assert all(same(one, valid) for one in found)
    record_property("reads", len(found))


@pytest.mark.faults("damage: fuzzing")
@pytest.mark.parametrize("target", fuzz_target.TARGETS)
def test_fuzzing(
    suite: Suite, rng: np.random.Generator, record_property: Record, target: str
) -> None:
    """Atheris writes files, guided by the branches that the reader takes."""
    if find_spec("atheris") is None:
        pytest.skip("needs atheris: requirements/faults.txt")
    with scratch(suite) as folder:
        seeds = folder / "seeds"
        seeds.mkdir()
        write_seeds(seeds, target, rng)
        command = [sys.executable, "-m", "faults.fuzz_target", target]
        command += [f"-max_total_time={suite.fuzz_seconds}", "-timeout=20", "-rss_limit_mb=3000"]
        command += [f"-seed={suite.seed + 1}", "-verbosity=1", "-max_len=20000", str(seeds)]
        path = os.pathsep.join((str(ROOT), str(ROOT / "tests")))
        done = subprocess.run(
            command,
            cwd=folder,
            capture_output=True,
            text=True,
            env={**os.environ, "TMPDIR": str(folder), "PYTHONPATH": path},
        )
    runs = re.search(r"Done (\d+) runs", done.stderr)
    output = done.stdout + done.stderr
    assert done.returncode == 0 and runs, f"exit code {done.returncode}: {output[-3000:]}"
    record_property("reads", int(runs[1]))
    if coverage := re.findall(r"cov: (\d+)", done.stderr):
        record_property("branches covered", int(coverage[-1]))


def write_seeds(seeds: Path, target: str, rng: np.random.Generator) -> None:
    """The files that a fuzzer starts from: a valid one and, for whole files, the corpus."""
    kind, _, part = target.partition(" ")
    path = seeds.parent / "7.npz"
    corpus.write_valid(path, kind)
    valid = path.read_bytes()
    (seeds / "valid").write_bytes(fuzz_target.inside(path, kind) if part else valid)
    if part:
        return
    cases = corpus.checkpoint_cases() if kind == "checkpoint" else corpus.npz_cases(kind)
    os.chdir(seeds.parent)
    for number, (_, damage) in enumerate(cases):
        path.write_bytes(valid)
        damage(path, rng)
        if path.is_file() and not path.is_symlink() and path.stat().st_size < 100_000:
            (seeds / str(number)).write_bytes(path.read_bytes())
        path.rmdir() if path.is_dir() else path.unlink()
    os.chdir("/")
