"""Encoding: from episode files to latent files, and what each part of it costs.

    python -m benchmarks.encoding --one-core
    python -m benchmarks.encoding --frames 20000

A few episodes are driven and encoded as process_data.py does it: read, unpacked, checked, encoded,
packed and written. The floor counts the encoder's multiplications, and the bytes of both files.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np

import process_data
from benchmarks import measuring
from benchmarks.measuring import Ceilings, Measurement, Work, has
from models.vae import ConvVAE
from tools.report.run_record import size_of
from utils.cpus import default_workers
from utils.data.episodes import (
    EPISODE_SCHEMA,
    LATENT_ARRAYS,
    EpisodeFile,
    read_episode,
    scan_files,
    step_arrays,
)
from utils.data.prefetch import read_ahead
from utils.io.npz import write_arrays
from utils.sim.rollouts import drive_all
from utils.sim.tasks import DriveTask

JOB = 10_000_000  # frames


def products_of_a_frame(vae: ConvVAE) -> int:
    """Multiplications of one frame through the encoder."""
    sizes = (31, 14, 6, 2)  # of the layers' outputs
    layers = [n * n * layer.weight.size for n, layer in zip(sizes, vae.encoder, strict=True)]
    return sum(layers) + vae.to_mu.weight.size + vae.to_logvar.weight.size


def collect(folder: Path, frames: int) -> list[EpisodeFile]:
    """Episodes with so many frames in all, driven by the script with its disturbances."""
    tracks = range(-(-frames // 1000))
    tasks = [
        DriveTask(track, "recovery", 999, output=folder / f"rollouts/recovery/{track}.npz")
        for track in tracks
    ]
    for _ in drive_all(tasks, default_workers()):
        pass
    return scan_files(folder / "rollouts", EPISODE_SCHEMA)


def parts(
    settings: process_data.Settings, vae: ConvVAE, entries: list[EpisodeFile]
) -> dict[str, Work]:
    """The whole of process_data.py, and each part of it alone."""
    episode = read_episode(entries[0].path)
    frames = np.resize(episode.frames, (settings.batch, *episode.frames.shape[1:]))
    noise = np.random.default_rng(0).standard_normal((4, entries[0].steps + 1, 32), np.float32)
    arrays = dict(zip(LATENT_ARRAYS, noise, strict=True))

    def whole() -> None:
        process_data.encode_all(settings, vae, {"vae": "", "mirror": True}, entries)

    def reading() -> None:
        for episode in read_ahead(read_episode, [entry.path for entry in entries]):
            episode.result()

    def writing() -> None:
        write_arrays(settings.data_dir / "written.npz", {**arrays, **step_arrays(episode)})

    encoder = process_data.encode_batch
    return {
        "all of it": whole,
        "  reading alone": reading,
        "  the encoder alone": lambda: encoder(vae, frames),
        "  writing alone": writing,
    }


def pytorch(batch: int) -> Work:
    """The encoder alone, in PyTorch."""
    import torch

    from benchmarks.pytorch_models import VAE

    torch.set_num_threads(default_workers())
    vae, frames = VAE(), torch.randint(0, 256, (batch, 64, 64, 3), dtype=torch.uint8)

    @torch.inference_mode()
    def work() -> torch.Tensor:
        hidden = vae.encoder(frames.permute(0, 3, 1, 2).float() / 255).flatten(1)
        return vae.to_mu(hidden), vae.to_logvar(hidden)

    return work


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Bars of stages are no part of a table."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
        yield


def main() -> None:
    """Measure and print."""
    arguments = measuring.parse(__doc__, frames=3000)
    vae = ConvVAE(key=jax.random.key(0))
    with tempfile.TemporaryDirectory() as folder:
        settings = process_data.Settings(data_dir=Path(folder))
        entries = collect(settings.data_dir, arguments.frames)
        contestants = parts(settings, vae, entries)
        if has("torch"):
            contestants["  PyTorch's encoder"] = pytorch(settings.batch)
        with silenced():
            seconds = measuring.take_turns({**measuring.ceilings(), **contestants}, arguments)
        total = sum(entry.steps + 1 for entry in entries)
        sizes = [size_of(settings.data_dir / name) / total for name in ("rollouts", "latents")]
    amounts = dict.fromkeys(contestants, settings.batch)
    amounts |= {"all of it": total, "  reading alone": total}
    amounts["  writing alone"] = entries[0].steps + 1
    encoded, operations = (
        ("all of it", "  the encoder alone", "  PyTorch's encoder"),
        (2 * products_of_a_frame(vae)),
    )
    rows = [
        Measurement(
            name,
            seconds[name],
            amounts[name],
            "frames",
            amounts[name] * operations if name in encoded else 0,
            amounts[name] * sum(sizes) if name == "all of it" else 0,
        )
        for name in contestants
    ]
    measuring.report("Encoding", rows, Ceilings.of(seconds), arguments, "  PyTorch's encoder")
    hours = JOB / total * seconds["all of it"] / 3600
    print(
        f"\n{JOB:,} frames: {hours:.2f} h; {JOB * sizes[0] / 1e9:.1f} GB of episodes "
        f"({sizes[0]:.0f} bytes a frame), {JOB * sizes[1] / 1e9:.1f} GB of latents ({sizes[1]:.0f})"
    )
    with measuring.profile("the encoder"):
        measuring.wait(contestants["  the encoder alone"]())


if __name__ == "__main__":
    main()
