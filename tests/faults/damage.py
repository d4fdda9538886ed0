"""Damaged and hostile files: refused by name, set aside and counted, never run, never believed."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from faults import corpus
from faults.corpus import CHECKPOINT_DAMAGE, npz_damage
from faults.references import assert_same, files_in, prepare, reference, scratch
from faults.stages import TRAININGS, finish
from faults.trials import Suite, Trial
from models.vae import LATENT
from utils.data.episodes import EPISODE_SCHEMA, scan_files, scan_latents
from utils.io.checkpoints import load_vae
from utils.io.files import LOCK_NAME, sha256_of
from utils.io.records import TIMES_NAME

VICTIM = "recovery/20000002.npz"  # an episode that V and M learn from
HELD_OUT = "recovery/20000001.npz"
SECONDS = 10.0  # for reading one small file; longer is a hang
# Which stages read a checkpoint: the file, and who says so.
READERS = {
    "run/vae.eqx": ("encode", "predict", "drive"),
    "run/rnn.eqx": ("dream", "drive"),
    "run/controller.eqx": ("drive",),
}


def trials(suite: Suite) -> Iterator[Trial]:
    """Each damaged file against each stage that reads it."""
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
            # What no scan finds V's training meets among the files that it reads together.
            together = 5 if at_scan or stage != "see" else 3 if victim == VICTIM else 2
            assert f"1 of {together} files" in ended.errors, ended.lines
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
        return len(scan_files(folder, EPISODE_SCHEMA)) == 4


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
