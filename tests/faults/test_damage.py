"""Damaged files against whole scripts: named, counted and left out, never run, never believed."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from faults import corpus
from faults.corpus import CHECKPOINT_DAMAGE, npz_damage
from faults.pipeline import TRAININGS
from faults.processes import Ended, finish
from faults.references import (
    NOT_COMPARED,
    Files,
    Suite,
    assert_same,
    files_in,
    prepare,
    reference,
    scratch,
)
from models.vae import LATENT
from utils.data.episodes import EPISODE_SCHEMA, scan_files, scan_latents
from utils.io.checkpoints import load_vae
from utils.io.files import sha256_of

TRAINED = "recovery/20000002.npz"  # an episode that V and M are trained on
HELD_OUT = "recovery/20000001.npz"
# Which scripts read which files, and the largest array of each file.
READERS = (
    ("collect_data", "rollouts", "frames"),
    ("run_vae_training", "rollouts", "frames"),
    ("process_data", "rollouts", "frames"),
    ("train_rnn", "latents", "mu"),
    ("train_dream", "latents", "mu"),
)
CHECKPOINT_READERS = {
    "run/vae.eqx": ("process_data", "train_rnn", "test_agent"),
    "run/rnn.eqx": ("train_dream", "test_agent"),
    "run/controller.eqx": ("test_agent",),
}


def damaged_files() -> Iterator[Any]:
    """Every damage to an episode or latent file, for each script that reads it."""
    for script, kind, big in READERS:
        for name in npz_damage(big):
            yield pytest.param(script, kind, big, name, TRAINED, id=f"{script}-{kind}: {name}")
    how = ("run_vae_training", "rollouts", "frames", "bit flip in frames", HELD_OUT)
    yield pytest.param(*how, id="run_vae_training-rollouts: a held-out episode")


@pytest.mark.faults("damage: {kind}")
@pytest.mark.parametrize(("script", "kind", "big", "name", "victim"), list(damaged_files()))
def test_one_damaged_file(
    suite: Suite,
    rng: np.random.Generator,
    script: str,
    kind: str,
    big: str,
    name: str,
    victim: str,
) -> None:
    """One of five files is damaged: the result is that of a run without it."""
    done, file = reference(suite, script), f"data/{kind}/{victim}"
    with scratch(suite) as here:
        prepare(suite, here, done.after if script == "collect_data" else done.before)
        bad = here / file
        npz_damage(big)[name](bad, rng)
        before = files_but(here, bad)
        at_scan = is_found_by_scan(here / "data" / kind, kind)
        ended = finish(script, here)
        ended.assert_succeeded()
        assert not list(here.rglob("unpickled")), "a pickle was loaded"
        found, named = files_but(here, bad), any(file in line for line in ended.lines)
        if named:
            assert_named_once(ended, file, files_together(script, at_scan, victim))
        if script == "run_vae_training" and not at_scan:
            load_vae(here / "run" / "vae.eqx")  # trained on the others: no bytes to compare with
            assert named or "frames" not in name
            return
        if script != "collect_data":
            expected = files_without(suite, script, file, named)
        elif named:  # the name is taken: the script drives another track
            new = {path: sha256 for path, sha256 in found.items() if path not in before}
            assert [Path(path).name for path in new] == ["20000003.npz"], sorted(new)
            expected = before | new
        else:
            expected = before
        assert_same(found, expected)


def assert_named_once(ended: Ended, file: str, together: int) -> None:
    """Assert that one short line names the damaged file and counts it."""
    lines = ended.lines
    assert sum(file in line for line in lines) == 1, lines
    assert all(len(line) < 1000 for line in lines), lines
    assert f"1 of {together} files" in ended.errors, lines


def files_together(script: str, at_scan: bool, victim: str) -> int:
    """How many files are counted: all, or the training's or held-out ones, read after the scan."""
    if at_scan or script != "run_vae_training":
        return 5
    return 3 if victim == TRAINED else 2


def files_without(suite: Suite, script: str, file: str, named: bool) -> Files:
    """The files of a run without a damaged one; or with it, if the script found it harmless."""
    done = reference(suite, script)
    if not named:
        return without(done.after, file)
    if script == "process_data":
        return without(done.after, file, file.replace("rollouts", "latents"))
    return without(reference(suite, script, "fewer_episodes").after, file)


@pytest.mark.faults("damage: latents", script="process_data")
@pytest.mark.parametrize("name", npz_damage("mu"))
def test_damaged_latents_are_encoded_anew(
    suite: Suite, rng: np.random.Generator, name: str
) -> None:
    """process_data.py makes latents, so it replaces damaged ones."""
    done, file = reference(suite, "process_data"), f"data/latents/{TRAINED}"
    with scratch(suite) as here:
        prepare(suite, here, done.after)
        bad = here / file
        npz_damage("mu")[name](bad, rng)
        ended = finish("process_data", here)
        if bad.is_dir():
            ended.assert_failed(file)  # a folder is not removed
            return
        ended.assert_succeeded()
        assert not list(here.rglob("unpickled")), "a pickle was loaded"
        assert_same(files_in(here), done.after)


@pytest.mark.faults("damage: {kind}")
@pytest.mark.parametrize(
    ("script", "kind"),
    [pytest.param(script, kind, id=f"{script}-{kind}: too many") for script, kind, _ in READERS],
)
def test_too_many_damaged_files(
    suite: Suite, rng: np.random.Generator, script: str, kind: str
) -> None:
    """Three of five files are damaged: the script fails and changes nothing."""
    done = reference(suite, script)
    with scratch(suite) as here:
        prepare(suite, here, done.after if script == "collect_data" else done.before)
        paths = truncate_three(here / "data" / kind, rng)
        damaged = files_in(here)
        finish(script, here).assert_failed("3 of 5 files are damaged", paths[0].name)
        assert_same(files_in(here), damaged)


@pytest.mark.faults("damage: latents", script="process_data")
def test_too_many_damaged_latents_are_encoded_anew(suite: Suite, rng: np.random.Generator) -> None:
    done = reference(suite, "process_data")
    with scratch(suite) as here:
        prepare(suite, here, done.after)
        truncate_three(here / "data" / "latents", rng)
        finish("process_data", here).assert_succeeded()
        assert_same(files_in(here), done.after)


def damaged_checkpoints() -> Iterator[Any]:
    """Every damage to a model for each script that reads it; some for what a training continues."""
    for file, scripts in CHECKPOINT_READERS.items():
        for script in scripts:
            for name in CHECKPOINT_DAMAGE:
                yield pytest.param(script, file, name, id=f"{script}-{file}: {name}")
    for script, model in TRAININGS.items():
        for name in ("truncated", "bit flip in the leaves", "a pickle", "a folder"):
            for file in (f"run/{model}.eqx", f"run/{model}.training.eqx"):
                yield pytest.param(script, file, name, id=f"{script}-{file}: {name}")


@pytest.mark.faults("damage: checkpoints")
@pytest.mark.parametrize(("script", "file", "name"), list(damaged_checkpoints()))
def test_damaged_checkpoint(
    suite: Suite, rng: np.random.Generator, script: str, file: str, name: str
) -> None:
    """A damaged model ends the script with one line, and nothing is changed."""
    done = reference(suite, script)
    with scratch(suite) as here:
        path, model = here / file, TRAININGS.get(script)
        own = model is not None and path.name.startswith(model)
        prepare(suite, here, done.after if own else done.before)
        if file.endswith(".training.eqx"):
            path.write_bytes((here / "run" / f"{model}.eqx").read_bytes())
        os.chdir(here)
        CHECKPOINT_DAMAGE[name](path, rng)
        os.chdir("/")
        before = files_but(here, path)
        ended = finish(script, here)
        ended.assert_failed(file)
        assert len(ended.lines) == 1 and len(ended.lines[0]) < 1000, ended.lines
        assert not list(here.rglob("unpickled")), "a pickle was loaded"
        assert_same(files_but(here, path), before)


def truncate_three(folder: Path, rng: np.random.Generator) -> list[Path]:
    """Truncate three of the folder's .npz files."""
    paths = sorted(folder.rglob("*.npz"))[:3]
    for path in paths:
        corpus.truncated(path, rng)
    return paths


def without(files: Files, *names: str) -> Files:
    """All but these files."""
    return {name: sha256 for name, sha256 in files.items() if name not in names}


def is_found_by_scan(folder: Path, kind: str) -> bool:
    """Whether a scan leaves out one of five files. It does not read frames."""
    with contextlib.redirect_stderr(None):
        if kind == "latents":
            return len(scan_latents(folder.parent, LATENT)) == 4
        return len(scan_files(folder, EPISODE_SCHEMA)) == 4


def files_but(here: Path, bad: Path) -> Files:
    """All files but one, which may be no regular file."""
    return {
        str(path.relative_to(here)): sha256_of(path)
        for path in sorted(here.rglob("*"))
        if path != bad and path.is_file() and path.name not in NOT_COMPARED
    }
