"""What no longer fits together: refused, redone or continued, and never silently used."""

import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from faults.references import assert_same, files_in, prepare, reference, scratch, workspace
from faults.stages import TRAININGS, finish, start
from faults.trials import Suite, Trial
from utils.io.checkpoints import read_header
from utils.io.files import sha256_of

MODELS = ("run/vae.eqx", "run/rnn.eqx", "run/controller.eqx")
ONE_EPISODE = "recovery/20000002.npz"


def trials(suite: Suite) -> Iterator[Trial]:
    """Each way for files not to belong together."""
    fault = "stale: V under latents"
    for stage in ("predict", "dream", "encode"):
        yield Trial(fault, stage, "another V", vae_swapped, (stage,))
    for stage in ("predict", "dream"):
        yield Trial(fault, stage, "in the midst of it", encoded_meanwhile, (stage,))
    for stage in ("dream", "drive", "collect"):
        yield Trial("stale: M under C", stage, "another M", rnn_swapped, (stage,))
    for parts in ((0,), (1,), (2,), (0, 1), (1, 2), (0, 2)):
        names = " and ".join(MODELS[part] for part in parts)
        yield Trial("stale: two agents mixed", "drive", names, mixed, (parts,))
    for stage in TRAININGS:
        for flag in ("--seed", "--fresh-after-seed"):
            yield Trial("stale: other settings", stage, flag, settings_changed, (stage, flag))
        yield Trial("stale: episodes added", stage, "one more", episodes_changed, (stage, True))
        yield Trial("stale: episodes removed", stage, "one less", episodes_changed, (stage, False))
    yield Trial("stale: other settings", "collect", "--max-steps", driven_otherwise)
    for change in ("added", "removed", "replaced", "under another's name"):
        yield Trial(f"stale: episodes {change}", "encode", change, latents_follow, (change,))


def other(suite: Suite, folder: Path, *names: str) -> None:
    """Replace files by those of the run with another seed."""
    files = reference(suite, "drive", "other").after
    prepare(suite, folder, {name: files[name] for name in names}, "other")


def vae_swapped(suite: Suite, rng: np.random.Generator, stage: str) -> None:
    """Latents of one V and the checkpoint of another."""
    done = reference(suite, stage)
    with scratch(suite) as folder:
        prepare(suite, folder, done.after if stage == "encode" else done.before)
        other(suite, folder, "run/vae.eqx")
        before = files_in(folder)
        ended = finish(stage, folder)
        if stage != "encode":
            ended.failed("another" if stage == "dream" else "another VAE")
            assert_same(files_in(folder), before)
            return
        ended.succeeded()
        assert "5 episodes, 5 to encode" in ended.output
        with scratch(suite) as fresh:
            prepare(suite, fresh, {n: s for n, s in done.before.items() if "vae.eqx" not in n})
            other(suite, fresh, "run/vae.eqx")
            finish(stage, fresh).succeeded()
            assert_same(files_in(folder), files_in(fresh))


def encoded_meanwhile(suite: Suite, rng: np.random.Generator, stage: str) -> None:
    """While a stage learns from latents, another run with another V encodes the same folder."""
    with workspace(suite, stage) as folder:
        running = start(stage, folder)
        running.wait_until(lambda: b"M" in running.progress())
        enough = float(rng.uniform(0, 0.7)) * reference(suite, stage).cpu
        running.wait_until(lambda: running.cpu_seconds() > enough)
        running.signal(signal.SIGSTOP)
        try:
            other_run = folder / "other"
            prepare(suite, other_run, vae_of_other(suite), "other")
            finish("encode", folder, run="other/run").succeeded()
        finally:
            running.signal(signal.SIGCONT)
        ended = running.wait()
        if ended.code == 0:  # it had read all that it needs
            made = reference(suite, stage).sizes
            after = files_in(folder)
            assert {n: after[n] for n in made} == {
                n: reference(suite, stage).after[n] for n in made
            }
            return
        said = ended.failed()
        assert "was replaced" in said or "another VAE" in said, said


def vae_of_other(suite: Suite) -> dict[str, str]:
    """The V of the run with another seed."""
    return {"run/vae.eqx": reference(suite, "drive", "other").after["run/vae.eqx"]}


def rnn_swapped(suite: Suite, rng: np.random.Generator, stage: str) -> None:
    """M was trained anew, on the same V, below the controller."""
    with scratch(suite) as folder:
        prepare(suite, folder, reference(suite, "drive").after)
        finish("predict", folder, "--seed", "1").succeeded()
        before = files_in(folder)
        if stage == "dream":
            ended = finish(stage, folder)
            ended.succeeded()
            assert "from scratch: rnn changed" in ended.output, ended.output
            header = read_header(folder / "run" / "controller.eqx")
            assert header.inputs["rnn"] == sha256_of(folder / "run" / "rnn.eqx")
            assert header.progress["continued_from"] == ""
            return
        flags = ("--mode", "on-policy") if stage == "collect" else ()
        finish(stage, folder, *flags).failed("controller.eqx was made with another rnn")
        assert_same(files_in(folder), before)


def mixed(suite: Suite, rng: np.random.Generator, parts: tuple[int, ...]) -> None:
    """Some parts of one agent, the rest of another."""
    with scratch(suite) as folder:
        prepare(suite, folder, reference(suite, "drive").before)
        other(suite, folder, *(MODELS[part] for part in parts))
        before = files_in(folder)
        finish("drive", folder).failed("was made with another", "they do not fit")
        assert_same(files_in(folder), before)


def settings_changed(suite: Suite, rng: np.random.Generator, stage: str, flag: str) -> None:
    """A finished model with other settings: anew, as from an empty folder."""
    done = reference(suite, stage)
    with scratch(suite) as folder, scratch(suite) as fresh:
        prepare(suite, folder, done.after)
        flags = ("--seed", "1")
        ended = finish(stage, folder, *flags)
        ended.succeeded()
        assert "from scratch: seed changed" in ended.output, ended.output
        if flag == "--fresh-after-seed":  # and back again
            finish(stage, folder).succeeded()
            assert_same(files_in(folder), done.after)
            return
        prepare(suite, fresh, done.before)
        finish(stage, fresh, *flags).succeeded()
        assert_same(files_in(folder), files_in(fresh))


def episodes_changed(suite: Suite, rng: np.random.Generator, stage: str, added: bool) -> None:
    """An episode more or less: on from the last weights, and the header says so."""
    done, kind = reference(suite, stage), "rollouts" if stage == "see" else "latents"
    with scratch(suite) as folder:
        prepare(suite, folder, done.after)
        name = f"data/{kind}/{ONE_EPISODE}"
        if added:
            prepare(suite, folder, reference(suite, stage, "absent").after, "absent")
            if stage == "dream":  # below it M is the one of all episodes
                prepare(suite, folder, {"run/rnn.eqx": done.after["run/rnn.eqx"]})
            prepare(suite, folder, {name: done.after[name]})
        else:
            (folder / name).unlink()
        final = folder / "run" / f"{TRAININGS[stage]}.eqx"
        origin, inputs = sha256_of(final), read_header(final).inputs
        ended = finish(stage, folder)
        ended.succeeded()
        assert "going on from the last weights" in ended.output, ended.output
        header = read_header(final)
        assert header.progress["continued_from"] == origin
        assert header.inputs["data"] != inputs["data"]
        assert "is finished" in finish(stage, folder).output


def driven_otherwise(suite: Suite, rng: np.random.Generator) -> None:
    """Other driving settings: other tracks, and nothing is overwritten."""
    done = reference(suite, "collect")
    with scratch(suite) as folder:
        prepare(suite, folder, done.after)
        finish("collect", folder, "--max-steps", "20").succeeded()
        found = files_in(folder)
        new = {name: found.pop(name) for name in set(found) - set(done.after)}
        assert_same(found, done.after)
        assert sorted(new) == [f"data/rollouts/recovery/2000000{n}.npz" for n in (3, 4, 5)]


def latents_follow(suite: Suite, rng: np.random.Generator, change: str) -> None:
    """The latents become those of the episodes that are there."""
    done = reference(suite, "encode")
    with scratch(suite) as folder, scratch(suite) as fresh:
        prepare(suite, folder, done.after)
        rollout = folder / "data" / "rollouts" / ONE_EPISODE
        latents = folder / "data" / "latents" / ONE_EPISODE
        expected = 1
        if change == "added":
            latents.unlink()
        elif change == "removed":
            rollout.unlink()
            expected = 0
        elif change == "replaced":
            other(suite, folder, f"data/rollouts/{ONE_EPISODE}")
        else:
            latents.write_bytes(latents.with_name("20000000.npz").read_bytes())
        ended = finish("encode", folder)
        ended.succeeded()
        assert f", {expected} to encode" in ended.output, ended.output
        prepare(suite, fresh, {n: s for n, s in done.before.items()})
        if change == "removed":
            (fresh / "data" / "rollouts" / ONE_EPISODE).unlink()
        elif change == "replaced":
            other(suite, fresh, f"data/rollouts/{ONE_EPISODE}")
        finish("encode", fresh).succeeded()
        assert_same(files_in(folder), files_in(fresh))
