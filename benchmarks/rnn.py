"""M's gradient step, beside PyTorch's LSTM with the same heads and loss.

    python -m benchmarks.rnn --one-core
    pip install -r requirements/benchmarks.txt     # for the row of PyTorch

A step is forward, backward, clipping and Adam on a window of every lane. The floor counts the
multiplications of LSTM and heads, three times (forward, and two gradients). Batches keep up if
they are made faster than the step learns from them.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import equinox as eqx
import jax
import numpy as np

import train_rnn
from benchmarks import measuring
from benchmarks.measuring import Ceilings, Measurement, Work, has
from models.rnn import MDNRNN, Window
from utils.cpus import default_workers
from utils.data.episodes import LATENT_ARRAYS, Episode, scan_latents, step_arrays
from utils.data.sequences import Batch, lane_schedule, read_latent_episode, window_batches
from utils.io.npz import write_arrays

BATCHES = 20  # made in a turn


def products_of_a_step(rnn: MDNRNN) -> int:
    """Multiplications of one step of one lane."""
    return rnn.cell.weight_ih.size + rnn.cell.weight_hh.size + rnn.heads.weight.size


def random_batch(lanes: int, length: int, latent: int) -> Batch:
    """Noise in the shape of driving."""
    random = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return random.standard_normal((lanes, length, *shape)).astype(np.float32)

    mu, logvar = normal(latent), normal(latent) - 3
    window = Window(
        mu=mu,
        logvar=logvar,
        next_mu=mu + 0.1 * normal(latent),
        next_logvar=logvar,
        actions=np.clip(normal(3), 0, 1),
        rewards=normal(),
        failed=normal() > 3,
        mask=np.ones((lanes, length), bool),
    )
    return Batch(window, np.zeros(lanes, bool))


def ours(batch: Batch) -> Work:
    """The step of train_rnn.py."""
    settings = train_rnn.Settings()
    optimiser = train_rnn.make_optimiser(settings, settings.steps)
    step = train_rnn.make_step(settings, optimiser)
    rnn = MDNRNN(key=jax.random.key(0))
    memory = rnn.initial_state(len(batch.resets))
    state = train_rnn.TrainingState(rnn, optimiser.init(eqx.filter(rnn, eqx.is_array)), memory)

    def work() -> jax.Array:
        nonlocal state
        state, loss = step(jax.random.key(1), state, batch)
        return loss.total

    return work


def pytorch(batch: Batch) -> Work:
    """The same step in PyTorch, eager, as its users write it."""
    import torch

    from benchmarks.pytorch_models import MDNRNN as Reference

    torch.set_num_threads(default_workers())
    rnn = Reference()
    adam = torch.optim.Adam(rnn.parameters(), 1e-3)
    window = {
        name: torch.from_numpy(np.asarray(rows, np.float32))
        for name, rows in batch.window._asdict().items()
    }

    def work() -> float:
        adam.zero_grad()
        loss = rnn(window)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(rnn.parameters(), 1.0)
        adam.step()
        return loss.item()

    return work


def batches_from(folder: Path, lanes: int, window: int) -> Iterator[Batch]:
    """Batches of windows, from files of latents that are noise."""
    random, steps = np.random.default_rng(0), 1000
    for seed in range(2 * lanes):
        latents = random.standard_normal((4, steps + 1, 32)).astype(np.float32)
        ends, zeros = np.zeros(steps, bool), np.zeros(steps, np.float32)
        actions = np.clip(random.standard_normal((steps, 3)), 0, 1).astype(np.float32)
        episode = Episode(latents[0], actions, zeros, ends, ends, False, seed, {})
        arrays = {**dict(zip(LATENT_ARRAYS, latents, strict=True)), **step_arrays(episode)}
        write_arrays(folder / "latents" / "random" / f"{seed}.npz", arrays)
    entries = scan_latents(folder, 32)
    schedule = lane_schedule([entry.steps for entry in entries], lanes, window, seed=0)
    return window_batches(lambda n: read_latent_episode(entries[n], 32, 8), schedule, window)


def main() -> None:
    """Measure and print."""
    arguments = measuring.parse(__doc__, lanes=64, window=100)
    lanes, window = arguments.lanes, arguments.window
    rnn = MDNRNN(key=jax.random.key(0))
    batch = random_batch(lanes, window, rnn.latent)
    contestants = {"ours": ours(batch)}
    if has("torch"):
        contestants["PyTorch"] = pytorch(batch)
    seconds = measuring.take_turns({**measuring.ceilings(), **contestants}, arguments)
    steps = lanes * window
    operations = 3 * 2 * products_of_a_step(rnn) * steps
    rows = [Measurement(name, seconds[name], steps, "steps", operations) for name in contestants]
    with tempfile.TemporaryDirectory() as folder:
        batches = batches_from(Path(folder), lanes, window)
        rows.append(measuring.alone("  batches alone", batches, BATCHES, steps, "steps", arguments))
    measuring.report("M: a gradient step", rows, Ceilings.of(seconds), arguments, "PyTorch")
    with measuring.profile("our step"):
        measuring.wait(contestants["ours"]())


if __name__ == "__main__":
    main()
