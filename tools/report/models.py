"""Sections of the report about V and M: reconstructions, dreams and training curves."""

import dataclasses

import jax

from tools.report.page import (
    Raw,
    Section,
    axes_of_chart,
    chart,
    charts,
    heading,
    legend,
    missing,
    show,
    strips,
    table,
)
from tools.report.run_record import RunRecord
from utils.data.episodes import ZOOM_STEPS, Episode, read_episode
from utils.data.frames import evenly_spaced_frames
from utils.data.splits import MODES
from utils.viz.figures import to_uint8
from utils.viz.video import FRAMES_PER_SECOND, replay

DREAM_STEPS = (1, 5, 10, 25, 50, 100, 200)  # shown of an open-loop dream
SHOWN_FRAMES = 8

# Title of a chart -> {metric: name in the legend}.
Panels = dict[str, dict[str, str]]
VAE_PANELS: Panels = {
    "Squared error of a pixel (0 to 1)": {"mse": "training batch", "held_out_mse": "held out"},
    "Information in z (KL), nats a frame": {"kl": "training batch", "held_out_kl": "held out"},
}
DREAMED = {"10": "10 steps of dream", "50": "50 steps", "200": "200 steps"}
RNN_PANELS: Panels = {
    "Negative log-likelihood, nats per dimension of z": {
        "nll": "next step",
        **{f"nll_{k}": name for k, name in DREAMED.items()},
    },
    "Error of summed rewards, points": {f"reward_error_{k}": n for k, n in DREAMED.items()},
    "Reward bias: dreamed − real, points": {f"reward_bias_{k}": n for k, n in DREAMED.items()},
    "Share of drives that failed within 200 steps": {
        "end_predicted_200": "dreamed",
        "end_real_200": "real",
    },
}


def dreams(run: RunRecord) -> Section:
    """Open-loop dreams beside the real drives, and their errors."""
    text = (
        "M gets one moment of a held-out drive and from then on only the actions. Its dream is "
        "shown beside the real frames."
    )
    pieces: list[Raw] = []
    if "rnn" in run.models:
        held_out = [drive for drive in run.drives if drive.entry.held_out]
        for mode in MODES:
            chosen = [drive for drive in held_out if drive.entry.mode == mode][:1]
            for drive in chosen:
                episode = read_episode(drive.entry.path)
                caption = f"{mode.capitalize()} driving, track {episode.seed}"
                pieces.append(dream_strips(run, episode, caption))
        if not pieces:
            pieces.append(missing(f"No held-out episodes in {run.data_dir}: set --data-dir."))
        pieces += forecasts(run)
    return "dreams", "Open-loop dreams", text, pieces or [missing("No M yet: run train_rnn.py.")]


def dream_strips(run: RunRecord, episode: Episode, caption: str) -> Raw:
    """Real frames of an episode, their reconstructions, and dreamed frames."""
    start = start_of(episode)
    (_, vae), (_, rnn) = run.models["vae"], run.models["rnn"]
    steps = [k for k in DREAM_STEPS if start + k <= len(episode.actions)]
    end = start + steps[-1]
    part = dataclasses.replace(
        episode, frames=episode.frames[: end + 1], actions=episode.actions[:end]
    )
    shown = replay(vae, rnn, part, start)
    rows = {
        "Real": part.frames[[start + k for k in steps]],
        "Reconstruction": shown.reconstructed[[start + k for k in steps]],
        "Dreamed": shown.dreamed[[k - 1 for k in steps]],
    }
    seconds = [f"{k / FRAMES_PER_SECOND:g} s" for k in steps]
    return strips(
        rows, seconds, f"{caption}; the dream starts after {start / FRAMES_PER_SECOND:g} s"
    )


def start_of(episode: Episode) -> int:
    """The step where a dream starts: a third into the episode, after the zoom."""
    steps = len(episode.actions)
    return min(max(steps // 3, ZOOM_STEPS), max(0, steps - DREAM_STEPS[2] - 1))


def forecasts(run: RunRecord) -> list[Raw]:
    """The last errors of forecasts on held-out drives, as a table."""
    records = run.metrics("rnn")
    if not records:
        return []
    last, rows = records[-1], []
    for name, end in (("next step", ""), *((f"{k} steps", f"_{k}") for k in DREAMED)):
        keys = ("nll", "reward_error", "reward_bias", "end_predicted", "end_real")
        rows.append([name, *(last.get(key + end) for key in keys)])
    head = [
        "dream of",
        "NLL (nats)",
        "reward error",
        "reward bias",
        "failed, dreamed",
        "failed, real",
    ]
    return [heading("Forecasts of held-out drives"), table(head, rows)]


def memory(run: RunRecord) -> Section:
    """M's training."""
    text = (
        "Errors on held-out drives: the negative log-likelihood (NLL) of the next latent, and the "
        "errors of rewards and failures, at the next step and in dreams. The search for C exploits "
        "a positive bias of the reward."
    )
    found = metric_charts(run, "rnn", RNN_PANELS, "gradient step")
    pieces = [found] if found else [missing("No metrics of M yet: run train_rnn.py.")]
    return "memory", "M: learning to predict", text, pieces


def metric_charts(run: RunRecord, part: str, panels: Panels, xlabel: str) -> Raw | None:
    """A chart for each panel whose metrics were recorded."""
    records, pieces = run.metrics(part), []
    for title, lines in panels.items():
        figure, axes = axes_of_chart()
        for name, label in lines.items():
            points = [(r["step"], r[name]) for r in records if r.get(name) is not None]
            if points:
                marker = "o" if len(points) < 30 else ""
                axes.plot(*zip(*points, strict=True), marker=marker, markersize=3, label=label)
        if axes.lines:
            axes.set(xlabel=xlabel)
            if len(lines) > 1:
                legend(axes)
            words = ", ".join(f"{line.get_label()} ends at {show(float(line.get_ydata()[-1]))}"
                              for line in axes.lines)  # fmt: skip
            pieces.append(chart(title, figure, f"{title}: {words}"))
    return charts(pieces) if pieces else None


def vision(run: RunRecord) -> Section:
    """V's training and its reconstructions."""
    text = "V compresses a frame to a few numbers. Its reconstruction should show the same road."
    pieces: list[Raw] = []
    held_out = [drive.entry for drive in run.drives if drive.entry.held_out]
    if "vae" in run.models and held_out:
        _, vae = run.models["vae"]
        chosen = held_out[:: -(-len(held_out) // SHOWN_FRAMES)]
        # The fifth of every nine: first frames all look alike.
        frames = evenly_spaced_frames(chosen, 9 * SHOWN_FRAMES)[4::9]
        mu, _ = jax.vmap(vae.encode)(frames)
        rows = {"Real": frames, "Reconstruction": to_uint8(jax.vmap(vae.decode)(mu))}
        pieces.append(strips(rows, [], "Frames of held-out drives"))
    losses = metric_charts(run, "vae", VAE_PANELS, "gradient step")
    if losses:
        pieces.append(losses)
    no_model = missing("No V yet: run run_vae_training.py.")
    return "vision", "V: learning to see", text, pieces or [no_model]
