"""Step 4: train M, the MDN-RNN, on the latents of all collected episodes.

    python train_rnn.py
    python train_rnn.py --optimism-penalty 1    # rewards by plain squared error

Reads data/latents/, in bounded memory, and the run's vae.eqx. Writes rnn.eqx, rnn.metrics.jsonl
and rnn.png to --run-dir; with --dream-rnn also the same of dream_rnn.eqx, a second M from other
random numbers, in whose dreams C can evolve while it reads the memory of the first. Rerun the same
command to resume; with new episodes it continues from the last weights. About 40,000 time steps/s
on 2 CPU cores: with --lanes 16 and --window 100, 25 gradient steps/s.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PRNGKeyArray

from models.evaluation import HORIZONS, one_step, open_loop_forecasts
from models.rnn import COMPONENTS, HIDDEN, MDNRNN, RNNLoss, RNNState, Window, rnn_loss
from utils import runtime
from utils.data.episodes import ZOOM_STEPS, EpisodeFile, dataset_fingerprint, find_latents
from utils.data.sequences import (
    Batch,
    cut_window,
    lane_schedule,
    read_latent_episode,
    window_batches,
)
from utils.errors import UserError
from utils.io.checkpoints import load_rnn, load_vae
from utils.io.files import locked, sha256_of
from utils.io.records import read_metrics, timed
from utils.io.training import Training, TrainingSettings, as_metrics
from utils.runtime import describe_device, format_number
from utils.settings import parse, setting


@dataclass(frozen=True)
class Settings(TrainingSettings):
    """The flags of this script."""

    hidden: int = setting(HIDDEN, "units of the recurrent layer", minimum=1, size=True)
    components: int = setting(
        COMPONENTS, "Gaussians per latent dimension's mixture", minimum=1, size=True
    )
    steps: int = setting(20_000, "gradient steps", minimum=1)
    continue_steps: int = setting(8000, "gradient steps after episodes were added", minimum=1)
    lanes: int = setting(
        16,
        "batch size: episodes trained on in parallel; small, so that there are many steps",
        minimum=1,
    )
    window: int = setting(100, "time steps of backpropagation through time", minimum=1)
    learning_rate: float = setting(1e-3, "initial learning rate; a cosine takes it to a tenth")
    clip: float = setting(1.0, "maximum norm of the gradient", minimum=0.0)
    optimism_penalty: float = setting(
        2.0, "factor on the loss of rewards predicted too high; 1: none", minimum=0.0
    )
    reward_weight: float = setting(
        1.0, "weight of the reward loss relative to the likelihood", minimum=0.0
    )
    reward_smoothing: int = setting(
        8, "time steps over which target rewards are averaged; 1: none", minimum=1
    )
    mirror: bool = setting(True, "train on the mirror image of each episode, too")
    dream_rnn: bool = setting(False, "train a second M, too, to dream in", changes_result=False)
    evaluate_every: int = setting(
        1000, "steps between evaluations on held-out episodes", minimum=1, changes_result=False
    )


PRESETS: dict[str, dict[str, Any]] = {
    # So few steps do not suffice for twice the episodes.
    "quick": {"steps": 2000, "continue_steps": 2000, "evaluate_every": 500, "mirror": False},
    "paper": {"steps": 60_000, "continue_steps": 10_000, "lanes": 64},
}
EVALUATED_EPISODES, STARTS = 16, 8  # held-out episodes, open-loop dreams from each of them


class TrainingState(eqx.Module):
    """What a training needs to resume."""

    rnn: MDNRNN
    optimiser: optax.OptState
    memory: RNNState  # leaves (lanes, ...): M's state after each lane's last window


# Cached: the rounds of one process compile a gradient step once.
@functools.cache
def make_optimiser(settings: Settings, steps: int) -> optax.GradientTransformation:
    """Adam, clipped; the learning rate falls to a tenth along a cosine over `steps`."""
    rate = optax.cosine_decay_schedule(settings.learning_rate, steps, alpha=0.1)
    return optax.chain(optax.clip_by_global_norm(settings.clip), optax.adam(rate))


@functools.cache
def make_step(
    settings: Settings, optimiser: optax.GradientTransformation
) -> Callable[..., tuple[TrainingState, RNNLoss]]:
    """Compile the gradient step."""

    @eqx.filter_jit
    def step(
        key: PRNGKeyArray, state: TrainingState, batch: Batch
    ) -> tuple[TrainingState, RNNLoss]:
        def loss(rnn: MDNRNN, memory: RNNState) -> tuple[Array, tuple[RNNLoss, RNNState]]:
            value, memory = rnn_loss(
                rnn, memory, batch.window, key, settings.optimism_penalty, settings.reward_weight
            )
            return value.total, (value, memory)

        memory = reset_lanes(state.memory, batch.resets)
        gradients, (value, memory) = eqx.filter_grad(loss, has_aux=True)(state.rnn, memory)
        updates, optimiser_state = optimiser.update(gradients, state.optimiser)
        rnn = eqx.apply_updates(state.rnn, updates)
        return TrainingState(rnn, optimiser_state, memory), value

    return step


def reset_lanes(memory: RNNState, resets: np.ndarray) -> RNNState:
    """M's initial state, zeros, in the lanes that begin an episode."""

    def reset(leaf: Array) -> Array:
        return jnp.where(resets.reshape(-1, *[1] * (leaf.ndim - 1)), 0.0, leaf)

    return jax.tree.map(reset, memory)


def held_out_episodes(
    entries: list[EpisodeFile], latent: int, smoothing: int
) -> tuple[Window, np.ndarray]:
    """Whole held-out episodes, padded to one length, and the rows that dreams start from.

    Returns leaves (episodes, time, ...) and int32 (episodes, starts).
    """
    chosen = entries[:: max(1, len(entries) // EVALUATED_EPISODES)][:EVALUATED_EPISODES]
    length = max(entry.steps for entry in chosen) + HORIZONS[-1]
    episodes = [cut_window(read_latent_episode(e, latent, smoothing), 0, length) for e in chosen]
    starts = [np.linspace(min(ZOOM_STEPS, e.steps // 2), e.steps * 0.9, STARTS) for e in chosen]
    return jax.tree.map(lambda *x: np.stack(x), *episodes), np.array(starts, np.int32)


@eqx.filter_jit
def evaluate(rnn: MDNRNN, episodes: Window, starts: Array) -> dict[str, Array]:
    """One-step and open-loop forecasts of episodes, with the same noise at every call."""
    step_key, dream_key = jax.random.split(jax.random.key(0))
    return {
        **one_step(rnn, episodes, step_key),
        **open_loop_forecasts(rnn, episodes, starts, dream_key),
    }


def draw(path: Path) -> None:
    """Plot the losses and forecasts in a metrics file of the run folder."""
    # Here, because a training starts faster without matplotlib.
    from utils.viz.figures import plot_curves

    panels = {
        "negative log-likelihood, nats per dimension": (
            "train_nll",
            "nll",
            "nll_10",
            "nll_50",
            "nll_200",
        ),
        "absolute error of summed rewards, points": (
            "reward_error_10",
            "reward_error_50",
            "reward_error_200",
        ),
        "predicted − real summed rewards, points": (
            "reward_bias_10",
            "reward_bias_50",
            "reward_bias_200",
        ),
        "share that fails within 200 steps": ("end_predicted_200", "end_real_200"),
    }
    plot_curves(
        path.with_name(path.name.replace(".metrics.jsonl", ".png")), read_metrics(path), panels
    )


def main(settings: Settings) -> None:
    """Train, unless the model is finished."""
    print(describe_device())
    with locked(settings.run_dir), timed(settings.run_dir, "train_rnn"):
        train(settings, "rnn")
        if settings.dream_rnn:
            other = int(np.random.SeedSequence([settings.seed, 1]).generate_state(1)[0])
            train(dataclasses.replace(settings, seed=other), "dream_rnn")


def train(settings: Settings, name: str) -> None:
    """Train from scratch, from an interrupted run's state or from the last weights."""
    vae_header, _ = load_vae(settings.run_dir / "vae.eqx")
    latent, vae_sha256 = vae_header.sizes["latent"], sha256_of(settings.run_dir / "vae.eqx")
    entries = find_latents(settings.data_dir, latent, vae_sha256, settings.mirror)
    seen = [entry for entry in entries if not entry.held_out]
    held_out = [entry for entry in entries if entry.held_out]
    if not seen:
        raise UserError("all episodes are held out: collect more with collect_data.py")
    sizes = {"latent": latent, "hidden": settings.hidden, "components": settings.components}
    inputs = {"data": dataset_fingerprint(entries), "vae": vae_sha256}
    training = Training("rnn", settings, sizes, inputs, name)
    which = {"rnn": "M", "dream_rnn": "the second M"}[name]
    print(f"{which}: {len(seen)} episodes, {len(held_out)} held out; {training.plan.reason}")
    if training.finished:
        return

    optimiser = make_optimiser(settings, training.steps)
    step = make_step(settings, optimiser)
    state = restore(training, optimiser, settings)
    smoothing = settings.reward_smoothing
    validation = held_out_episodes(held_out, latent, smoothing) if held_out else None
    batches = make_batches(seen, latent, settings, training.batches_done)
    key = jax.random.key(settings.seed)
    with training.running(state) as steps:
        for number in steps:
            state, loss = step(jax.random.fold_in(key, number), state, next(batches))
            if training.evaluates_at(number):
                record = as_metrics(loss._asdict(), "train_")
                record |= as_metrics(evaluate(state.rnn, *validation)) if validation else {}
                training.metrics.append(step=number, **record)
                shown = {k: format_number(record.get(k), ".2f") for k in ("nll", "reward_bias_200")}
                training.bar.set_postfix(shown, refresh=False)
            training.reached(number, state)
    draw(training.metrics.path)
    training.finish(state.rnn)
    report(read_metrics(training.metrics.path)[-1])


def restore(
    training: Training, optimiser: optax.GradientTransformation, settings: Settings
) -> TrainingState:
    """The training state to start from."""

    def build() -> MDNRNN:
        return MDNRNN(**training.sizes, key=jax.random.fold_in(jax.random.key(settings.seed), 0))

    def wrap(rnn: MDNRNN) -> TrainingState:
        optimiser_state = eqx.filter_jit(optimiser.init)(rnn)  # one program, not one per shape
        return TrainingState(rnn, optimiser_state, rnn.initial_state(settings.lanes))

    return training.restore(build, load_rnn, wrap)


def make_batches(
    entries: list[EpisodeFile], latent: int, settings: Settings, start: int
) -> Iterator[Batch]:
    """The training batches, from batch number `start` on."""
    count = len(entries)
    steps = [entry.steps for entry in entries] * (1 + settings.mirror)  # then the mirror images
    schedule = lane_schedule(steps, settings.lanes, settings.window, settings.seed)
    return window_batches(
        lambda n: read_latent_episode(
            entries[n % count], latent, settings.reward_smoothing, mirrored=n >= count
        ),
        itertools.islice(schedule, start, None),
        settings.window,
    )


def sizes_of(rnn: MDNRNN) -> dict[str, int]:
    """The constructor's arguments of an RNN."""
    return {"latent": rnn.latent, "hidden": rnn.hidden, "components": rnn.components}


def report(record: dict[str, float | None]) -> None:
    """Print the last forecasts of held-out episodes as a table; "n/a" where there were none."""
    print("held-out episodes    nll  |reward error|  reward bias       failed: predicted  real")
    for name, k in (("next step", ""), *((f"{k} steps of dream", f"_{k}") for k in HORIZONS)):
        columns = (
            ("nll", "6.3f"),
            ("reward_error", "13.2f"),
            ("reward_bias", "11.2f"),
            ("end_predicted", "20.4f"),
            ("end_real", "11.4f"),
        )
        print(
            f"{name:18}", *(format_number(record.get(metric + k), spec) for metric, spec in columns)
        )


if __name__ == "__main__":
    runtime.run(main, parse(Settings, __doc__, PRESETS))
