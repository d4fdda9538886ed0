"""Step 5: evolve a controller in the dream.

    python train_dream.py
    python train_dream.py --searches 4 --temperature 1.1
    python train_dream.py --no-real-validation    # never drive the real track

Reads data/latents/ (a dream starts from a state of a real episode), vae.eqx, rnn.eqx and, with
--dream-rnn, dream_rnn.eqx. CMA-ES evolves controllers from zero, in --searches independent searches
over the first principal components of whitened [z, h]. The means of the search distributions are
saved in snapshots/, and after several searches the average of their last means. After M has been
trained further, the searches start from the last controller. Real validation tracks choose among
all of them (utils/search/selection.py). Writes the best one to controller.eqx, the
states that dreams start from to starts.eqx, and controller.metrics.jsonl and controller.png. A
generation takes about 2 seconds on 2 CPU cores. Rerun the command to resume.

Over 300 lines: the settings, the searches and the choice are one page to read.
"""

import math
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from models.controller import Controller
from models.observed import ObservedDream
from utils import runtime
from utils.data.episodes import dataset_fingerprint, find_latents
from utils.data.start_states import build_start_states, save_start_states
from utils.errors import UserError
from utils.io import checkpoints
from utils.io.checkpoints import Header
from utils.io.files import locked, sha256_of
from utils.io.records import Metrics, read_metrics, timed
from utils.io.resume import ResumePlan, plan_training, save_on_interrupt, stop_if_diverged
from utils.io.run_folder import AgentFiles, check_compatible
from utils.io.tracking import TrackingSettings, track_finished, tracked
from utils.runtime import describe_device, progress
from utils.search import evolution, selection
from utils.settings import DrivingSettings, parse, recorded_settings, setting
from utils.sim.env import ENVIRONMENTS


@dataclass(frozen=True)
class Settings(TrackingSettings, DrivingSettings):
    """The flags of this step."""

    searches: int = setting(4, "searches, one after another, each from the same start", minimum=1)
    continue_searches: int = setting(
        6, "searches after M has been trained on more episodes", minimum=1
    )
    generations: int = setting(
        40, "generations of a search; later ones may exploit M's errors", minimum=1
    )
    continue_generations: int = setting(
        20, "generations of a search after M has been trained on more episodes", minimum=1
    )
    candidates: int = setting(64, "controllers in a generation", minimum=4)
    dreams: int = setting(16, "dreams that evaluate each candidate", minimum=1)
    horizon: int = setting(
        200, "steps of a dream; M's predictions get worse with every step", minimum=1
    )
    temperature: float = setting(
        1.0, "of M's mixture: above 1 the dream is harder to exploit, below 1 easier", minimum=0.01
    )
    reward_limit: float = setting(1.0, "most points for one dreamed step; bounds the pace")
    fast_reward_limit: float = setting(
        1.5, "after M has been trained on more episodes, the searches' limits go up to this one"
    )
    failure_weight: float = setting(
        1.0, "of M's probability of failure: below 1 cars are faster", minimum=0.0
    )
    principal_components: int = setting(
        60, "of [z, h] that a search works in; with all 288 it is mostly a random walk", minimum=1
    )
    dream_rnn: bool = setting(
        False, "dream in dream_rnn.eqx, a second M, not in the M whose memory C reads"
    )
    masked_units: int = setting(
        0,
        "number of last units of h hidden from C; with all of them it sees z alone",
        minimum=0,
        old_name="unseen_units",
    )
    sigma: float = setting(
        0.02, "initial standard deviation of the mutations, on whitened [z, h]", minimum=0.0
    )
    reset_share: float = setting(0.15, "share of dreams that start at the start line", minimum=0.0)
    on_policy_share: float = setting(
        0.5, "share of the other dreams that start in the agent's own episodes", minimum=0.0
    )
    save_mean_from: int = setting(10, "first generation of a search whose mean is saved", minimum=1)
    save_mean_every: int = setting(
        10, "generations between saved means", minimum=1, old_name="validate_every"
    )
    validation_tracks: int = setting(
        100, "validation tracks that the best saved means drive; all drive the first 8", minimum=1
    )
    real_validation: bool = setting(True, "choose among the saved means on real validation tracks")
    record: bool = setting(False, "validate on training tracks and keep the drives as episodes")
    env: str = setting(
        "fast", "renderer of the tracks: fast, or Gymnasium's own", choices=tuple(ENVIRONMENTS)
    )
    save_every: int = setting(10, "generations between saves", minimum=1, changes_result=False)
    fresh: bool = setting(False, "start from zero, not the last controller", changes_result=False)

    def saves_mean(self, done: int, length: int) -> bool:
        """Whether the mean after `done` of `length` generations of a search is saved."""
        due = done >= self.save_mean_from and done % self.save_mean_every == 0
        return due or done == length


PRESETS: dict[str, dict[str, Any]] = {
    "quick": {
        "searches": 1,
        "continue_searches": 3,
        "generations": 20,
        "continue_generations": 15,
        "validation_tracks": 16,
    },
    "paper": {"searches": 16, "continue_searches": 16},
}


@dataclass(frozen=True)
class Run:
    """One run of this script: its settings, its inputs and its files."""

    settings: Settings
    plan: ResumePlan
    inputs: dict[str, str]
    evaluator: evolution.DreamEvaluator
    search: tuple[Any, Any, Any]  # of `evolution.initial_search`
    limits: list[float]  # reward limit of each search
    length: int  # generations of a search
    recording: selection.Recording | None  # where real drives are kept

    @property
    def searched(self) -> int:
        """The last generation; generations are numbered across searches."""
        return self.plan.first + len(self.limits) * self.length

    @property
    def last(self) -> int:
        """The last number: the controllers of `others` have numbers after the last generation."""
        return self.searched + (len(self.limits) > 1) + bool(self.plan.continued_from)

    @property
    def state_path(self) -> Path:
        """The saved state of the search in progress."""
        return self.settings.run_dir / "controller.training.eqx"

    def snapshot(self, number: int) -> Path:
        """The saved mean after a generation."""
        return snapshot(self.settings.run_dir, number)

    def header(self, kind: str, number: int) -> Header:
        """The header of a file written after a generation."""
        values = recorded_settings(self.settings)
        sizes = {"features": len(self.evaluator.whitening.mean)}
        return Header(kind, sizes, values, self.inputs, self.plan.progress(number))

    def save_state(self, number: int, state: Any) -> None:
        """Save the state of the search in progress. Raises UserError if it has diverged."""
        stop_if_diverged((state.mean, state.std, state.C), number, self.state_path)
        checkpoints.save(self.state_path, self.header("controller training", number), state)

    def controller(self, state: Any) -> Controller:
        """The mean of a search's distribution, as a controller on [z, h]."""
        return self.evaluator.controller(self.search[0].get_mean(state))

    def save_mean(self, number: int, controller: Controller) -> dict[str, float]:
        """Save a mean. Returns its score in dreams that are always the same."""
        checkpoints.save(self.snapshot(number), self.header("controller", number), controller)
        return {"dream_score": evolution.dream_score(self.evaluator, controller)}

    def others(self) -> list[Controller]:
        """What the choice has besides the searches' means.

        The average of their last means, which often loses fewer drives than they, and the
        controller that the searches started from, which a new one has to beat.
        """
        found = []
        if len(self.limits) > 1:
            ends = range(self.plan.first + self.length, self.searched + 1, self.length)
            means = [checkpoints.load_controller(self.snapshot(number))[1] for number in ends]
            found.append(jax.tree.map(lambda *x: sum(x) / len(x), *means))
        if self.plan.continued_from:
            found.append(self.evaluator.origin)
        return found


def snapshot(run_dir: Path, number: int) -> Path:
    """The file of a saved mean, or of one of `Run.others`, by its number."""
    return run_dir / "snapshots" / f"{number:06d}.eqx"


def main(settings: Settings) -> None:
    """Evolve a controller, unless a finished one is there."""
    print(describe_device())
    with locked(settings.run_dir), timed(settings.run_dir, "train_dream"):
        train(settings)


def train(settings: Settings) -> None:
    """Run the searches, from the start or resumed, and choose among their means."""
    run = begin(settings)
    if run is None:
        return
    begun_at = math.inf if run.plan.action == "resume" else run.plan.first
    metrics = Metrics(settings.run_dir / "controller.metrics.jsonl", run.plan.done, begun_at)
    with tracked(metrics, settings, run.header("controller", run.plan.first)):
        evolve(run, metrics)
        finish(run, metrics)


def evolve(run: Run, metrics: Metrics) -> None:
    """Run the searches that are not done yet. Saves the means of their distributions."""
    settings, first, last = run.settings, run.plan.first, run.searched
    search, params, start = run.search
    reached = run.plan.done, start
    if run.plan.action == "resume":
        _, state = checkpoints.load(run.state_path, "controller training", lambda _: start)
        reached = run.plan.done, evolution.as_returned(state, settings)

    key, at_once = jax.random.key(settings.seed), 1
    stops = settings.save_mean_every, settings.save_every
    bar = progress(last - first, "generation", min(run.plan.done, last) - first)
    with bar, save_on_interrupt(lambda: run.save_state(*reached)):
        while reached[0] < last:
            number, state = reached
            done = (number - first) % run.length  # generations of this search
            which = (number - first) // run.length
            evaluator = replace(run.evaluator, reward_limit=jnp.float32(run.limits[which]))
            if done == 0:  # the next search
                state = start
            count = min(at_once, evolution.generations_until_checkpoint(done, run.length, stops))
            begun = time.monotonic()
            numbers = jnp.int32(number + 1), jnp.int32(count)
            found = evolution.run_generations(search, params, state, evaluator, key, *numbers)
            state, *history = found[0], *(np.asarray(rows)[:count] for rows in found[1:])
            at_once = evolution.generations_per_call(count, time.monotonic() - begun)
            records = evolution.generation_records(*history, number, run.state_path)
            place = {"first": first, "search": which + 1, "reward_limit": run.limits[which]}
            number, done = number + count, done + count
            if settings.saves_mean(done, run.length):
                records[-1] |= run.save_mean(number, run.controller(state))
            for record in records:
                metrics.append(**place, **record)
            reached = number, state
            bar.update(count)
            if "dream_score" in records[-1] or done % settings.save_every == 0:
                run.save_state(*reached)
            bar.set_postfix(mean=f"{records[-1]['mean']:.0f}", refresh=False)
    if reached[0] < run.last:
        for number, controller in enumerate(run.others(), last + 1):
            metrics.append(step=number, first=first, **run.save_mean(number, controller))
        run.save_state(run.last, reached[1])


def begin(settings: Settings) -> Run | None:
    """Read the inputs and decide what to do. Returns None if the run is finished."""
    final = settings.run_dir / "controller.eqx"
    vae_path, rnn_path = settings.run_dir / "vae.eqx", settings.run_dir / "rnn.eqx"
    header, rnn = checkpoints.load_rnn(rnn_path)
    vae = header.inputs["vae"]
    check_compatible(rnn_path, header.inputs, "vae", vae_path)
    entries = find_latents(settings.data_dir, rnn.latent, vae)
    inputs = {"data": dataset_fingerprint(entries), "vae": vae, "rnn": sha256_of(rnn_path)}
    origins, model = {"rnn": header.progress["continued_from"]}, rnn
    if settings.dream_rnn:
        dream_path = settings.run_dir / "dream_rnn.eqx"
        dream_header, dreaming = checkpoints.load_rnn(dream_path)
        if dream_header.inputs != header.inputs:
            raise UserError(f"{dream_path} has learned from other data than {rnn_path}: train both")
        inputs["dream_rnn"] = sha256_of(dream_path)
        origins["dream_rnn"] = dream_header.progress["continued_from"]
        model = ObservedDream(dreaming, rnn)
    values, state = recorded_settings(settings), settings.run_dir / "controller.training.eqx"
    plan = plan_training(final, state, inputs, values, settings.fresh, origins)
    print(f"C: {plan.reason}")
    if plan.action == "finished":
        state.unlink(missing_ok=True)  # left by a process killed just after it finished
        track_finished(final.with_suffix(".metrics.jsonl"), settings)
        return None
    if settings.masked_units > rnn.hidden:
        raise UserError(f"--masked-units {settings.masked_units}: {rnn_path} has {rnn.hidden}")
    limits, length = [settings.reward_limit] * settings.searches, settings.generations
    origin = Controller(rnn.latent + rnn.hidden)
    if plan.continued_from:
        _, origin = checkpoints.load_controller(final)
        limits = evolution.reward_limits(settings, settings.continue_searches)
        length = settings.continue_generations
    seen = [entry for entry in entries if not entry.held_out]
    components = min(settings.principal_components, rnn.latent + rnn.hidden - settings.masked_units)
    with ThreadPoolExecutor(1) as other:  # CMA-ES compiles 50 small programs while files are read
        key = jax.random.key(settings.seed)
        search = other.submit(evolution.initial_search, settings, components, key)
        start_states = build_start_states(seen, model, settings.seed)
        own = start_states.of_observer() if settings.dream_rnn else start_states
        save_start_states(settings.run_dir / "starts.eqx", own, inputs)
        whitening = evolution.fit_whitening(start_states, components, settings.masked_units)
    lowest = jnp.float32(settings.reward_limit)
    evaluator = evolution.DreamEvaluator(model, start_states, whitening, origin, lowest, settings)
    recording = selection.recording_of(settings, entries)
    return Run(settings, plan, inputs, evaluator, search.result(), limits, length, recording)


def finish(run: Run, metrics: Metrics) -> None:
    """Choose among the saved means and write the best one to controller.eqx."""
    settings = run.settings
    scored = selection.scored_means(metrics.path, run.plan.first)
    best, chosen = max(scored, key=scored.__getitem__), {}
    if settings.real_validation:
        files = settings.run_dir / "vae.eqx", settings.run_dir / "rnn.eqx"
        agents = {number: AgentFiles(*files, run.snapshot(number)) for number in scored}
        best, drives = selection.select_on_real_tracks(
            *(agents, settings.validation_tracks, metrics, run.plan.first),
            *(settings.env, settings.drive_on, run.recording),
        )
        chosen = {"real": selection.mean_score(drives), "lost": sum(drives["lost"])}
    draw(settings)
    header, final = run.header("controller", run.last), settings.run_dir / "controller.eqx"
    header.progress["chosen"] = {"step": best, **chosen, "dream_score": scored[best]}
    _, controller = checkpoints.load_controller(run.snapshot(best))
    checkpoints.save(final, header, controller)
    run.state_path.unlink()
    print(f"{final}: generation {best}, return {scored[best]:.0f} in the dream")


def draw(settings: Settings) -> None:
    """Dream and real scores over generations, from the metrics file."""
    # Here, because a training starts faster without matplotlib.
    from utils.viz.figures import plot_curves

    panels = {
        f"return of {settings.horizon} dreamed steps": ("best", "mean", "dream_score"),
        "real score on validation tracks": ("real",),
        "mutation strength": ("sigma",),
    }
    records = read_metrics(settings.run_dir / "controller.metrics.jsonl")
    plot_curves(settings.run_dir / "controller.png", records, panels, xlabel="generation")


if __name__ == "__main__":
    runtime.run(main, parse(Settings, __doc__, PRESETS))
