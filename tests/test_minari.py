"""Minari datasets: what comes back is what went out, to the last byte."""

import json
from pathlib import Path

import numpy as np
import pytest
from scripts import COLLECTED, Workshop

from utils.data.episodes import read_episode

minari = pytest.importorskip("minari", reason="pip install -r requirements/extras.txt")
h5py = pytest.importorskip("h5py", reason="pip install -r requirements/extras.txt")

NAME = "car-racing/test-v0"
ROLLOUTS = "data/rollouts/*/*.npz"


@pytest.fixture(scope="module")
def flags(workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    root = tmp_path_factory.mktemp("datasets")
    flags = ["--dataset", NAME, "--datasets-dir", str(root)]
    assert f"{sum(COLLECTED.values())} episodes" in workshop.succeed("tools.export_minari", *flags)
    assert [path.name for path in root.iterdir() if path.name != ".lock"] == ["car-racing"]
    return flags


def test_minari_itself_reads_what_was_driven(
    workshop: Workshop, flags: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", flags[-1])
    dataset = minari.load_dataset(NAME)
    assert dataset.total_episodes == sum(COLLECTED.values())
    assert dataset.total_steps == 60 * sum(COLLECTED.values())
    assert dataset.env_spec.id == "CarRacing-v3"
    paths = {path.stem: path for path in workshop.folder.glob(ROLLOUTS)}
    for episode in dataset.iterate_episodes():
        (metadata,) = dataset.storage.get_episode_metadata([episode.id])
        driven = read_episode(paths.pop(str(metadata["seed"])))
        for theirs, ours in (
            (episode.observations, driven.frames),
            (episode.actions, driven.actions),
            (episode.rewards, driven.rewards),
            (episode.terminations, driven.terminated),
            (episode.truncations, driven.truncated),
        ):
            assert theirs.dtype == ours.dtype
            np.testing.assert_array_equal(theirs, ours)
        assert json.loads(metadata["provenance"]) == driven.provenance
    assert paths == {}


def test_it_is_compressed(workshop: Workshop, flags: list[str]) -> None:
    size = sum(path.stat().st_size for path in Path(flags[-1]).rglob("*.hdf5"))
    frames = 61 * sum(COLLECTED.values())
    assert size < 0.3 * frames * 64 * 64 * 3


def test_rollouts_come_back_to_the_same_bytes(
    workshop: Workshop, flags: list[str], tmp_path: Path
) -> None:
    again = Workshop(tmp_path, workshop.environment)
    again.succeed("tools.export_minari", *flags, "--read")
    assert again.files(ROLLOUTS) == workshop.files(ROLLOUTS)
    again.succeed("tools.export_minari", *flags, "--read")  # twice is no harm
    assert again.files(ROLLOUTS) == workshop.files(ROLLOUTS)
    # What is there and differs is kept.
    first, other = sorted(tmp_path.glob(ROLLOUTS))[:2]
    first.write_bytes(other.read_bytes())
    done = again.run("tools.export_minari", *flags, "--read")
    assert done.returncode == 1 and f"{first} already exists and differs" in done.stderr
    assert first.read_bytes() == other.read_bytes()


def test_an_existing_dataset_is_kept(workshop: Workshop, flags: list[str]) -> None:
    done = workshop.run("tools.export_minari", *flags)
    assert done.returncode == 1 and "already exists: choose another --dataset" in done.stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--dataset", "no version"], "Malformed dataset ID"),
        (["--dataset", "../../out-v0"], "Malformed dataset ID"),
        (["--read"], "not found"),
    ],
)
def test_wrong_names_are_plain_failures(
    workshop: Workshop, tmp_path: Path, flags: list[str], message: str
) -> None:
    done = workshop.run("tools.export_minari", "--datasets-dir", str(tmp_path), *flags)
    assert done.returncode == 1 and message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_datasets_of_others_are_refused(workshop: Workshop, tmp_path: Path) -> None:
    def change(name: str, damage: object) -> str:
        folder = tmp_path / name
        flags = ["--dataset", NAME, "--datasets-dir", str(folder)]
        small.succeed("tools.export_minari", *flags)
        with h5py.File(folder / NAME / "data" / "main_data.hdf5", "a") as file:
            damage(file["episode_0"])
        again = Workshop(folder / "again", workshop.environment)
        done = again.run("tools.export_minari", *flags, "--read")
        assert done.returncode == 1 and f"episode 0 of {NAME}" in done.stderr
        assert again.files("data/**/*.npz") == {} and again.leftovers() == []
        return done.stderr

    def longer(group: object) -> None:
        group["rewards"].resize((61,))

    small = workshop.copy(tmp_path / "small", "data/rollouts/random")
    assert "mode" in change("a", lambda group: group.attrs.pop("mode"))
    path = "mode '../../out' is none of"
    assert path in change("b", lambda group: group.attrs.modify("mode", "../../out"))
    assert "shape" in change("c", longer)
