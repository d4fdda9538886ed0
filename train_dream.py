"""Step 5: evolve a controller inside the dream.

    python train_dream.py
    python train_dream.py --temperature 1.1 --generations 800
    python train_dream.py --no-real-validation    # never look at the real track

Reads data/latents/ (dreams begin at moments of real episodes), vae.eqx and rnn.eqx. CMA-ES evolves
all parameters of the controller from zero. Every --validate-every generations the distribution's
mean is saved and driven on real validation tracks; the best of these becomes controller.eqx. Also
writes starts.eqx (the moments that dreams begin at, for envs/dream.py), snapshots/,
controller.metrics.jsonl and controller.png. About 2 seconds a generation of 64 candidates × 16
dreams × 200 steps on 2 CPU cores. Run again, it goes on where it was stopped.
"""

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from evosax.algorithms import CMA_ES
from jaxtyping import Array, Float, Int, PRNGKeyArray

from models.controller import Controller, Whitening
from models.dream import dream_returns, replicated_sharding
from models.rnn import MDNRNN, mixture_noise
from utils import runtime
from utils.data.episodes import dataset_fingerprint, find_latents
from utils.data.splits import VALIDATION
from utils.data.start_states import StartStates, build_start_states, save_start_states
from utils.errors import UserError
from utils.io import checkpoints
from utils.io.checkpoints import Header
from utils.io.files import locked, sha256_of
from utils.io.records import Metrics, read_metrics, timed
from utils.io.resume import ResumePlan, plan_training, save_on_interrupt, stop_if_diverged
from utils.io.run_folder import AgentFiles, check_compatible
from utils.runtime import default_workers, describe_device, progress
from utils.settings import CommonSettings, parse, recorded_settings, setting
from utils.sim.env import ENVIRONMENTS, MAX_STEPS
from utils.sim.rollouts import drive_all
from utils.sim.tasks import DriveTask
from utils.viz.figures import plot_curves


@dataclass(frozen=True)
class Settings(CommonSettings):
    """The flags of this step."""

    generations: int = setting(
        100, "generations of CMA-ES; later ones exploit what M has wrong", minimum=1
    )
    continue_generations: int = setting(
        60, "generations when M only learned from more episodes", minimum=1
    )
    candidates: int = setting(64, "controllers in a generation", minimum=4)
    dreams: int = setting(16, "dreams that each candidate is judged by", minimum=1)
    horizon: int = setting(200, "steps of a dream; M is less and less to be trusted", minimum=1)
    temperature: float = setting(
        1.0, "of the dream: above 1 it is harder to exploit, below 1 easier", minimum=0.01
    )
    reward_limit: float = setting(
        1.0, "points that a dreamed step may earn: about the pace of a lap in 900 steps"
    )
    masked_units: int = setting(
        0,
        "units of h, the last ones, that C does not see; all 256: it sees z alone",
        minimum=0,
        old_name="unseen_units",
    )
    sigma: float = setting(0.02, "first mutation strength, on whitened [z, h]", minimum=0.0)
    reset_share: float = setting(0.15, "share of dreams that begin at a start line", minimum=0.0)
    on_policy_share: float = setting(
        0.5, "share of the other dreams that begin in the agent's own drives", minimum=0.0
    )
    validate_every: int = setting(10, "generations between saved means", minimum=1)
    validation_tracks: int = setting(16, "real tracks that each saved mean drives", minimum=1)
    real_validation: bool = setting(True, "choose among saved means by real validation tracks")
    workers: int = setting(
        default_workers(), "processes for real drives", minimum=1, changes_result=False
    )
    env: str = setting(
        "fast", "drawing of the tracks: fast, or Gymnasium's own", choices=tuple(ENVIRONMENTS)
    )
    save_every: int = setting(
        10, "generations between saved states", minimum=1, changes_result=False
    )
    fresh: bool = setting(
        False, "begin from zero even where the last controller could be used", changes_result=False
    )


PRESETS: dict[str, dict[str, Any]] = {
    "quick": {
        "generations": 50,
        "continue_generations": 30,
        "validation_tracks": 6,
    },
    "paper": {"generations": 1500, "continue_generations": 300, "candidates": 128},
}
# In one call to the device: as many generations as take about a second, at most so many.
SECONDS_PER_CALL, MAX_GENERATIONS_PER_CALL = 1.0, 100
SCORE_DREAMS = 64  # on which every saved mean is judged, always the same


class DreamEvaluator(eqx.Module):
    """What one generation needs besides the search's state; fixed for a whole run."""

    rnn: MDNRNN
    start_states: StartStates
    whitening: Whitening
    settings: Settings = eqx.field(static=True)

    def returns(self, controllers: Controller, key: PRNGKeyArray, dreams: int) -> Array:
        """Dream returns (candidates, dreams) of controllers on whitened features."""
        start_key, noise_key = jax.random.split(key)
        settings = self.settings
        starts = self.start_states.sample(
            start_key, dreams, settings.reset_share, settings.on_policy_share
        )
        noise = mixture_noise(noise_key, (dreams, settings.horizon, self.rnn.latent))
        folded = jax.vmap(self.whitening.to_raw)(controllers)
        return dream_returns(
            self.rnn, folded, starts, noise, settings.temperature, settings.reward_limit
        )


@eqx.filter_jit
def run_generations(
    search: CMA_ES,
    params: Any,
    state: Any,
    evaluator: DreamEvaluator,
    key: PRNGKeyArray,
    first: Int[Array, ""],
    count: Int[Array, ""],
) -> tuple[Any, Float[Array, "generations candidates"], Float[Array, " generations"]]:
    """Generations `first` … `first` + `count` − 1, each ask, dream, tell, in one call.

    Returns the new state, and of each generation every candidate's return and the mutation
    strength; rows from `count` on are empty. `count` is no constant of the compiled loop, so that
    a generation has the same bits whichever others it shares a call with.
    """

    def generation(index: Array, carry: tuple) -> tuple:
        state, history, strengths = carry
        generation_key = jax.random.fold_in(key, first + index)
        ask_key, dream_key, tell_key = jax.random.split(generation_key, 3)
        population, state = search.ask(ask_key, state, params)
        returns = evaluator.returns(population, dream_key, evaluator.settings.dreams).mean(axis=1)
        # A return that is no number is the worst there is; as a number it could be the best.
        fitness = jnp.where(jnp.isfinite(returns), -returns, jnp.inf)
        state, _ = search.tell(tell_key, population, fitness, state, params)
        return state, history.at[index].set(returns), strengths.at[index].set(state.std)

    history = jnp.zeros((MAX_GENERATIONS_PER_CALL, search.population_size))
    carry = (state, history, jnp.zeros(MAX_GENERATIONS_PER_CALL))
    return jax.lax.fori_loop(0, count, generation, carry)


@eqx.filter_jit
def dream_score(evaluator: DreamEvaluator, mean: Controller) -> Float[Array, ""]:
    """Return of one controller on dreams that are always the same."""
    controllers = jax.tree.map(lambda x: x[None], mean)
    return evaluator.returns(controllers, jax.random.key(0), SCORE_DREAMS).mean()


def validate(settings: Settings, controller: Path) -> list[float]:
    """Scores of a saved mean on the first validation tracks, driven for real."""
    agent = AgentFiles(settings.run_dir / "vae.eqx", settings.run_dir / "rnn.eqx", controller)
    tasks = [
        DriveTask(track, "on-policy", MAX_STEPS, environment=settings.env, agent=agent)
        for track in VALIDATION[: settings.validation_tracks]
    ]
    scores = {task.track: outcome.score for task, outcome in drive_all(tasks, settings.workers)}
    return [scores[task.track] for task in tasks]


def snapshot_path(settings: Settings, generation: int) -> Path:
    """Where the mean of a generation is saved."""
    return settings.run_dir / "snapshots" / f"{generation:06d}.eqx"


def best_checkpoint(settings: Settings, first: int) -> dict[str, Any]:
    """The record of the best mean saved since the generation `first` that this search began at.

    By its real validation score; without one by its return on the fixed dreams.
    """
    records = read_metrics(settings.run_dir / "controller.metrics.jsonl")
    measure = "real" if settings.real_validation else "dream_score"
    records = [
        r for r in records if r.get("first") == first and math.isfinite(r.get(measure, math.nan))
    ]
    if not records:
        raise UserError(f"no saved mean since generation {first} has a score; try --fresh")
    return max(records, key=lambda record: record[measure])


def draw(settings: Settings) -> None:
    """Dream and real scores over generations, from the metrics file."""
    panels = {
        f"return of {settings.horizon} dreamed steps": ("best", "mean", "dream_score"),
        "real score on validation tracks": ("real",),
        "mutation strength": ("sigma",),
    }
    records = read_metrics(settings.run_dir / "controller.metrics.jsonl")
    plot_curves(settings.run_dir / "controller.png", records, panels, xlabel="generation")


def main(settings: Settings) -> None:
    """Evolve, or say that there is nothing to do."""
    print(describe_device())
    with locked(settings.run_dir), timed(settings.run_dir, "train_dream"):
        train(settings)


def train(settings: Settings) -> None:
    """Evolve from zero, from a stopped run's state or from the last controller."""
    final, saved = (settings.run_dir / f"controller{end}.eqx" for end in ("", ".training"))
    vae_path, rnn_path = settings.run_dir / "vae.eqx", settings.run_dir / "rnn.eqx"
    rnn_header, rnn = checkpoints.load_rnn(rnn_path)
    check_compatible(rnn_path, rnn_header.inputs, "vae", vae_path)
    entries = find_latents(settings.data_dir, rnn.latent, rnn_header.inputs["vae"])
    inputs = {
        "data": dataset_fingerprint(entries),
        "vae": rnn_header.inputs["vae"],
        "rnn": sha256_of(rnn_path),
    }
    values = recorded_settings(settings)
    origin = rnn_header.progress["continued_from"]
    plan = plan_training(final, saved, inputs, values, settings.fresh, {"rnn": origin})
    print(f"C: {plan.reason}")
    if plan.action == "finished":
        saved.unlink(missing_ok=True)  # left by a kill just after the end
        return

    if settings.masked_units > rnn.hidden:
        raise UserError(f"--masked-units {settings.masked_units}: {rnn_path} has {rnn.hidden}")
    start_states = build_start_states(
        [entry for entry in entries if not entry.held_out], rnn, settings.seed
    )
    save_start_states(settings.run_dir / "starts.eqx", start_states, inputs)
    evaluator = DreamEvaluator(
        rnn, start_states, fit_whitening(start_states, settings.masked_units), settings
    )
    search, params, state = initial_search(plan, evaluator, settings)
    reached = plan.done, state
    generations = settings.continue_generations if plan.continued_from else settings.generations
    begun_at = math.inf if plan.action == "resume" else plan.first
    metrics = Metrics(settings.run_dir / "controller.metrics.jsonl", plan.done, begun_at)
    key, last = jax.random.key(settings.seed), plan.first + generations

    def header(kind: str, generation: int) -> Header:
        sizes = {"features": rnn.latent + rnn.hidden}
        return Header(kind, sizes, values, inputs, plan.progress(generation))

    def save_state() -> None:
        number, state = reached
        stop_if_diverged((state.mean, state.std, state.C), number, saved)
        checkpoints.save(saved, header("controller training", number), state)

    def checkpoint_mean(number: int, state: Any) -> dict[str, Any]:
        folded = evaluator.whitening.to_raw(search.get_mean(state))
        checkpoints.save(snapshot_path(settings, number), header("controller", number), folded)
        record = {"dream_score": float(dream_score(evaluator, search.get_mean(state)))}
        if settings.real_validation:
            scores = validate(settings, snapshot_path(settings, number))
            record |= {"scores": scores, "real": float(np.mean(scores))}
            print(f"\ngeneration {number}: {record['real']:.0f} on validation tracks")
        return record

    if plan.action == "continue":  # with the M that went on, what is there must be beaten
        metrics.append(step=plan.done, first=plan.first, **checkpoint_mean(plan.done, state))
    bar = progress(generations, "generation", plan.done - plan.first)
    with bar, save_on_interrupt(save_state):
        at_once, number = 1, plan.done
        while number < last:
            begun = time.monotonic()
            count = min(at_once, generations_until_checkpoint(number, last, settings))
            which = jnp.int32(number + 1), jnp.int32(count)
            found = run_generations(search, params, reached[1], evaluator, key, *which)
            state, *history = found[0], *(np.asarray(rows)[:count] for rows in found[1:])
            records = [
                generation_stats(returns, number + 1 + row, saved) | {"sigma": float(sigma)}
                for row, (returns, sigma) in enumerate(zip(*history, strict=True))
            ]
            at_once = generations_per_call(count, time.monotonic() - begun)
            number += count
            if number % settings.validate_every == 0 or number == last:
                records[-1] |= checkpoint_mean(number, state)
            for step, record in enumerate(records, number + 1 - count):
                metrics.append(step=step, first=plan.first, **record)
            reached = number, state
            bar.update(count)
            if "dream_score" in records[-1] or number % settings.save_every == 0:
                save_state()
            shown = {name: f"{records[-1][name]:.0f}" for name in ("best", "mean")}
            bar.set_postfix(shown, refresh=False)

    best = best_checkpoint(settings, plan.first)
    _, controller = checkpoints.load_controller(snapshot_path(settings, best["step"]))
    draw(settings)
    finished = header("controller", last)
    finished.progress["chosen"] = {k: best[k] for k in ("step", "dream_score", "real") if k in best}
    checkpoints.save(final, finished, controller)
    saved.unlink()
    print(f"{final}: generation {best['step']}, " + describe(best))


def generations_until_checkpoint(done: int, last: int, settings: Settings) -> int:
    """Generations until the next one that is saved or validated."""
    every = (settings.validate_every, settings.save_every)
    return min(last - done, *(n - done % n for n in every))


def generations_per_call(count: int, seconds: float) -> int:
    """How many generations to do in the next call, if `count` took `seconds`."""
    return max(
        1, min(MAX_GENERATIONS_PER_CALL, round(count * SECONDS_PER_CALL / max(seconds, 1e-3)))
    )


def generation_stats(returns: np.ndarray, generation: int, saved: Path) -> dict[str, float]:
    """Best, mean and spread of a generation; UserError if no candidate's return is a number."""
    values = returns[np.isfinite(returns)]
    if not values.size:
        kept = f"the last good state is kept in {saved}" if saved.exists() else "no state was saved"
        raise UserError(
            f"no dream of generation {generation} has a return; {kept}. "
            "Is M trained? Try train_rnn.py --fresh with a lower --learning-rate"
        )
    return {
        "best": float(values.max()),
        "mean": float(values.mean()),
        "spread": float(values.std()),
    }


def describe(record: dict[str, Any]) -> str:
    """What a saved mean reached, in words."""
    text = f"return {record['dream_score']:.0f} in the dream"
    return f"{text}, {record['real']:.0f} on validation tracks" if "real" in record else text


def fit_whitening(start_states: StartStates, masked: int = 0) -> Whitening:
    """Mean and scale of [z, h] at the starts; the last `unseen` features are hidden from C."""
    features = start_states.features()
    # A feature that hardly varies would be blown up to noise.
    return Whitening(features.mean(axis=0), jnp.maximum(features.std(axis=0), 1e-2), masked)


def initial_search(
    plan: ResumePlan, evaluator: DreamEvaluator, settings: Settings
) -> tuple[CMA_ES, Any, Any]:
    """The search, its parameters and the state that the plan begins with."""
    zero = Controller(evaluator.whitening.visible)
    search = CMA_ES(population_size=settings.candidates, solution=zero)
    params = search.default_params.replace(std_init=jnp.asarray(settings.sigma))
    mean = zero
    if plan.action == "continue":
        _, last = checkpoints.load_controller(settings.run_dir / "controller.eqx")
        mean = evaluator.whitening.to_whitened(last)
    state = search.init(jax.random.key(settings.seed), mean, params)
    if plan.action == "resume":
        saved = settings.run_dir / "controller.training.eqx"
        _, state = checkpoints.load(saved, "controller training", lambda _: state)
    # As `evolve` returns it, in types and places: it would be compiled twice.
    state = jax.tree.map(lambda x: jnp.asarray(x, x.dtype), state)
    state = jax.device_put(state, replicated_sharding(settings.candidates, settings.dreams))
    return search, params, state


if __name__ == "__main__":
    runtime.run(main, parse(Settings, __doc__, PRESETS))
