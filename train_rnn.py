"""Step 4: learn to predict. Train the MDN-RNN on the latents of all collected episodes.

    python train_rnn.py
    python train_rnn.py --optimism-penalty 1    # rewards by plain squared error

Reads data/latents/, streaming, and the run's vae.eqx. Writes rnn.eqx, rnn.metrics.jsonl and rnn.png
to --run-dir. Run again, it goes on where it was stopped; with new episodes it goes on from the
last weights. About 25,000 steps of driving a second on 2 CPU cores.
"""

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PRNGKeyArray

from models.evaluation import HORIZONS, one_step, open_loop_forecasts
from models.rnn import HIDDEN, MDNRNN, LSTMState, RNNLoss, Window, rnn_loss
from utils import runtime
from utils.data.episodes import EpisodeFile, dataset_fingerprint, find_latents
from utils.data.sequences import (
    Batch,
    cut_window,
    lane_schedule,
    read_latent_episode,
    window_batches,
)
from utils.errors import UserError
from utils.io import checkpoints
from utils.io.checkpoints import Header
from utils.io.files import locked, sha256_of
from utils.io.records import Metrics, read_metrics, timed
from utils.io.resume import ResumePlan, plan_training, save_on_interrupt, stop_if_diverged
from utils.runtime import describe_device, progress
from utils.settings import CommonSettings, parse, recorded_settings, setting
from utils.viz.figures import plot_curves


@dataclass(frozen=True)
class Settings(CommonSettings):
    """The flags of this step."""

    steps: int = setting(5000, "gradient steps", minimum=1)
    continue_steps: int = setting(2000, "gradient steps when only episodes were added", minimum=1)
    lanes: int = setting(64, "episodes learned from side by side", minimum=1)
    window: int = setting(100, "steps of driving that gradients reach back through", minimum=1)
    learning_rate: float = setting(1e-3, "Adam's, at first; it falls to a tenth along a cosine")
    clip: float = setting(1.0, "largest norm of the gradient", minimum=0.0)
    optimism_penalty: float = setting(
        5.0, "how many times heavier a reward predicted too high weighs; 1: even", minimum=0.0
    )
    reward_weight: float = setting(
        1.0, "weight of the reward loss beside the likelihood", minimum=0.0
    )
    reward_smoothing: int = setting(
        8, "steps over which rewards are averaged before they are learned; 1: not", minimum=1
    )
    evaluate_every: int = setting(
        500, "steps between forecasts of held-out tracks", minimum=1, changes_result=False
    )
    save_seconds: float = setting(
        30.0, "seconds between saved training states", minimum=0.0, changes_result=False
    )
    fresh: bool = setting(
        False, "begin from scratch even where weights could be used", changes_result=False
    )


PRESETS: dict[str, dict[str, Any]] = {
    "quick": {"steps": 900, "continue_steps": 300, "lanes": 48, "evaluate_every": 300},
    "paper": {"steps": 60_000, "continue_steps": 10_000},
}
EVALUATED_EPISODES, STARTS = 16, 8  # held-out episodes, open-loop dreams from each


class TrainingState(eqx.Module):
    """What a stopped training needs to go on."""

    rnn: MDNRNN
    optimiser: optax.OptState
    memory: LSTMState  # (lanes, hidden): where the lanes are in their episodes


def make_optimiser(settings: Settings, steps: int) -> optax.GradientTransformation:
    """Adam, clipped, with a cosine from the learning rate to a tenth of it over `steps`."""
    rate = optax.cosine_decay_schedule(settings.learning_rate, steps, alpha=0.1)
    return optax.chain(optax.clip_by_global_norm(settings.clip), optax.adam(rate))


def make_step(
    settings: Settings, optimiser: optax.GradientTransformation
) -> Callable[..., tuple[TrainingState, RNNLoss]]:
    """The compiled gradient step."""

    @eqx.filter_jit
    def step(
        key: PRNGKeyArray, state: TrainingState, batch: Batch
    ) -> tuple[TrainingState, RNNLoss]:
        def loss(rnn: MDNRNN, memory: LSTMState) -> tuple[Array, tuple[RNNLoss, LSTMState]]:
            value, memory = rnn_loss(
                rnn, memory, batch.window, key, settings.optimism_penalty, settings.reward_weight
            )
            return value.total, (value, memory)

        memory = jax.tree.map(lambda s: jnp.where(batch.resets[:, None], 0.0, s), state.memory)
        gradients, (value, memory) = eqx.filter_grad(loss, has_aux=True)(state.rnn, memory)
        updates, optimiser_state = optimiser.update(gradients, state.optimiser)
        rnn = eqx.apply_updates(state.rnn, updates)
        return TrainingState(rnn, optimiser_state, memory), value

    return step


def held_out_episodes(
    entries: list[EpisodeFile], latent: int, smoothing: int
) -> tuple[Window, np.ndarray]:
    """Whole held-out episodes side by side, padded to one length, and rows to dream from.

    Returns leaves (episodes, time, ...) and int32 (episodes, starts).
    """
    chosen = entries[:: max(1, len(entries) // EVALUATED_EPISODES)][:EVALUATED_EPISODES]
    length = max(entry.steps for entry in chosen) + HORIZONS[-1]
    episodes = [cut_window(read_latent_episode(e, latent, smoothing), 0, length) for e in chosen]
    # Not from the first second: the camera's zoom-in is a world of its own.
    starts = [np.linspace(min(50, e.steps // 2), e.steps * 0.9, STARTS) for e in chosen]
    return jax.tree.map(lambda *x: np.stack(x), *episodes), np.array(starts, np.int32)


@eqx.filter_jit
def evaluate(rnn: MDNRNN, episodes: Window, starts: Array) -> dict[str, Array]:
    """Forecasts of held-out episodes at one step and open loop, with the same noise every time."""
    step_key, dream_key = jax.random.split(jax.random.key(0))
    return {
        **one_step(rnn, episodes, step_key),
        **open_loop_forecasts(rnn, episodes, starts, dream_key),
    }


def draw(settings: Settings) -> None:
    """Loss curves and forecasts from the metrics file."""
    panels = {
        "negative log-likelihood, nats a dimension": (
            "train_nll",
            "nll",
            "nll_10",
            "nll_50",
            "nll_200",
        ),
        "error of summed rewards, points": (
            "reward_error_10",
            "reward_error_50",
            "reward_error_200",
        ),
        "optimism of summed rewards, points": (
            "reward_bias_10",
            "reward_bias_50",
            "reward_bias_200",
        ),
        "lost within 200 steps": ("end_predicted_200", "end_real_200"),
    }
    plot_curves(
        settings.run_dir / "rnn.png", read_metrics(settings.run_dir / "rnn.metrics.jsonl"), panels
    )


def main(settings: Settings) -> None:
    """Train, or say that there is nothing to do."""
    print(describe_device())
    with locked(settings.run_dir), timed(settings.run_dir, "train_rnn"):
        train(settings)


def train(settings: Settings) -> None:
    """Train from scratch, from a stopped run's state or from the last weights."""
    final, saved = settings.run_dir / "rnn.eqx", settings.run_dir / "rnn.training.eqx"
    vae_header, _ = checkpoints.load_vae(settings.run_dir / "vae.eqx")
    latent, vae_sha256 = vae_header.sizes["latent"], sha256_of(settings.run_dir / "vae.eqx")
    entries = find_latents(settings.data_dir, latent, vae_sha256)
    training = [entry for entry in entries if not entry.held_out]
    held_out = [entry for entry in entries if entry.held_out]
    if not training:
        raise UserError("all episodes are held out: collect more with collect_data.py")
    inputs = {"data": dataset_fingerprint(entries), "vae": vae_sha256}
    values = recorded_settings(settings)
    plan = plan_training(final, saved, inputs, values, settings.fresh)
    print(f"M: {len(training)} episodes, {len(held_out)} held out; {plan.reason}")
    if plan.action == "finished":
        saved.unlink(missing_ok=True)  # left by a kill just after the end
        return

    steps = settings.continue_steps if plan.continued_from else settings.steps
    optimiser = make_optimiser(settings, steps)
    step = make_step(settings, optimiser)
    reached = plan.done, initial_training_state(plan, optimiser, settings, latent)
    episodes, starts = held_out_episodes(held_out or training, latent, settings.reward_smoothing)
    metrics = Metrics(settings.run_dir / "rnn.metrics.jsonl", plan.done)
    schedule = lane_schedule(
        [entry.steps for entry in training], settings.lanes, settings.window, settings.seed
    )
    batches = window_batches(
        lambda episode: read_latent_episode(training[episode], latent, settings.reward_smoothing),
        itertools.islice(schedule, plan.done - plan.first, None),
        settings.window,
    )
    key, last, saved_at = jax.random.key(settings.seed), plan.first + steps, time.monotonic()

    def header(kind: str, step: int) -> Header:
        return Header(kind, sizes_of(reached[1].rnn), values, inputs, plan.progress(step))

    def save_state() -> None:
        number, state = reached
        stop_if_diverged(state, number, saved)
        checkpoints.save(saved, header("rnn training", number), state)

    with progress(steps, "step", plan.done - plan.first) as bar, save_on_interrupt(save_state):
        for number in range(plan.done + 1, last + 1):
            state, loss = step(jax.random.fold_in(key, number), reached[1], next(batches))
            if number % settings.evaluate_every == 0 or number == last:
                record = {f"train_{name}": float(value) for name, value in loss._asdict().items()}
                forecasts = evaluate(state.rnn, episodes, starts)
                record |= {name: float(value) for name, value in forecasts.items()}
                metrics.append(step=number, **record)
                shown = {name: round(record[name], 2) for name in ("nll", "reward_bias_200")}
                bar.set_postfix(shown, refresh=False)
            reached = number, state
            bar.update()
            if number == last or time.monotonic() - saved_at > settings.save_seconds:
                save_state()
                saved_at = time.monotonic()
    draw(settings)
    checkpoints.save(final, header("rnn", last), reached[1].rnn)
    saved.unlink()
    report(read_metrics(metrics.path)[-1])


def initial_training_state(
    plan: ResumePlan, optimiser: optax.GradientTransformation, settings: Settings, latent: int
) -> TrainingState:
    """The state that the plan begins with: random, saved, or the last weights."""
    memory = LSTMState(*jnp.zeros((2, settings.lanes, HIDDEN)))

    def random(_: Header | None = None) -> TrainingState:
        rnn = MDNRNN(latent, key=jax.random.fold_in(jax.random.key(settings.seed), 0))
        return TrainingState(rnn, optimiser.init(rnn), memory)

    if plan.action == "resume":
        return checkpoints.load(settings.run_dir / "rnn.training.eqx", "rnn training", random)[1]
    if plan.action == "continue":
        _, rnn = checkpoints.load_rnn(settings.run_dir / "rnn.eqx")
        return TrainingState(rnn, optimiser.init(rnn), memory)
    return random()


def sizes_of(rnn: MDNRNN) -> dict[str, int]:
    """The constructor's arguments of an RNN."""
    return {"latent": rnn.latent, "hidden": rnn.hidden, "components": rnn.components}


def report(record: dict[str, float]) -> None:
    """The last forecasts of held-out tracks, as a table."""
    print("held-out tracks      nll  |reward error|  reward bias         lost: predicted  real")
    for name, k in (("next step", ""), *((f"{k} steps of dream", f"_{k}") for k in HORIZONS)):
        print(
            f"{name:18} {record['nll' + k]:6.3f} {record['reward_error' + k]:13.2f} "
            f"{record['reward_bias' + k]:11.2f} {record['end_predicted' + k]:20.4f} "
            f"{record['end_real' + k]:11.4f}"
        )


if __name__ == "__main__":
    runtime.run(main, parse(Settings, __doc__, PRESETS))
