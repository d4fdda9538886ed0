"""process_data.py: batches filled across episodes give each frame the bytes it has alone."""

from pathlib import Path

import jax
import numpy as np
import pytest
from hostile_files import small_episode

import process_data
import train_rnn
from models.vae import ConvVAE
from process_data import EpisodeEncoder, encode_batch, frames_at_once
from utils.data.episodes import (
    EPISODE_SCHEMA,
    FRAME_SHAPE,
    Episode,
    latent_schema,
    scan_files,
    write_episode,
)
from utils.data.mirror import mirror_frames
from utils.io.checkpoints import Header, save
from utils.io.npz import read_arrays
from utils.settings import PRESET_NAMES

LENGTHS = (32, 1, 32, 70, 2, 31, 300, 5)  # frames of each episode


@pytest.fixture(scope="module")
def vae() -> ConvVAE:
    return ConvVAE(key=jax.random.key(0))


@pytest.fixture(scope="module")
def episodes() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (n, *FRAME_SHAPE), np.uint8) for n in LENGTHS]


def encode_alone(vae: ConvVAE, frames: np.ndarray, batch: int) -> list[np.ndarray]:
    """mu and logvar of one episode, padded to whole batches."""
    count = -(-len(frames) // batch) * batch
    padded = np.concatenate([frames, np.zeros((count - len(frames), *FRAME_SHAPE), np.uint8)])
    parts = [encode_batch(vae, padded[n : n + batch]) for n in range(0, count, batch)]
    return [np.concatenate(rows)[: len(frames)] for rows in zip(*parts, strict=True)]


def encode_together(
    vae: ConvVAE, episodes: list[np.ndarray], batch: int, in_progress: int
) -> dict[int, list[np.ndarray]]:
    encoder, found = EpisodeEncoder(vae, batch), {}
    for number, frames in enumerate(episodes):
        encoder.add(number, frames)
        found |= {key: rows for key, *rows in encoder.encoded(in_progress)}
        assert len(encoder.batches) <= in_progress
        assert sum(map(len, encoder.frames)) < encoder.batch
    encoder.finish()
    found |= {key: rows for key, *rows in encoder.encoded()}
    assert list(found) == list(range(len(episodes)))
    return found


@pytest.mark.parametrize("in_progress", [0, 1])
@pytest.mark.parametrize("batch", [16, 48, 256])
def test_a_frame_has_the_bytes_that_it_has_alone(
    vae: ConvVAE, episodes: list[np.ndarray], batch: int, in_progress: int
) -> None:
    together = encode_together(vae, episodes, batch, in_progress)
    for number, frames in enumerate(episodes):
        for found, expected in zip(together[number], encode_alone(vae, frames, batch), strict=True):
            assert found.tobytes() == expected.tobytes(), number


def test_an_episode_has_the_same_bytes_after_other_episodes(
    vae: ConvVAE, episodes: list[np.ndarray]
) -> None:
    """As in a run that is resumed, where the first episodes are encoded already."""
    whole = encode_together(vae, episodes, 64, 1)
    resumed = encode_together(vae, episodes[3:], 64, 1)
    for number in range(len(episodes) - 3):
        for one, other in zip(whole[number + 3], resumed[number], strict=True):
            assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize("cores", [1, 2, 3, 5, 6, 16])
def test_a_batch_is_encoded_in_equal_parts(
    vae: ConvVAE, monkeypatch: pytest.MonkeyPatch, cores: int
) -> None:
    """A smaller last part would have other last bits."""
    monkeypatch.setattr(process_data, "default_workers", lambda: cores)
    for batch in (1, 10, 16, 100, 256, 1000):
        size = EpisodeEncoder(vae, batch).batch
        assert batch <= size < 2 * batch + 1 and size % frames_at_once(size) == 0


def test_no_episodes_are_no_latents(vae: ConvVAE) -> None:
    encoder = EpisodeEncoder(vae, 16)
    encoder.finish()
    assert list(encoder.encoded()) == []


def test_latents_are_written_beside_the_steps_of_their_own_episode(
    tmp_path: Path, vae: ConvVAE, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second of six episodes is damaged: it is named and the others are encoded."""
    for seed, steps in enumerate((3, 4, 40, 1, 7, 20)):
        write_episode(
            tmp_path / "rollouts" / "random" / f"{seed}.npz", small_episode(steps, seed=seed)
        )
    entries = scan_files(tmp_path / "rollouts", EPISODE_SCHEMA)
    bad = entries[1].path
    data = bytearray(bad.read_bytes())
    data[200] ^= 1  # in the frames
    bad.write_bytes(data)
    settings = process_data.Settings(data_dir=tmp_path, batch=16)
    process_data.encode_all(settings, vae, {"vae": "abc", "mirror": True}, entries)
    errors = capsys.readouterr().err
    assert errors.count(str(bad)) == 1 and "1 of 6 files not encoded" in errors
    found = sorted((tmp_path / "latents" / "random").iterdir())
    assert [path.stem for path in found] == ["0", "2", "3", "4", "5"]
    for path in found:
        arrays = read_arrays(path, latent_schema(32))
        episode: Episode = small_episode(len(arrays["rewards"]), seed=int(path.stem))
        np.testing.assert_array_equal(arrays["actions"], episode.actions)
        seen = {"": episode.frames, "mirror_": mirror_frames(episode.frames)}
        for prefix, frames in seen.items():
            for name, rows in zip(("mu", "logvar"), encode_alone(vae, frames, 16), strict=True):
                assert arrays[prefix + name].tobytes() == rows.tobytes()


@pytest.mark.parametrize("preset", PRESET_NAMES)
def test_each_preset_encodes_what_its_m_learns_from(preset: str) -> None:
    encoded, learned = (
        script.Settings(**script.PRESETS.get(preset, {})).mirror
        for script in (process_data, train_rnn)
    )
    assert encoded == learned


def test_mirror_images_are_encoded_when_asked_for(
    tmp_path: Path, vae: ConvVAE, capsys: pytest.CaptureFixture[str]
) -> None:
    """The other latents are the same bytes. Files that lack mirror images are encoded again."""
    data, run_dir = tmp_path / "data", tmp_path / "run"
    for seed in (1, 2):
        write_episode(data / "rollouts" / "random" / f"{seed}.npz", small_episode(30, seed=seed))
    save(run_dir / "vae.eqx", Header("vae", {"latent": 32}, {}, {}, {}), vae)

    def encode(mirror: bool) -> tuple[str, dict[str, np.ndarray]]:
        process_data.main(process_data.Settings(data_dir=data, run_dir=run_dir, mirror=mirror))
        arrays = read_arrays(data / "latents" / "random" / "1.npz", latent_schema(32))
        return capsys.readouterr().out.splitlines()[-1], arrays

    plain, mirrored = encode(False), encode(True)
    assert plain[0] == mirrored[0] == "2 episodes, 2 to encode"
    assert encode(False)[0] == encode(True)[0] == "2 episodes, 0 to encode"
    for name in ("mu", "logvar"):
        assert plain[1][name].tobytes() == mirrored[1][name].tobytes()
        assert len(plain[1][f"mirror_{name}"]) == 0 and len(mirrored[1][f"mirror_{name}"]) == 31
