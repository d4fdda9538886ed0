"""Step 2: train V, the convolutional VAE, on all collected frames.

    python run_vae_training.py
    python run_vae_training.py --preset quick --data-dir data/quick --run-dir runs/quick

Reads data/rollouts/, in bounded memory. Writes vae.eqx, vae.metrics.jsonl, vae.png (losses) and
vae_reconstructions.png to --run-dir. Rerun the same command to resume; with new episodes it
continues from the last weights. About 200 frames/s on 2 CPU cores: the quick preset takes 2 to 4
minutes, the default 12 to 20.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import numpy as np
import optax
from jaxtyping import Array, PRNGKeyArray, UInt8

from models.vae import LATENT, ConvVAE, LossWeights, VAELoss, vae_loss
from utils import runtime
from utils.data.episodes import EPISODE_SCHEMA, dataset_fingerprint, scan_files
from utils.data.frames import evenly_spaced_frames, frame_batches
from utils.errors import UserError
from utils.io.checkpoints import load_vae
from utils.io.files import locked
from utils.io.records import read_metrics, timed
from utils.io.training import Training, TrainingSettings, as_metrics
from utils.runtime import describe_device, format_number
from utils.settings import parse, setting


@dataclass(frozen=True)
class Settings(TrainingSettings):
    """The flags of this script."""

    latent: int = setting(LATENT, "latent dimensions", minimum=1, size=True)
    steps: int = setting(4000, "gradient steps", minimum=1)
    continue_steps: int = setting(1500, "gradient steps after episodes were added", minimum=1)
    batch: int = setting(64, "frames per gradient step", minimum=1)
    learning_rate: float = setting(1e-3, "initial learning rate; a cosine takes it to a tenth")
    kl_weight: float = setting(
        0.03, "weight of the KL; at 1, as in Ha's code, half of the latent is noise", minimum=0.0
    )
    free_bits: float = setting(
        0.5, "nats of KL per latent dimension that are not penalised", minimum=0.0
    )
    dashboard_weight: float = setting(
        9.0, "weight of the dashboard bars' squared error; they show the speed", minimum=0.0
    )
    evaluate_every: int = setting(
        100, "steps between evaluations on held-out episodes", minimum=1, changes_result=False
    )


PRESETS: dict[str, dict[str, Any]] = {
    "quick": {"steps": 3000, "continue_steps": 800, "batch": 16},
    "paper": {"steps": 100_000, "continue_steps": 20_000, "batch": 128},
}
HELD_OUT_FRAMES = 512  # of the validation loss, evenly spaced over the held-out episodes
SHOWN_FRAMES = 12  # in vae_reconstructions.png


class TrainingState(eqx.Module):
    """What a training needs to resume."""

    vae: ConvVAE
    optimiser: optax.OptState


def make_optimiser(settings: Settings, steps: int) -> optax.GradientTransformation:
    """Adam; the learning rate falls to a tenth along a cosine over `steps`."""
    rate = optax.cosine_decay_schedule(settings.learning_rate, steps, alpha=0.1)
    return optax.chain(optax.clip_by_global_norm(100.0), optax.adam(rate))


def make_step(
    settings: Settings, optimiser: optax.GradientTransformation
) -> Callable[..., tuple[TrainingState, VAELoss]]:
    """Compile the gradient step."""
    weights = loss_weights(settings)

    @eqx.filter_jit
    def step(
        key: PRNGKeyArray, state: TrainingState, frames: UInt8[Array, "batch 64 64 3"]
    ) -> tuple[TrainingState, VAELoss]:
        def loss(vae: ConvVAE) -> tuple[Array, VAELoss]:
            value = vae_loss(vae, frames, key, weights)
            return value.total, value

        gradients, value = eqx.filter_grad(loss, has_aux=True)(state.vae)
        updates, optimiser_state = optimiser.update(gradients, state.optimiser)
        return TrainingState(eqx.apply_updates(state.vae, updates), optimiser_state), value

    return step


def loss_weights(settings: Settings) -> LossWeights:
    """The settings of the loss."""
    return LossWeights(settings.kl_weight, settings.free_bits, settings.dashboard_weight)


def evaluate(vae: ConvVAE, frames: np.ndarray, settings: Settings) -> dict[str, float | None]:
    """Losses on held-out frames, with the same noise at every call; none without frames."""
    if not len(frames):
        return {}
    loss = eqx.filter_jit(vae_loss)(vae, frames, jax.random.key(0), loss_weights(settings))
    return as_metrics(loss._asdict(), "held_out_")


def draw(settings: Settings, vae: ConvVAE, frames: np.ndarray) -> None:
    """Plot the losses in the metrics file, and frames above their reconstructions."""
    # Here, because a training starts faster without matplotlib.
    from utils.viz.figures import plot_curves, save_image, tile_images, to_uint8

    panels = {
        "squared error per pixel value (0..1)": ("mse", "held_out_mse"),
        "weighted squared error per frame": ("reconstruction", "held_out_reconstruction"),
        "KL, nats per frame": ("kl", "held_out_kl"),
    }
    records = read_metrics(settings.run_dir / "vae.metrics.jsonl")
    plot_curves(settings.run_dir / "vae.png", records, panels)
    shown = frames[np.linspace(0, len(frames) - 1, SHOWN_FRAMES).astype(int)]
    decoded = to_uint8(eqx.filter_jit(lambda vae, x: vae.decode(vae.encode(x)[0]))(vae, shown))
    half = SHOWN_FRAMES // 2
    rows = [shown[:half], decoded[:half], shown[half:], decoded[half:]]
    save_image(tile_images(rows), settings.run_dir / "vae_reconstructions.png")


def main(settings: Settings) -> None:
    """Train, unless the model is finished."""
    print(describe_device())
    with locked(settings.run_dir), timed(settings.run_dir, "run_vae_training"):
        train(settings)


def train(settings: Settings) -> None:
    """Train from scratch, from an interrupted run's state or from the last weights."""
    entries = scan_files(settings.data_dir / "rollouts", EPISODE_SCHEMA)
    seen = [entry for entry in entries if not entry.held_out]
    held_out = [entry for entry in entries if entry.held_out]
    if not seen:
        raise UserError(f"no episodes in {settings.data_dir / 'rollouts'}: run collect_data.py")
    inputs = {"data": dataset_fingerprint(entries)}
    training = Training("vae", settings, {"latent": settings.latent}, inputs)
    print(f"V: {len(seen)} episodes, {len(held_out)} held out; {training.plan.reason}")
    if training.finished:
        return

    optimiser = make_optimiser(settings, training.steps)
    step = make_step(settings, optimiser)
    batches = frame_batches(seen, settings.batch, settings.seed, training.batches_done)
    state = restore(training, optimiser, settings)
    # Read when they are first needed: they are in up to HELD_OUT_FRAMES episodes.
    held_out_frames = functools.cache(lambda: evenly_spaced_frames(held_out, HELD_OUT_FRAMES))
    key = jax.random.key(settings.seed)
    with training.running(state) as steps:
        for number in steps:
            state, loss = step(jax.random.fold_in(key, number), state, next(batches))
            if training.evaluates_at(number):
                record = as_metrics(loss._asdict())
                record |= evaluate(state.vae, held_out_frames(), settings)
                training.metrics.append(step=number, **record)
                shown = {
                    "mse": format_number(record["mse"], ".4f"),
                    "kl": format_number(record["kl"], ".1f"),
                }
                training.bar.set_postfix(shown, refresh=False)
            training.reached(number, state)
    frames = held_out_frames()
    shown = frames if len(frames) else evenly_spaced_frames(seen, SHOWN_FRAMES)
    draw(settings, state.vae, shown)
    training.finish(state.vae)
    error = format_number(read_metrics(training.metrics.path)[-1].get("held_out_mse"), ".5f")
    print(f"{training.final}: squared error {error} on held-out episodes")


def restore(
    training: Training, optimiser: optax.GradientTransformation, settings: Settings
) -> TrainingState:
    """The training state to start from."""

    def build() -> ConvVAE:
        key = jax.random.fold_in(jax.random.key(settings.seed), 0)
        return ConvVAE(settings.latent, key=key)

    def wrap(vae: ConvVAE) -> TrainingState:
        # One program, not one for each shape.
        return TrainingState(vae, eqx.filter_jit(optimiser.init)(vae))

    return training.restore(build, load_vae, wrap)


if __name__ == "__main__":
    runtime.run(main, parse(Settings, __doc__, PRESETS))
