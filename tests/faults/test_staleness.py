"""Files that no longer fit together: refused, made anew or continued, never silently used."""

import signal
from pathlib import Path

import numpy as np
import pytest

from faults.pipeline import TRAININGS
from faults.processes import finish, start
from faults.references import Suite, assert_same, files_in, prepare, reference, scratch, workspace
from utils.io.checkpoints import read_header
from utils.io.files import sha256_of

MODELS = ("run/vae.eqx", "run/rnn.eqx", "run/controller.eqx")
ONE_EPISODE = "recovery/20000002.npz"


def use_other_seed(suite: Suite, folder: Path, *names: str) -> None:
    """Replace files by those of the run with another seed."""
    files = reference(suite, "test_agent", "other_seed").after
    prepare(suite, folder, {name: files[name] for name in names}, "other_seed")


@pytest.mark.faults("stale: V under latents")
@pytest.mark.parametrize("script", ["train_rnn", "train_dream", "process_data"])
def test_another_vae(suite: Suite, script: str) -> None:
    """Latents of one VAE beside the checkpoint of another."""
    done = reference(suite, script)
    with scratch(suite) as folder:
        prepare(suite, folder, done.after if script == "process_data" else done.before)
        use_other_seed(suite, folder, "run/vae.eqx")
        before = files_in(folder)
        ended = finish(script, folder)
        if script != "process_data":
            ended.assert_failed("another" if script == "train_dream" else "another VAE")
            assert_same(files_in(folder), before)
            return
        ended.assert_succeeded()
        assert "5 episodes, 5 to encode" in ended.output
        with scratch(suite) as fresh:
            prepare(suite, fresh, {n: s for n, s in done.before.items() if "vae.eqx" not in n})
            use_other_seed(suite, fresh, "run/vae.eqx")
            finish(script, fresh).assert_succeeded()
            assert_same(files_in(folder), files_in(fresh))


@pytest.mark.faults("stale: V under latents")
@pytest.mark.parametrize("script", ["train_rnn", "train_dream"])
def test_latents_replaced_during_training(
    suite: Suite, rng: np.random.Generator, script: str
) -> None:
    """While a script trains on latents, a run with another VAE encodes the same folder."""
    with workspace(suite, script) as folder:
        running = start(script, folder)
        running.wait_until(lambda: b"M" in running.progress())
        enough = float(rng.uniform(0, 0.7)) * reference(suite, script).cpu
        running.wait_until(lambda: running.cpu_seconds() > enough)
        running.signal(signal.SIGSTOP)
        try:
            other_run = folder / "other"
            use_other_seed(suite, other_run, "run/vae.eqx")
            finish("process_data", folder, run="other/run").assert_succeeded()
        finally:
            running.signal(signal.SIGCONT)
        ended = running.wait()
        if ended.code == 0:  # it had already read everything
            made = reference(suite, script).sizes
            after = files_in(folder)
            assert {n: after[n] for n in made} == {
                n: reference(suite, script).after[n] for n in made
            }
            return
        message = ended.assert_failed()
        assert "was replaced" in message or "another VAE" in message, message


@pytest.mark.faults("stale: M under C")
@pytest.mark.parametrize("script", ["train_dream", "test_agent", "collect_data"])
def test_another_rnn(suite: Suite, script: str) -> None:
    """The RNN below the controller was trained again, on the same VAE."""
    with scratch(suite) as folder:
        prepare(suite, folder, reference(suite, "test_agent").after)
        finish("train_rnn", folder, "--seed", "1").assert_succeeded()
        before = files_in(folder)
        if script == "train_dream":
            ended = finish(script, folder)
            ended.assert_succeeded()
            assert "from scratch: rnn changed" in ended.output, ended.output
            header = read_header(folder / "run" / "controller.eqx")
            assert header.inputs["rnn"] == sha256_of(folder / "run" / "rnn.eqx")
            assert header.progress["continued_from"] == ""
            return
        flags = ("--mode", "on-policy") if script == "collect_data" else ()
        finish(script, folder, *flags).assert_failed("controller.eqx was made with another rnn")
        assert_same(files_in(folder), before)


@pytest.mark.faults("stale: two agents mixed", script="test_agent")
@pytest.mark.parametrize(
    "parts",
    [(0,), (1,), (2,), (0, 1), (1, 2), (0, 2)],
    ids=lambda parts: " and ".join(MODELS[part] for part in parts),
)
def test_two_agents_mixed(suite: Suite, parts: tuple[int, ...]) -> None:
    """Some parts of one agent, the rest of another."""
    with scratch(suite) as folder:
        prepare(suite, folder, reference(suite, "test_agent").before)
        use_other_seed(suite, folder, *(MODELS[part] for part in parts))
        before = files_in(folder)
        finish("test_agent", folder).assert_failed("was made with another", "they do not fit")
        assert_same(files_in(folder), before)


@pytest.mark.faults("stale: other settings")
@pytest.mark.parametrize("back", [False, True], ids=["--seed", "--seed and back"])
@pytest.mark.parametrize("script", TRAININGS)
def test_settings_changed(suite: Suite, script: str, back: bool) -> None:
    """A finished model with other settings is trained from scratch, as in an empty folder."""
    done = reference(suite, script)
    with scratch(suite) as folder, scratch(suite) as fresh:
        prepare(suite, folder, done.after)
        flags = ("--seed", "1")
        ended = finish(script, folder, *flags)
        ended.assert_succeeded()
        assert "from scratch: seed changed" in ended.output, ended.output
        if back:
            finish(script, folder).assert_succeeded()
            assert_same(files_in(folder), done.after)
            return
        prepare(suite, fresh, done.before)
        finish(script, fresh, *flags).assert_succeeded()
        assert_same(files_in(folder), files_in(fresh))


@pytest.mark.faults("stale: episodes {change}")
@pytest.mark.parametrize("change", ["added", "removed"])
@pytest.mark.parametrize("script", TRAININGS)
def test_episodes_changed(suite: Suite, script: str, change: str) -> None:
    """One episode more or less: training continues from the last weights; the header says so."""
    done = reference(suite, script)
    kind = "rollouts" if script == "run_vae_training" else "latents"
    with scratch(suite) as folder:
        prepare(suite, folder, done.after)
        name = f"data/{kind}/{ONE_EPISODE}"
        if change == "added":
            fewer = reference(suite, script, "fewer_episodes").after
            prepare(suite, folder, fewer, "fewer_episodes")
            if script == "train_dream":  # its RNN was trained on all episodes
                prepare(suite, folder, {"run/rnn.eqx": done.after["run/rnn.eqx"]})
            prepare(suite, folder, {name: done.after[name]})
        else:
            (folder / name).unlink()
        final = folder / "run" / f"{TRAININGS[script]}.eqx"
        origin, inputs = sha256_of(final), read_header(final).inputs
        ended = finish(script, folder)
        ended.assert_succeeded()
        assert "continuing from the last weights" in ended.output, ended.output
        header = read_header(final)
        assert header.progress["continued_from"] == origin
        assert header.inputs["data"] != inputs["data"]
        assert "is finished" in finish(script, folder).output


@pytest.mark.faults("stale: other settings", script="collect_data")
def test_driving_settings_changed(suite: Suite) -> None:
    """Other driving settings take other tracks, and nothing is overwritten."""
    done = reference(suite, "collect_data")
    with scratch(suite) as folder:
        prepare(suite, folder, done.after)
        finish("collect_data", folder, "--max-steps", "20").assert_succeeded()
        found = files_in(folder)
        new = {name: found.pop(name) for name in set(found) - set(done.after)}
        assert_same(found, done.after)
        assert sorted(new) == [f"data/rollouts/recovery/2000000{n}.npz" for n in (3, 4, 5)]


@pytest.mark.faults("stale: episodes {change}", script="process_data")
@pytest.mark.parametrize("change", ["added", "removed", "replaced", "under another's name"])
def test_latents_follow_episodes(suite: Suite, change: str) -> None:
    """The latents become those of the episodes in the folder."""
    done = reference(suite, "process_data")
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
            use_other_seed(suite, folder, f"data/rollouts/{ONE_EPISODE}")
        else:
            latents.write_bytes(latents.with_name("20000000.npz").read_bytes())
        ended = finish("process_data", folder)
        ended.assert_succeeded()
        assert f", {expected} to encode" in ended.output, ended.output
        prepare(suite, fresh, done.before)
        if change == "removed":
            (fresh / "data" / "rollouts" / ONE_EPISODE).unlink()
        elif change == "replaced":
            use_other_seed(suite, fresh, f"data/rollouts/{ONE_EPISODE}")
        finish("process_data", fresh).assert_succeeded()
        assert_same(files_in(folder), files_in(fresh))
