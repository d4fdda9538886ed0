"""End to end: all six scripts on the real environment, then again, and again with new data."""

import json
import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image
from scripts import COLLECTED, Workshop

import test_agent
from utils.data.episodes import EPISODE_SCHEMA, Episode, latent_schema, read_episode, scan_files
from utils.data.splits import TEST, TRAINING
from utils.io.checkpoints import load_controller, load_rnn, load_vae, read_header
from utils.io.files import sha256_of
from utils.io.npz import read_arrays
from utils.io.records import read_metrics, read_records
from utils.sim.tasks import DriveResult

MODELS = ("vae.eqx", "rnn.eqx", "controller.eqx")


def bytes_and_times(workshop: Workshop, pattern: str) -> dict[str, tuple[bytes, int]]:
    return {
        name: (data, (workshop.folder / name).stat().st_mtime_ns)
        for name, data in workshop.files(pattern).items()
        if not name.endswith("times.jsonl")  # it tells of every run, of idle ones too
    }


@pytest.fixture(scope="module")
def own(workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """A copy of what the six scripts made, for this module to go on with, test after test."""
    return workshop.copy(tmp_path_factory.mktemp("own"), "data", "run")


def test_all_files_of_the_design_are_there(workshop: Workshop) -> None:
    for mode, episodes in COLLECTED.items():
        tracks = list(TRAINING[mode][:episodes])
        for kind in ("rollouts", "latents"):
            names = sorted(path.name for path in (workshop.data / kind / mode).glob("*"))
            assert names == sorted(f"{track}.npz" for track in tracks)
    names = {str(path.relative_to(workshop.run_dir)) for path in workshop.run_dir.rglob("*")}
    track = TEST[0]
    assert names - {".lock"} == {
        *MODELS,
        *("vae.png", "vae_reconstructions.png", "vae.metrics.jsonl"),
        *("rnn.png", "rnn.metrics.jsonl"),
        *("dream_rnn.eqx", "dream_rnn.png", "dream_rnn.metrics.jsonl"),
        *("controller.png", "controller.metrics.jsonl", "snapshots"),
        # The mean of each search, and their average.
        *("snapshots/000006.eqx", "snapshots/000012.eqx", "snapshots/000013.eqx"),
        *("starts.eqx", "times.jsonl"),
        *("evaluation.json", "episodes", f"episodes/{track}.npz", f"track_{track}.mp4"),
        *(f"track_{track}_grid.png", f"track_{track}_plot.png"),
    }
    assert workshop.leftovers() == []


def test_episodes_keep_to_the_contract(workshop: Workshop) -> None:
    for entry in scan_files(workshop.data / "rollouts", EPISODE_SCHEMA):
        episode = read_episode(entry.path)
        assert isinstance(episode, Episode)
        assert len(episode.rewards) == 60
        assert not episode.terminated.any()
        assert episode.truncated.tolist() == [False] * 59 + [True]
        assert episode.seed == int(entry.path.stem)
        assert episode.provenance["mode"] == entry.mode
        assert episode.provenance["agent"] is None
        assert {"gymnasium", "numpy"} <= set(episode.provenance["versions"])
        assert episode.frames.std() > 10  # something is to be seen
        latents = read_arrays(
            workshop.data / "latents" / entry.mode / entry.path.name, latent_schema(32)
        )
        for name in ("actions", "rewards", "terminated", "truncated"):
            np.testing.assert_array_equal(latents[name], getattr(episode, name))
        provenance = json.loads(str(latents["provenance"]))
        assert provenance["vae"] == sha256_of(workshop.run_dir / "vae.eqx")


def test_checkpoints_name_what_they_were_made_from(workshop: Workshop) -> None:
    vae, rnn, controller = (workshop.run_dir / name for name in MODELS)
    assert load_vae(vae)[0].sizes == {"latent": 32}
    header, model = load_rnn(rnn)
    assert header.sizes == {"latent": 32, "hidden": 256, "components": 5} and model.hidden == 256
    assert header.inputs["vae"] == sha256_of(vae)
    dreaming = rnn.with_name("dream_rnn.eqx")
    other, second = load_rnn(dreaming)
    assert other.inputs == header.inputs and other.settings["seed"] != header.settings["seed"]
    assert not np.allclose(second.heads.weight, model.heads.weight)
    header, _ = load_controller(controller)
    assert header.sizes == {"features": 288}
    for part, path in {"vae": vae, "rnn": rnn, "dream_rnn": dreaming}.items():
        assert header.inputs[part] == sha256_of(path)
    made = vae, rnn, dreaming, controller
    assert {read_header(path).progress["continued_from"] for path in made} == {""}


def test_the_average_of_the_searches_is_among_the_means(workshop: Workshop) -> None:
    first, second, average = (
        load_controller(workshop.run_dir / f"snapshots/{number:06d}.eqx")[1]
        for number in (6, 12, 13)
    )
    assert (np.asarray(first.weight) != second.weight).any()
    np.testing.assert_allclose(average.weight, (first.weight + second.weight) / 2, rtol=1e-6)
    np.testing.assert_allclose(average.bias, (first.bias + second.bias) / 2, rtol=1e-6)


def test_metrics_are_numbers_at_the_steps_asked_for(workshop: Workshop) -> None:
    for name, steps in (
        *(("vae", [6, 12]), ("rnn", [12, 24]), ("dream_rnn", [12, 24])),
        ("controller", list(range(1, 14))),
    ):
        everything = read_metrics(workshop.run_dir / f"{name}.metrics.jsonl")
        records = [record for record in everything if "stage" not in record]
        assert [record["step"] for record in records] == steps
        values = [v for record in records for v in record.values() if isinstance(v, float)]
        assert len(values) > len(steps) and np.isfinite(values).all()
    driven = [record for record in everything if "stage" in record]
    # The means of both searches, and their average.
    assert {record["step"] for record in driven} == {6, 12, 13}
    assert all(record["scores"] == [record["real"]] for record in driven)  # on one track


def test_evaluation_json_holds_what_was_driven(workshop: Workshop) -> None:
    evaluation = json.loads((workshop.run_dir / "evaluation.json").read_text())
    tracks = list(TEST[:2])
    baseline = evaluation["baseline"]
    assert baseline["driver"] == "random"
    for summary in (evaluation, baseline):
        scores = summary["scores"]
        assert summary["tracks"] == tracks
        assert len(scores) == len(summary["steps"]) == len(summary["finished"]) == 2
        assert summary["mean"] == pytest.approx(sum(scores) / 2)
        assert summary["std"] == pytest.approx(abs(scores[0] - scores[1]) / 2)  # ddof 0
        low, high = summary["interval"]
        assert min(scores) <= low <= summary["mean"] <= high <= max(scores)
        assert all(0 < steps <= 1000 for steps in summary["steps"])
    assert evaluation["split"] == "test"
    assert evaluation["agent"] == {
        name.removesuffix(".eqx"): sha256_of(workshop.run_dir / name) for name in MODELS
    }
    assert {"gymnasium", "jax", "equinox", "numpy"} <= set(evaluation["versions"])
    (line,) = read_records(workshop.folder / "test_log.jsonl")
    assert line["agent"] == evaluation["agent"] and line["episodes"] == 2
    assert line["mean"] == pytest.approx(evaluation["mean"], abs=0.05)
    assert line["laps_finished"] == sum(evaluation["finished"])
    assert line["mean_steps"] == pytest.approx(sum(evaluation["steps"]) / 2, abs=0.05)
    filmed = read_episode(workshop.run_dir / "episodes" / f"{tracks[0]}.npz")
    assert filmed.score == pytest.approx(evaluation["scores"][0])
    assert len(filmed.rewards) == evaluation["steps"][0]


def test_film_and_figures_can_be_seen(workshop: Workshop) -> None:
    film = workshop.run_dir / f"track_{TEST[0]}.mp4"
    steps = json.loads((workshop.run_dir / "evaluation.json").read_text())["steps"][0]
    frames, seconds = imageio_ffmpeg.count_frames_and_secs(str(film))
    assert frames == steps and seconds == pytest.approx(steps / 50, abs=0.1)
    pictures = sorted(workshop.run_dir.glob("*.png"))
    assert len(pictures) == 7
    for path in pictures:
        with Image.open(path) as image:
            assert min(image.size) > 200 and np.asarray(image.convert("RGB")).std() > 5


def test_without_held_out_episodes_nothing_is_claimed_about_them(
    workshop: Workshop, tmp_path: Path
) -> None:
    tracks = [path for path in workshop.files("data/rollouts/**/*.npz") if path[-5] != "1"]
    mine = workshop.copy(tmp_path, *tracks)
    assert "squared error n/a on held-out episodes" in mine.succeed("run_vae_training.py")
    assert "held_out_mse" not in read_metrics(mine.run_dir / "vae.metrics.jsonl")[-1]
    mine.succeed("process_data.py")
    table = mine.succeed("train_rnn.py").splitlines()[-4:]
    assert [line.split()[-5:] for line in table] == [["n/a"] * 5] * 4
    assert "nll" not in read_metrics(mine.run_dir / "rnn.metrics.jsonl")[-1]


def test_horizons_and_intervals_that_were_not_measured_are_unknown(workshop: Workshop) -> None:
    # Episodes of 60 steps show nothing of dreams of 200.
    last = read_metrics(workshop.run_dir / "rnn.metrics.jsonl")[-1]
    assert last["nll_200"] is None and last["end_real_200"] is None and last["nll_10"] > 0
    result = DriveResult(1, -64.2, 1000, False, False)
    summary = test_agent.summarise([result])
    assert summary["interval"] == [None, None]
    described = test_agent.describe("the agent", summary)
    assert described.startswith("the agent: -64.2 on 1 track (95% interval of the mean n/a … n/a)")
    assert summary["std"] is None


def test_running_again_says_finished_and_changes_nothing(own: Workshop) -> None:
    before = bytes_and_times(own, "data/**/*.npz") | bytes_and_times(own, "run/**/[!.]*.*")
    for mode, episodes in COLLECTED.items():
        said = own.succeed("collect_data.py", "--mode", mode, "--episodes", str(episodes))
        assert f"{episodes} of {episodes} episodes exist" in said
    assert "5 episodes, 0 to encode" in own.succeed("process_data.py")
    for script in ("run_vae_training.py", "train_rnn.py", "train_dream.py"):
        assert "is finished" in own.succeed(script)
    assert bytes_and_times(own, "data/**/*.npz") | bytes_and_times(own, "run/**/[!.]*.*") == before


def test_same_identity_same_bytes_whatever_the_workers(workshop: Workshop, tmp_path: Path) -> None:
    alone = Workshop(tmp_path, workshop.environment)
    alone.succeed("collect_data.py", "--mode", "recovery", "--episodes", "3", "--workers", "1")
    files = alone.files("data/rollouts/recovery/*.npz")
    assert len(files) == 3
    assert files == workshop.files("data/rollouts/recovery/*.npz")


def test_more_episodes_drive_only_what_is_missing_and_other_settings_new_tracks(
    own: Workshop,
) -> None:
    before = bytes_and_times(own, "data/rollouts/**/*.npz")
    said = own.succeed("collect_data.py", "--mode", "random", "--episodes", "3")
    assert "2 of 3 episodes exist" in said
    after = bytes_and_times(own, "data/rollouts/**/*.npz")
    assert set(after) - set(before) == {"data/rollouts/random/2.npz"}
    assert {name: after[name] for name in before} == before
    before = after
    own.succeed("collect_data.py", "--mode", "random", "--episodes", "1", "--max-steps", "30")
    after = bytes_and_times(own, "data/rollouts/**/*.npz")
    assert set(after) - set(before) == {"data/rollouts/random/3.npz"}
    assert {name: after[name] for name in before} == before
    # The first identity is still three episodes, and its fourth is beside the newcomer.
    said = own.succeed("collect_data.py", "--mode", "random", "--episodes", "4")
    assert "3 of 4 episodes exist" in said
    assert (own.data / "rollouts" / "random" / "4.npz").exists()


def failure(done: subprocess.CompletedProcess[str]) -> str:
    """The one line that a script says as it exits 1."""
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.strip().splitlines()[-1]


def test_sim2real2sim(own: Workshop) -> None:
    """The agent's own drives, then M and C go on from where they were."""
    rnn, controller = (sha256_of(own.run_dir / name) for name in MODELS[1:])
    vae = sha256_of(own.run_dir / "vae.eqx")
    own.succeed("collect_data.py", "--mode", "on-policy", "--episodes", "2")
    driven = [read_episode(path) for path in (own.data / "rollouts" / "on-policy").glob("*.npz")]
    agent = {"vae": vae, "rnn": rnn, "controller": controller}
    assert [episode.provenance["agent"] for episode in driven] == [agent, agent]
    new = len(own.files("data/rollouts/**/*.npz")) - len(own.files("data/latents/**/*.npz"))
    assert new >= 2
    assert f" {new} to encode" in own.succeed("process_data.py")
    assert "continuing from the last weights" in own.succeed("train_rnn.py")
    assert read_header(own.run_dir / "rnn.eqx").progress["continued_from"] == rnn
    for name in ("rnn.eqx", "dream_rnn.eqx"):
        assert read_header(own.run_dir / name).progress["step"] == 24 + 24
    assert "continuing from the last weights" in own.succeed("train_dream.py")
    assert read_header(own.run_dir / "controller.eqx").progress["continued_from"] == controller
    # A new agent: the same command drives new tracks of its own.
    said = own.succeed("collect_data.py", "--mode", "on-policy", "--episodes", "1")
    assert "0 of 1 episodes exist" in said
    assert len(list((own.data / "rollouts" / "on-policy").glob("*.npz"))) == 3


def test_c_can_evolve_in_the_dream_of_its_own_m(workshop: Workshop, tmp_path: Path) -> None:
    mine = workshop.copy(tmp_path, "data/latents", "run/vae.eqx", "run/rnn.eqx")
    assert "dream_rnn.eqx is missing" in failure(mine.run("train_dream.py"))
    mine.succeed("train_dream.py", "--no-dream-rnn", "--no-real-validation")
    header, alone = load_controller(mine.run_dir / "controller.eqx")
    assert "dream_rnn" not in header.inputs
    _, observed = load_controller(workshop.run_dir / "snapshots/000006.eqx")
    assert not np.allclose(alone.weight, observed.weight)


def test_two_models_of_other_episodes_are_refused(workshop: Workshop, tmp_path: Path) -> None:
    mine = workshop.copy(
        tmp_path, *("data/latents", "run/vae.eqx", "run/rnn.eqx", "run/dream_rnn.eqx")
    )
    next((mine.data / "latents" / "recovery").glob("*.npz")).unlink()
    mine.succeed("train_rnn.py", "--no-dream-rnn")
    assert "dream_rnn.eqx has learned from other data" in failure(mine.run("train_dream.py"))


def test_stale_latents_are_refused_then_encoded_anew(own: Workshop) -> None:
    before = own.files("data/latents/**/*.npz")
    said = own.succeed("run_vae_training.py")
    assert "continuing from the last weights" in said
    assert "latent files were made with another VAE" in failure(own.run("train_rnn.py"))
    assert own.files("data/latents/**/*.npz") == before
    episodes = len(own.files("data/rollouts/**/*.npz"))
    assert f"{episodes} episodes, {episodes} to encode" in own.succeed("process_data.py")
    after = own.files("data/latents/**/*.npz")
    assert len(after) == episodes
    assert all(after[name] != before[name] for name in before)
    # M and C above a V that changed do not fit it any more.
    refusal = failure(own.run("test_agent.py", "--episodes", "1"))
    assert str(own.run_dir / "rnn.eqx") in refusal and "another vae" in refusal
