"""Damaged and hostile files: refused by name, set aside and counted, never run, never believed."""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from faults import corpus
from faults.corpus import CHECKPOINT_DAMAGE, npz_damage
from faults.stages import assert_same, files_in, finish, prepare, reference, scratch
from faults.trials import Suite, Trial
from models.vae import LATENT
from utils.checkpoints import load_vae
from utils.commandline import Failure
from utils.episodes import EPISODE_ARRAYS, scan, scan_latents
from utils.files import LOCK_NAME, TIMES_NAME, sha256_of

VICTIM = "recovery/20000002.npz"  # an episode that V and M learn from
HELD_OUT = "recovery/20000001.npz"
SECONDS = 10.0  # for reading one small file; longer is a hang
# Which stages read a checkpoint: the file, and who says so.
READERS = {
    "run/vae.eqx": ("encode", "predict", "drive"),
    "run/rnn.eqx": ("dream", "drive"),
    "run/controller.eqx": ("drive",),
}
TRAININGS = {"see": "vae", "predict": "rnn", "dream": "controller"}


def trials(suite: Suite) -> Iterator[Trial]:
    """Loaders alone, by the thousand; then whole stages."""
    for kind in ("episode", "latent", "checkpoint"):
        yield Trial("damage: corpus", "loader", kind, read_corpus, (kind,))
        yield Trial("damage: truncation", "loader", kind, read_truncated, (kind,))
        yield Trial("damage: bit flips", "loader", kind, read_flipped, (kind,))
        yield Trial("damage: hypothesis", "loader", kind, read_mutated, (kind,))
    for stage, folder, big in (
        ("collect", "rollouts", "frames"),
        ("see", "rollouts", "frames"),
        ("encode", "rollouts", "frames"),
        ("encode", "latents", "mu"),
        ("predict", "latents", "mu"),
        ("dream", "latents", "mu"),
    ):
        for name in npz_damage(big):
            how = (stage, folder, big, name)
            yield Trial(f"damage: {folder}", stage, name, one_file, how)
        yield Trial(f"damage: {folder}", stage, "too many", too_many, (stage, folder))
    how = ("see", "rollouts", "frames", "bit flip in frames", HELD_OUT)
    yield Trial("damage: rollouts", "see", "a held-out episode", one_file, how)
    for file, stages in READERS.items():
        for stage in stages:
            for name in CHECKPOINT_DAMAGE:
                how = (stage, file, name)
                yield Trial("damage: checkpoints", stage, f"{file}: {name}", checkpoint, how)
    for stage, model in TRAININGS.items():
        for name in ("truncated", "bit flip in the leaves", "a pickle", "a folder"):
            for file in (f"run/{model}.eqx", f"run/{model}.training.eqx"):
                how = (stage, file, name)
                yield Trial("damage: checkpoints", stage, f"{file}: {name}", checkpoint, how)


# --- loaders --------------------------------------------------------------------------------------

FORBIDDEN = ("pickle.find_class", "os.system", "os.exec", "subprocess.Popen", "os.posix_spawn")
_alarms: list[str] | None = None


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _alarms is not None and event.startswith((*FORBIDDEN, "socket.", "import")):
        name = str(arguments[0]) if arguments else ""
        if event != "import" or name.split(".")[0] not in sys.modules:
            _alarms.append(f"{event} {name}")


sys.addaudithook(_hook)


class Hang(BaseException):
    """Nothing that a loader could mistake for damage."""


@contextlib.contextmanager
def in_time() -> Iterator[None]:
    """Hang unless it is done in SECONDS."""

    def ring(number: int, frame: Any) -> None:
        raise Hang(f"hangs for {SECONDS} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    except Hang as hang:
        raise AssertionError(str(hang)) from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """No foreign import, no unpickling, no other program."""
    global _alarms
    _alarms = []
    try:
        yield
        assert not _alarms, f"while reading: {_alarms}"
    finally:
        _alarms = None


def read_damaged(path: Path, kind: str, sound: Any) -> bool:
    """Read; whether it was refused with one line that names the file. Else it must be `sound`."""
    with in_time(), guarded():
        try:
            found = corpus.read(path, kind)
        except Failure as failure:
            said = str(failure)
            assert str(path) in said and "\n" not in said and len(said) < 1000, said
            return True
    assert same(found, sound), "damage was read as if it were sound"
    return False


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
            assert read_damaged(path, kind, sound), f"{name} was not refused"
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
            refused += read_damaged(path, kind, sound)
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


# --- stages ---------------------------------------------------------------------------------------


def one_file(
    suite: Suite,
    rng: np.random.Generator,
    stage: str,
    folder: str,
    big: str,
    name: str,
    victim: str = VICTIM,
) -> None:
    """One of five files is damaged: named, counted, left out, and all else as without it."""
    done, latents = reference(suite, stage), (stage, folder) == ("encode", "latents")
    file, latent = f"data/{folder}/{victim}", f"data/latents/{victim}"
    with scratch(suite) as here:
        prepare(suite, here, done.after if latents or stage == "collect" else done.before)
        bad = here / file
        npz_damage(big)[name](bad, rng)
        expected = files_but(here, bad)
        at_scan = is_found_by_scan(here / "data" / folder, folder)
        ended = finish(stage, here)
        if latents and bad.is_dir():
            ended.failed(file)  # nothing that a stage could remove by itself
            return
        ended.succeeded()
        assert not list(here.rglob("unpickled")), "a pickle was loaded"
        if latents:
            assert_same(files_in(here), done.after)  # damaged latents are encoded anew
            return
        found, named = files_but(here, bad), [line for line in ended.lines if file in line]
        if named:
            assert len(named) == 1 and all(len(line) < 1000 for line in ended.lines), ended.lines
            assert "1 of 5 files" in ended.errors, ended.lines
        if stage == "see" and not at_scan:
            load_vae(here / "run" / "vae.eqx")  # learned from the others: no bytes to compare with
            assert named or "frames" not in name
            return
        if stage == "collect":
            if named:  # the file's name is taken: another track is driven for it
                new = {path: sha256 for path, sha256 in found.items() if path not in expected}
                assert [Path(path).name for path in new] == ["20000003.npz"], sorted(new)
                expected |= new
        elif not named:
            expected = without(done.after, file)  # a bit that means nothing
        elif stage == "encode":
            expected = without(done.after, file, latent)
        else:
            expected = without(reference(suite, stage, "absent").after, file)
        assert_same(found, expected)


def without(files: dict[str, str], *names: str) -> dict[str, str]:
    """All but these files."""
    return {name: sha256 for name, sha256 in files.items() if name not in names}


def is_found_by_scan(folder: Path, kind: str) -> bool:
    """Whether one of five files is left out by a scan, before its frames are read."""
    with contextlib.redirect_stderr(None):
        if kind == "latents":
            return len(scan_latents(folder.parent, LATENT)) == 4
        return len(scan(folder, EPISODE_ARRAYS)) == 4


def too_many(suite: Suite, rng: np.random.Generator, stage: str, folder: str) -> None:
    """Three of five files: the stage stops and says so, and nothing is changed."""
    done = reference(suite, stage)
    before = done.after if (stage, folder) in (("encode", "latents"),) else done.before
    before = done.after if stage == "collect" else before
    with scratch(suite) as here:
        prepare(suite, here, before)
        names = sorted((here / "data" / folder).rglob("*.npz"))[:3]
        for path in names:
            corpus.truncated(path, rng)
        damaged = files_in(here)
        ended = finish(stage, here)
        if (stage, folder) == ("encode", "latents"):
            ended.succeeded()  # it is the stage that makes them anew
            assert_same(files_in(here), done.after)
            return
        ended.failed("3 of 5 files are damaged", names[0].name)
        assert_same(files_in(here), damaged)


def checkpoint(suite: Suite, rng: np.random.Generator, stage: str, file: str, name: str) -> None:
    """A damaged model stops the stage in one line, and nothing is changed."""
    done = reference(suite, stage)
    with scratch(suite) as here:
        path, model = here / file, TRAININGS.get(stage)
        own = model is not None and path.name.startswith(model)
        prepare(suite, here, done.after if own else done.before)
        if file.endswith(".training.eqx"):
            path.write_bytes((here / "run" / f"{model}.eqx").read_bytes())
        os.chdir(here)
        CHECKPOINT_DAMAGE[name](path, rng)
        os.chdir("/")
        before = files_but(here, path)
        ended = finish(stage, here)
        ended.failed(file)
        assert len(ended.lines) == 1 and len(ended.lines[0]) < 1000, ended.lines
        assert not list(here.rglob("unpickled")), "a pickle was loaded"
        assert_same(files_but(here, path), before)


def files_but(here: Path, bad: Path) -> dict[str, str]:
    """All files but one, which may be no file."""
    return {
        str(path.relative_to(here)): sha256_of(path)
        for path in sorted(here.rglob("*"))
        if path != bad and path.is_file() and path.name not in (LOCK_NAME, TIMES_NAME)
    }
