"""Calibration of the dream: dreamed returns against real returns from the same moments."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from models.controller import Controller
from models.dream import CPU_BATCH, FAILURE_REWARD, DreamState, dream_return
from models.rnn import MDNRNN, mixture_noise
from tools.analysis.score_breakdown import is_lap_complete
from tools.analysis.trace import Trace
from utils.data.episodes import ZOOM_STEPS, Episode
from utils.data.targets import failed_steps
from utils.viz.figures import save_figure

FINISH_TILES = 10  # last tiles of a lap: the real drive ends there, a dream would continue


@eqx.filter_jit
def dreamed_returns(
    rnn: MDNRNN,
    controller: Controller,
    starts: DreamState,
    key: PRNGKeyArray,
    dreams: int,
    horizon: int,
    temperature: float,
) -> Float[Array, "moments dreams"]:
    """Dream returns in points, rewards unlimited, from `starts` (leaves (moments, ...))."""

    def of_moment(moment: tuple[DreamState, PRNGKeyArray]) -> Float[Array, " dreams"]:
        start, key = moment
        noise = mixture_noise(key, (dreams, horizon, rnn.latent))
        over_dreams = jax.vmap(dream_return, (None, None, None, 0, None))
        return over_dreams(rnn, controller, start, noise, temperature)

    keys = jax.random.split(key, starts.z.shape[0])
    return jax.lax.map(of_moment, (starts, keys), batch_size=max(1, CPU_BATCH // dreams))


def without_failures(rnn: MDNRNN) -> MDNRNN:
    """M with an end head that never predicts a failure, so that only its rewards count."""
    weight, bias = rnn.heads.weight, rnn.heads.bias
    heads = (jnp.asarray(weight).at[:, -1].set(0.0), jnp.asarray(bias).at[-1].set(-1e9))
    return eqx.tree_at(lambda r: (r.heads.weight, r.heads.bias), rnn, heads)


def real_return(episode: Episode, step: int, horizon: int) -> tuple[float, bool]:
    """The real return of `horizon` steps from `step`, and whether the drive failed in them.

    Counted as in a dream: a failed drive ends with FAILURE_REWARD at the step that is labelled as
    failed in M's training data.
    """
    failed = failed_steps(episode.rewards, episode.terminated & (not episode.lap_finished))
    failed_here = np.flatnonzero(failed[step : step + horizon])
    if not len(failed_here):
        return float(episode.rewards[step : step + horizon].sum()), False
    return float(episode.rewards[step : step + failed_here[0]].sum()) + FAILURE_REWARD, True


def start_steps(
    trace: Trace, episode: Episode, count: int, horizon: int, rng: np.random.Generator
) -> np.ndarray:
    """Steps at which the drive has not failed and `horizon` steps of the same lap follow."""
    steps, end = len(episode.rewards), len(episode.rewards)
    if is_lap_complete(trace):
        late = trace.visited[-FINISH_TILES:]
        end = int(late[late > ZOOM_STEPS].min(initial=steps))
    elif trace.result.left_playfield:
        end += horizon  # the steps after leaving the playfield are known: there are none
    failed = failed_steps(episode.rewards, episode.terminated & (not episode.lap_finished))
    usable = np.flatnonzero(~failed[: max(0, end - horizon + 1)])
    usable = usable[usable >= min(ZOOM_STEPS, steps // 2)]
    return np.sort(rng.choice(usable, min(count, len(usable)), replace=False))


def calibration_metrics(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Spearman's rank correlation, and the mean of dreamed − real return: the return bias.

    The bias is given for all moments and by whether the real drive failed. `return_bias_of_rewards`
    ignores the end head: it compares drives that did not fail with dreams that cannot fail.
    """
    names = ("real", "dreamed", "dreamed_without_failures", "failed")
    real, dreamed, alive, failed = (np.array([row[name] for row in rows]) for name in names)
    spread = len(rows) > 2 and np.ptp(real) > 0 and np.ptp(dreamed) > 0

    def bias(which: np.ndarray, dreamed: np.ndarray = dreamed) -> float | None:
        return float((dreamed - real)[which].mean()) if which.any() else None

    return {
        "rank_correlation": float(spearmanr(real, dreamed).statistic) if spread else None,
        "return_bias": bias(np.ones(len(rows), bool)),
        "return_bias_failed": bias(failed.astype(bool)),
        "return_bias_not_failed": bias(~failed.astype(bool)),
        "return_bias_of_rewards": bias(~failed.astype(bool), alive),
        "share_failed": float(failed.mean()) if len(rows) else None,
    }


def draw_dreams(path: Path, dreams: dict[str, Any]) -> None:
    """Draw dreamed against real returns, a dot for each moment, as PNG."""
    figure = Figure(figsize=(6, 5.6), layout="constrained")
    axes = figure.subplots()
    for failed, label in ((False, "the real drive did not fail"), (True, "the real drive failed")):
        rows = [row for row in dreams["moments"] if row["failed"] == failed]
        real, dreamed = [row["real"] for row in rows], [row["dreamed"] for row in rows]
        axes.scatter(real, dreamed, s=16, alpha=0.6, label=f"{label} ({len(rows)})")
    low, high = axes.get_xlim()
    axes.plot([low, high], [low, high], "k--", lw=1, label="dreamed = real")
    correlation, return_bias = dreams["rank_correlation"], dreams["return_bias"]
    said = "" if correlation is None else f"rank correlation {correlation:.2f}, "
    axes.set(
        xlabel="real return (points; a failed drive ends with −100)",
        ylabel="dreamed return, mean of the dreams (points)",
        title=f"From the same moments: {said}bias {return_bias or 0:+.0f}",
    )
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    save_figure(figure, path)
