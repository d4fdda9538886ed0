"""Step 3: encode every collected frame and its mirror image with V.

    python process_data.py

Reads data/rollouts/ and the run's vae.eqx. Writes mu and logvar of every frame to
data/latents/<mode>/<seed>.npz, about 0.5 kB per frame. Only new episodes, and those encoded by
another VAE, are encoded. About 2,000 frames/s on 2 CPU cores. Indexes both folders, so that later
scripts open only new files.
"""

import collections
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np

from models.vae import ConvVAE
from utils import runtime
from utils.cpus import default_workers
from utils.data.episodes import (
    EPISODE_SCHEMA,
    FRAME_SHAPE,
    EpisodeFile,
    latent_schema,
    read_episode,
    scan_files,
    scan_latents,
    step_arrays,
    update_index,
)
from utils.data.mirror import mirror_frames
from utils.data.prefetch import READER_THREADS, read_ahead
from utils.io.checkpoints import load_vae
from utils.io.files import locked, sha256_of
from utils.io.hub import fetch_run_folder
from utils.io.npz import CorruptFileLog, write_arrays
from utils.io.records import timed
from utils.runtime import describe_device, progress
from utils.settings import ReaderSettings, parse, setting


@dataclass(frozen=True)
class Settings(ReaderSettings):
    """The flags of this script."""

    batch: int = setting(256, "frames per batch; batches are filled across episodes", minimum=1)
    mirror: bool = setting(True, "encode mirror images; train_rnn.py --no-mirror needs none")


# The quick preset's M does not learn from mirror images.
PRESETS: dict[str, dict[str, Any]] = {"quick": {"mirror": False}}
CPU_FRAMES = 16  # per core: their activations fit into its caches


def frames_at_once(batch: int) -> int:
    """How many frames of a batch are encoded at once.

    A GPU encodes them all, a CPU as many as fit into its caches.
    """
    on_cpu = jax.default_backend() == "cpu"
    return min(batch, CPU_FRAMES * default_workers()) if on_cpu else batch


@eqx.filter_jit
def encode_batch(vae: ConvVAE, frames: np.ndarray) -> tuple[jax.Array, jax.Array]:
    """Frames uint8 (batch, 64, 64, 3) -> mu and logvar, float32 (batch, latent)."""
    return jax.lax.map(vae.encode, frames, batch_size=frames_at_once(len(frames)))


class EpisodeEncoder:
    """Encodes episodes in order. Batches are filled across them, and only the last is padded.

    All matrix products have the same shape, so a frame's latent does not depend on the frames
    beside it.
    """

    def __init__(self, vae: ConvVAE, batch: int):
        at_once = frames_at_once(batch)
        self.vae, self.batch = vae, -(-batch // at_once) * at_once
        self.frames: list[np.ndarray] = []  # less than a batch
        self.batches: collections.deque[tuple[jax.Array, jax.Array]] = collections.deque()
        empty = np.empty((0, len(vae.to_mu.bias)), np.float32)
        self.latents = [empty, empty]  # mu and logvar of the first frames in `waiting`
        self.waiting: collections.deque[tuple[Any, int]] = collections.deque()

    def add(self, key: Any, frames: np.ndarray) -> None:
        """Add the frames of an episode."""
        self.waiting.append((key, len(frames)))
        self.frames.append(frames)
        if sum(map(len, self.frames)) >= self.batch:
            frames = np.concatenate(self.frames)
            while len(frames) >= self.batch:
                # Asynchronous: the next batch is prepared meanwhile.
                self.batches.append(encode_batch(self.vae, frames[: self.batch]))
                frames = frames[self.batch :]
            self.frames = [frames]

    def finish(self) -> None:
        """Encode the frames that do not fill a batch."""
        if count := sum(map(len, self.frames)):
            self.frames.append(np.zeros((self.batch - count, *FRAME_SHAPE), np.uint8))
            self.batches.append(encode_batch(self.vae, np.concatenate(self.frames)))
            self.frames = []

    def encoded(self, in_progress: int = 0) -> Iterator[tuple[Any, np.ndarray, np.ndarray]]:
        """Key, mu and logvar, float32 (T+1, latent), of each episode that is encoded.

        The last `in_progress` batches are not waited for.
        """
        while len(self.batches) > in_progress:
            pairs = zip(self.latents, self.batches.popleft(), strict=True)
            self.latents = [np.concatenate(pair) for pair in pairs]
            while self.waiting and self.waiting[0][1] <= len(self.latents[0]):
                key, count = self.waiting.popleft()
                mu, logvar = (rows[:count] for rows in self.latents)
                self.latents = [rows[count:] for rows in self.latents]
                yield key, mu, logvar


def latent_path(settings: Settings, entry: EpisodeFile) -> Path:
    """The latent file of an episode: the same mode and name."""
    return settings.data_dir / "latents" / entry.mode / entry.path.name


def is_current(found: EpisodeFile | None, entry: EpisodeFile, origin: dict[str, Any]) -> bool:
    """Whether the latent file `found` was made from this episode with `origin`."""
    return found is not None and (
        found.provenance.get("vae") == origin["vae"]
        and found.provenance.get("episode") == entry.fingerprint
        # A file may have mirror images that are not asked for.
        and found.provenance.get("mirror", False) >= origin["mirror"]
    )


def main(settings: Settings) -> None:
    """Encode new and stale episodes; remove latents whose episode no longer exists."""
    print(describe_device())
    path = fetch_run_folder(settings.run_dir) / "vae.eqx"
    header, vae = load_vae(path)
    origin = {"vae": sha256_of(path), "mirror": settings.mirror}
    with locked(settings.data_dir), timed(settings.data_dir, "process_data"):
        update_index(settings.data_dir / "rollouts", EPISODE_SCHEMA)
        episodes = scan_files(settings.data_dir / "rollouts", EPISODE_SCHEMA)
        latent_files = settings.data_dir / "latents", latent_schema(header.sizes["latent"]), None
        update_index(*latent_files)
        # Any number of them may be damaged: those are encoded again.
        found = scan_latents(settings.data_dir, header.sizes["latent"], max_corrupt_share=1.0)
        latents = {entry.path: entry for entry in found}
        wanted = {latent_path(settings, entry): entry for entry in episodes}
        for path in (settings.data_dir / "latents").glob("*/[!.]*.npz"):
            if path not in wanted:
                path.unlink()
        stale = [e for path, e in wanted.items() if not is_current(latents.get(path), e, origin)]
        print(f"{len(episodes)} episodes, {len(stale)} to encode")
        encode_all(settings, vae, origin, stale)
        if stale:
            update_index(*latent_files)


def encode_all(
    settings: Settings, vae: ConvVAE, origin: dict[str, Any], entries: list[EpisodeFile]
) -> None:
    """Encode episodes; damaged ones are named and skipped.

    While the device encodes an episode, threads read the next ones and write the previous ones.
    """
    by_path = {entry.path: entry for entry in entries}
    reads = read_ahead(read_episode, by_path)
    encoder = EpisodeEncoder(vae, settings.batch)
    writes: collections.deque[Future[None]] = collections.deque()
    bar = progress(sum(entry.steps + 1 for entry in entries), "frame")
    with bar, ThreadPoolExecutor(READER_THREADS) as writers:

        def write_encoded(in_progress: int) -> None:
            for (target, arrays), mu, logvar in encoder.encoded(in_progress):
                frames = len(arrays["actions"]) + 1
                for name, rows in {"mu": mu, "logvar": logvar}.items():
                    arrays[name], arrays[f"mirror_{name}"] = np.split(rows, [frames])
                writes.append(writers.submit(write_arrays, target, arrays))
                if len(writes) > READER_THREADS:
                    writes.popleft().result()
                bar.update(frames)

        def encode_next(path: Path) -> None:
            target = latent_path(settings, by_path[path])
            # First, so that no stale latents remain if the episode is damaged.
            target.unlink(missing_ok=True)
            episode = next(reads).result()
            arrays = step_arrays(episode, {**origin, "episode": by_path[path].fingerprint})
            mirrored = [mirror_frames(episode.frames)] if settings.mirror else []
            encoder.add((target, arrays), np.concatenate([episode.frames, *mirrored]))
            write_encoded(in_progress=1)

        CorruptFileLog(len(entries), "not encoded").read_all(by_path, encode_next)
        encoder.finish()
        write_encoded(in_progress=0)
        while writes:
            writes.popleft().result()


if __name__ == "__main__":
    runtime.run(main, parse(Settings, __doc__, PRESETS))
