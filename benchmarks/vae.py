"""V's gradient step, beside the same model in PyTorch.

    python -m benchmarks.vae --one-core
    pip install -r requirements/benchmarks.txt     # for the rows of PyTorch

A step is forward, backward, clipping and Adam on a batch of uint8 frames. The floor counts the
multiplications of the layers, three times (forward, and two gradients), at the rate of the
matrix product. Batches keep up if they are made faster than the step learns from them: of a few
driven episodes they are read, unpacked, checked and shuffled, by threads, as in the training.
"""

import tempfile
from pathlib import Path

import equinox as eqx
import jax
import numpy as np

import run_vae_training
from benchmarks import encoding, measuring
from benchmarks.measuring import Ceilings, Measurement, Work, has
from models.vae import ConvVAE
from utils.cpus import default_workers
from utils.data.frames import frame_batches

BATCHES = 50  # made in a turn


def products_of_a_frame(vae: ConvVAE) -> int:
    """Multiplications of one frame through encoder and decoder."""
    sizes = (1, 5, 13, 30)  # of the decoder's inputs
    decoder = [n * n * layer.weight.size for n, layer in zip(sizes, vae.decoder, strict=True)]
    return encoding.products_of_a_frame(vae) + vae.from_latent.weight.size + sum(decoder)


def ours(frames: np.ndarray) -> Work:
    """The step of run_vae_training.py."""
    settings = run_vae_training.Settings()
    optimiser = run_vae_training.make_optimiser(settings, settings.steps)
    step = run_vae_training.make_step(settings, optimiser)
    vae = ConvVAE(key=jax.random.key(0))
    state = run_vae_training.TrainingState(vae, optimiser.init(eqx.filter(vae, eqx.is_array)))

    def work() -> jax.Array:
        nonlocal state
        state, loss = step(jax.random.key(1), state, frames)
        return loss.total

    return work


def pytorch(frames: np.ndarray, threads: int, channels_last: bool) -> Work:
    """The same step in PyTorch, eager, as its users write it."""
    import torch

    from benchmarks.pytorch_models import VAE

    torch.set_num_threads(threads)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    vae = VAE().to(memory_format=layout)
    adam = torch.optim.Adam(vae.parameters(), 1e-3)
    bytes_ = torch.from_numpy(frames)

    def work() -> float:
        x = bytes_.permute(0, 3, 1, 2).contiguous(memory_format=layout).float() / 255
        adam.zero_grad()
        loss = vae(x)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 100.0)
        adam.step()
        return loss.item()

    return work


def main() -> None:
    """Measure and print."""
    arguments = measuring.parse(__doc__, batch=128)
    batch = arguments.batch
    frames = np.random.default_rng(0).integers(0, 256, (batch, 64, 64, 3), np.uint8)
    threads = default_workers()
    contestants = {"ours": ours(frames)}
    if has("torch"):
        contestants["PyTorch"] = pytorch(frames, threads, False)
        contestants["PyTorch, channels last"] = pytorch(frames, threads, True)
    seconds = measuring.take_turns({**measuring.ceilings(), **contestants}, arguments)
    operations = 3 * 2 * products_of_a_frame(ConvVAE(key=jax.random.key(0))) * batch
    rows = [Measurement(name, seconds[name], batch, "frames", operations) for name in contestants]
    with tempfile.TemporaryDirectory() as folder:  # until the end: batches are read ahead
        entries = encoding.collect(Path(folder), 3000)
        batches = frame_batches(entries, batch, seed=0, start=0)
        rows.append(
            measuring.alone("  batches alone", batches, BATCHES, batch, "frames", arguments)
        )
        measuring.report("V: a gradient step", rows, Ceilings.of(seconds), arguments, "PyTorch")
        with measuring.profile("our step"):
            measuring.wait(contestants["ours"]())


if __name__ == "__main__":
    main()
