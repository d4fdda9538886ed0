"""What the dream promises at moments of real drives, against what then came: numbers and figure."""

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
from tools.analysis.score_breakdown import is_lap_driven
from tools.analysis.trace import Trace
from utils.data.episodes import ZOOM_STEPS, Episode
from utils.data.targets import failed_steps
from utils.viz.figures import save_figure

LAP_END = 10  # tiles before the end of a lap, where a dream would go on and the real road ends


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
    """Dream returns in points, no step's reward limited, from `starts` (leaves (moments, ...))."""

    def of_moment(moment: tuple[DreamState, PRNGKeyArray]) -> Float[Array, " dreams"]:
        start, key = moment
        noise = mixture_noise(key, (dreams, horizon, rnn.latent))
        over_dreams = jax.vmap(dream_return, (None, None, None, 0, None))
        return over_dreams(rnn, controller, start, noise, temperature)

    keys = jax.random.split(key, starts.z.shape[0])
    return jax.lax.map(of_moment, (starts, keys), batch_size=max(1, CPU_BATCH // dreams))


def unending(rnn: MDNRNN) -> MDNRNN:
    """The same M but for its end head, which never expects a failure: its rewards alone."""
    weight, bias = rnn.heads.weight, rnn.heads.bias
    heads = (jnp.asarray(weight).at[:, -1].set(0.0), jnp.asarray(bias).at[-1].set(-1e9))
    return eqx.tree_at(lambda r: (r.heads.weight, r.heads.bias), rnn, heads)


def real_return(episode: Episode, step: int, horizon: int) -> tuple[float, bool]:
    """What came in `horizon` steps from `step` on, counted as the dream counts, and if it failed.

    A drive that is lost ends there, for FAILURE_REWARD: where M's end head was told so.
    """
    lost = failed_steps(episode.rewards, episode.terminated & (not episode.lap_finished))
    lost_here = np.flatnonzero(lost[step : step + horizon])
    if not len(lost_here):
        return float(episode.rewards[step : step + horizon].sum()), False
    return float(episode.rewards[step : step + lost_here[0]].sum()) + FAILURE_REWARD, True


def moments_to_dream_from(
    trace: Trace, episode: Episode, count: int, horizon: int, rng: np.random.Generator
) -> np.ndarray:
    """Steps of a drive that is not lost yet, with `horizon` steps of the same lap to come."""
    steps, end = len(episode.rewards), len(episode.rewards)
    if is_lap_driven(trace):
        late = trace.visited[-LAP_END:]
        end = int(late[late > ZOOM_STEPS].min(initial=steps))
    elif trace.outcome.left_playfield:
        end += horizon  # nothing can come any more: that is known
    lost = failed_steps(episode.rewards, episode.terminated & (not episode.lap_finished))
    usable = np.flatnonzero(~lost[: max(0, end - horizon + 1)])
    usable = usable[usable >= min(ZOOM_STEPS, steps // 2)]
    return np.sort(rng.choice(usable, min(count, len(usable)), replace=False))


def figures_of(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Rank correlation (Spearman) and mean optimism, dreamed − real, of all and by what came.

    `optimism_of_rewards` leaves the end head away, on both sides: drives and dreams that went on.
    """
    names = ("real", "dreamed", "dreamed_unending", "lost")
    real, dreamed, alive, lost = (np.array([row[name] for row in rows]) for name in names)
    spread = len(rows) > 2 and np.ptp(real) > 0 and np.ptp(dreamed) > 0

    def optimism(which: np.ndarray, dreamed: np.ndarray = dreamed) -> float | None:
        return float((dreamed - real)[which].mean()) if which.any() else None

    return {
        "rank_correlation": float(spearmanr(real, dreamed).statistic) if spread else None,
        "optimism": optimism(np.ones(len(rows), bool)),
        "optimism_lost": optimism(lost.astype(bool)),
        "optimism_not_lost": optimism(~lost.astype(bool)),
        "optimism_of_rewards": optimism(~lost.astype(bool), alive),
        "share_lost": float(lost.mean()) if len(rows) else None,
    }


def draw_dreams(path: Path, dreams: dict[str, Any]) -> None:
    """Dreamed against real returns, a dot for each moment, as PNG."""
    figure = Figure(figsize=(6, 5.6), layout="constrained")
    axes = figure.subplots()
    for lost, label in ((False, "the real drive went on"), (True, "the real drive was lost")):
        rows = [row for row in dreams["moments"] if row["lost"] == lost]
        real, dreamed = [row["real"] for row in rows], [row["dreamed"] for row in rows]
        axes.scatter(real, dreamed, s=16, alpha=0.6, label=f"{label} ({len(rows)})")
    low, high = axes.get_xlim()
    axes.plot([low, high], [low, high], "k--", lw=1, label="dreamed as it came")
    correlation, optimism = dreams["rank_correlation"], dreams["optimism"]
    said = "" if correlation is None else f"rank correlation {correlation:.2f}, "
    axes.set(
        xlabel="real return (points; a lost drive ends with −100)",
        ylabel="dreamed return, mean of the dreams (points)",
        title=f"From the same moments: {said}optimism {optimism or 0:+.0f}",
    )
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    save_figure(figure, path)
