"""Step 3: encode every collected frame with V.

    python process_data.py

Reads data/rollouts/ and the run's vae.eqx. Writes mu and logvar of every frame to
data/latents/<mode>/<seed>.npz, about 0.25 kB per frame. Only new episodes, and those encoded by
another VAE, are encoded. About 1,000 frames/s on 2 CPU cores.
"""

import collections
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np

from models.vae import ConvVAE
from utils import runtime
from utils.data.episodes import (
    EPISODE_SCHEMA,
    EpisodeFile,
    read_episode,
    scan_files,
    scan_latents,
    step_arrays,
)
from utils.data.prefetch import READER_THREADS, read_ahead
from utils.io.checkpoints import load_vae
from utils.io.files import locked, sha256_of
from utils.io.hub import fetch_run_folder
from utils.io.npz import CorruptFileLog, write_arrays
from utils.io.records import timed
from utils.runtime import default_workers, describe_device, progress
from utils.settings import ReaderSettings, parse, setting


@dataclass(frozen=True)
class Settings(ReaderSettings):
    """The flags of this script."""

    batch: int = setting(
        256, "frames per batch; the padded last batch of an episode has as many", minimum=1
    )


PRESETS: dict[str, dict[str, Any]] = {}
CPU_FRAMES = 16  # per core: their activations fit into its caches


@eqx.filter_jit
def encode_batch(vae: ConvVAE, frames: np.ndarray) -> tuple[jax.Array, jax.Array]:
    """Frames uint8 (batch, 64, 64, 3) -> mu and logvar, float32 (batch, latent).

    A GPU encodes them all at once, a CPU as many at a time as fit into its caches.
    """
    on_cpu = jax.default_backend() == "cpu"
    together = min(len(frames), CPU_FRAMES * default_workers() if on_cpu else len(frames))
    return jax.lax.map(vae.encode, frames, batch_size=together)


def encode(vae: ConvVAE, frames: np.ndarray, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """mu and logvar of any number of frames, float32 (n, latent).

    The last batch is padded. All matrix products then have the same shape, so a frame's latent
    does not depend on the number of other frames.
    """
    parts = []
    for start in range(0, len(frames), batch):
        part = frames[start : start + batch]
        if len(part) < batch:
            part = np.pad(part, ((0, batch - len(part)), (0, 0), (0, 0), (0, 0)))
        parts.append(encode_batch(vae, part))  # asynchronous: the next batch is prepared meanwhile
    mu, logvar = (np.concatenate(arrays)[: len(frames)] for arrays in zip(*parts, strict=True))
    return mu, logvar


def latent_path(settings: Settings, entry: EpisodeFile) -> Path:
    """The latent file of an episode: the same mode and name."""
    return settings.data_dir / "latents" / entry.mode / entry.path.name


def is_current(
    path: Path, entry: EpisodeFile, vae_sha256: str, latents: dict[Path, EpisodeFile]
) -> bool:
    """Whether the latents at `path` were made from this episode by this VAE."""
    found = latents.get(path)
    return found is not None and (
        found.provenance.get("vae") == vae_sha256
        and found.provenance.get("episode") == entry.fingerprint
    )


def main(settings: Settings) -> None:
    """Encode new and stale episodes; remove latents whose episode no longer exists."""
    print(describe_device())
    path = fetch_run_folder(settings.run_dir) / "vae.eqx"
    (header, vae), vae_sha256 = load_vae(path), sha256_of(path)
    with locked(settings.data_dir), timed(settings.data_dir, "process_data"):
        episodes = scan_files(settings.data_dir / "rollouts", EPISODE_SCHEMA)
        # Any number of them may be damaged: those are encoded again.
        found = scan_latents(settings.data_dir, header.sizes["latent"], max_corrupt_share=1.0)
        latents = {entry.path: entry for entry in found}
        wanted = {latent_path(settings, entry): entry for entry in episodes}
        for path in (settings.data_dir / "latents").glob("*/[!.]*.npz"):
            if path not in wanted:
                path.unlink()
        stale = [e for path, e in wanted.items() if not is_current(path, e, vae_sha256, latents)]
        print(f"{len(episodes)} episodes, {len(stale)} to encode")
        encode_all(settings, vae, vae_sha256, stale)


def encode_all(
    settings: Settings, vae: ConvVAE, vae_sha256: str, entries: list[EpisodeFile]
) -> None:
    """Encode episodes; damaged ones are named and skipped.

    While the device encodes an episode, threads read the next ones and write the previous ones.
    """
    by_path = {entry.path: entry for entry in entries}
    reads = read_ahead(read_episode, by_path)
    writes: collections.deque[Future[None]] = collections.deque()
    bar = progress(sum(entry.steps + 1 for entry in entries), "frame")
    with bar, ThreadPoolExecutor(READER_THREADS) as writers:

        def encode_next(path: Path) -> None:
            target = latent_path(settings, by_path[path])
            # First, so that no stale latents remain if the episode is damaged.
            target.unlink(missing_ok=True)
            episode = next(reads).result()
            origin = {"vae": vae_sha256, "episode": by_path[path].fingerprint}
            mu, logvar = encode(vae, episode.frames, settings.batch)
            arrays = {"mu": mu, "logvar": logvar, **step_arrays(episode, origin)}
            writes.append(writers.submit(write_arrays, target, arrays))
            if len(writes) > READER_THREADS:
                writes.popleft().result()
            bar.update(len(mu))

        CorruptFileLog(len(entries), "not encoded").read_all(by_path, encode_next)
        while writes:
            writes.popleft().result()


if __name__ == "__main__":
    runtime.run(main, parse(Settings, __doc__, PRESETS))
