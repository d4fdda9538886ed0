"""Step 2: learn to see. Train the ConvVAE on all collected frames.

    python run_vae_training.py
    python run_vae_training.py --preset quick --data-dir data/quick --run-dir runs/quick

Reads data/rollouts/, streaming, in bounded memory. Writes vae.eqx, vae.metrics.jsonl, vae.png
(losses) and vae_reconstructions.png to --run-dir. Run again, it goes on where it was stopped; with
new episodes it goes on from the last weights. About 200 frames/s on 2 CPU cores: the quick preset
takes 2 to 4 minutes, the laptop's 12 to 20.
"""

import time
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
from utils.io import checkpoints
from utils.io.checkpoints import Header
from utils.io.files import locked
from utils.io.records import Metrics, read_metrics, timed
from utils.io.resume import ResumePlan, plan_training, save_on_interrupt, stop_if_diverged
from utils.runtime import describe_device, progress
from utils.settings import CommonSettings, parse, recorded_settings, setting
from utils.viz.figures import plot_curves, save_image, tile_images, to_uint8


@dataclass(frozen=True)
class Settings(CommonSettings):
    """The flags of this step."""

    steps: int = setting(4000, "gradient steps", minimum=1)
    continue_steps: int = setting(1500, "gradient steps when only episodes were added", minimum=1)
    batch: int = setting(64, "frames in a step", minimum=1)
    learning_rate: float = setting(1e-3, "Adam's, at first; it falls to a tenth along a cosine")
    kl_weight: float = setting(
        0.03, "weight of the KL; 1 as in Ha's code leaves half of the latent to noise", minimum=0.0
    )
    free_bits: float = setting(0.5, "nats of KL a latent dimension that cost nothing", minimum=0.0)
    dashboard_weight: float = setting(
        9.0, "weight of the dashboard's bars in the squared error: they show speed", minimum=0.0
    )
    evaluate_every: int = setting(
        100, "steps between losses on held-out tracks", minimum=1, changes_result=False
    )
    save_seconds: float = setting(
        30.0, "seconds between saved training states", minimum=0.0, changes_result=False
    )
    fresh: bool = setting(
        False, "begin from scratch even where weights could be used", changes_result=False
    )


PRESETS: dict[str, dict[str, Any]] = {
    "quick": {"steps": 1200, "continue_steps": 400, "batch": 32},
    "paper": {"steps": 100_000, "continue_steps": 20_000, "batch": 128},
}
HELD_OUT_FRAMES = 512  # for the validation loss, spread over the held-out episodes
SHOWN_FRAMES = 12


class TrainingState(eqx.Module):
    """What a stopped training needs to go on."""

    vae: ConvVAE
    optimiser: optax.OptState


def make_optimiser(settings: Settings, steps: int) -> optax.GradientTransformation:
    """Adam with a cosine from the learning rate to a tenth of it over `steps`."""
    rate = optax.cosine_decay_schedule(settings.learning_rate, steps, alpha=0.1)
    return optax.chain(optax.clip_by_global_norm(100.0), optax.adam(rate))


def make_step(
    settings: Settings, optimiser: optax.GradientTransformation
) -> Callable[..., tuple[TrainingState, VAELoss]]:
    """The compiled gradient step."""
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
    """The part of the settings that the loss knows."""
    return LossWeights(settings.kl_weight, settings.free_bits, settings.dashboard_weight)


def evaluate(vae: ConvVAE, frames: np.ndarray, settings: Settings) -> dict[str, float]:
    """Losses on held-out frames, with the same noise every time."""
    loss = eqx.filter_jit(vae_loss)(vae, frames, jax.random.key(0), loss_weights(settings))
    return {f"held_out_{name}": float(value) for name, value in loss._asdict().items()}


def draw(settings: Settings, vae: ConvVAE, frames: np.ndarray) -> None:
    """Loss curves from the metrics file, and frames above their reconstructions."""
    panels = {
        "squared error of a pixel (0..1)": ("mse", "held_out_mse"),
        "reconstruction, weighted, a frame": ("reconstruction", "held_out_reconstruction"),
        "KL, nats a frame": ("kl", "held_out_kl"),
    }
    records = read_metrics(settings.run_dir / "vae.metrics.jsonl")
    plot_curves(settings.run_dir / "vae.png", records, panels)
    shown = frames[np.linspace(0, len(frames) - 1, SHOWN_FRAMES).astype(int)]
    mu, _ = jax.vmap(vae.encode)(shown)
    again = to_uint8(jax.vmap(vae.decode)(mu))
    half = SHOWN_FRAMES // 2
    rows = [shown[:half], again[:half], shown[half:], again[half:]]
    save_image(tile_images(rows), settings.run_dir / "vae_reconstructions.png")


def main(settings: Settings) -> None:
    """Train, or say that there is nothing to do."""
    print(describe_device())
    with locked(settings.run_dir), timed(settings.run_dir, "run_vae_training"):
        train(settings)


def train(settings: Settings) -> None:
    """Train from scratch, from a stopped run's state or from the last weights."""
    final, saved = settings.run_dir / "vae.eqx", settings.run_dir / "vae.training.eqx"
    entries = scan_files(settings.data_dir / "rollouts", EPISODE_SCHEMA)
    training = [entry for entry in entries if not entry.held_out]
    held_out = [entry for entry in entries if entry.held_out]
    if not training:
        raise UserError(f"no episodes in {settings.data_dir / 'rollouts'}: run collect_data.py")
    inputs = {"data": dataset_fingerprint(entries)}
    values = recorded_settings(settings)
    plan = plan_training(final, saved, inputs, values, settings.fresh)
    print(f"V: {len(training)} episodes, {len(held_out)} held out; {plan.reason}")
    if plan.action == "finished":
        saved.unlink(missing_ok=True)  # left by a kill just after the end
        return

    steps = settings.continue_steps if plan.continued_from else settings.steps
    optimiser = make_optimiser(settings, steps)
    step = make_step(settings, optimiser)
    reached = plan.done, initial_training_state(plan, optimiser, settings)
    frames = evenly_spaced_frames(held_out, HELD_OUT_FRAMES)
    if not len(frames):
        frames = evenly_spaced_frames(training, HELD_OUT_FRAMES)
    metrics = Metrics(settings.run_dir / "vae.metrics.jsonl", plan.done)
    batches = frame_batches(training, settings.batch, settings.seed, plan.done - plan.first)
    key, last, saved_at = jax.random.key(settings.seed), plan.first + steps, time.monotonic()

    def header(kind: str, step: int) -> Header:
        return Header(kind, {"latent": LATENT}, values, inputs, plan.progress(step))

    def save_state() -> None:
        number, state = reached
        stop_if_diverged(state, number, saved)
        checkpoints.save(saved, header("vae training", number), state)

    with progress(steps, "step", plan.done - plan.first) as bar, save_on_interrupt(save_state):
        for number in range(plan.done + 1, last + 1):
            state, loss = step(jax.random.fold_in(key, number), reached[1], next(batches))
            if number % settings.evaluate_every == 0 or number == last:
                record = {name: float(value) for name, value in loss._asdict().items()}
                metrics.append(step=number, **record, **evaluate(state.vae, frames, settings))
                bar.set_postfix(mse=f"{record['mse']:.4f}", kl=f"{record['kl']:.1f}", refresh=False)
            reached = number, state
            bar.update()
            if number == last or time.monotonic() - saved_at > settings.save_seconds:
                save_state()
                saved_at = time.monotonic()
    vae = reached[1].vae
    draw(settings, vae, frames)
    checkpoints.save(final, header("vae", last), vae)
    saved.unlink()
    print(f"{final}: squared error {read_metrics(metrics.path)[-1]['held_out_mse']:.5f} held out")


def initial_training_state(
    plan: ResumePlan, optimiser: optax.GradientTransformation, settings: Settings
) -> TrainingState:
    """The state that the plan begins with: random, saved, or the last weights."""

    def random(_: Header | None = None) -> TrainingState:
        vae = ConvVAE(key=jax.random.fold_in(jax.random.key(settings.seed), 0))
        return TrainingState(vae, optimiser.init(vae))

    if plan.action == "resume":
        return checkpoints.load(settings.run_dir / "vae.training.eqx", "vae training", random)[1]
    if plan.action == "continue":
        _, vae = checkpoints.load_vae(settings.run_dir / "vae.eqx")
        return TrainingState(vae, optimiser.init(vae))
    return random()


if __name__ == "__main__":
    runtime.run(main, parse(Settings, __doc__, PRESETS))
