"""Sections of the report about driving: summary, video, scores by track, the evolution of C."""

from typing import Any

import numpy as np

from tools.report.models import Panels, dream_strips, metric_charts
from tools.report.page import (
    COLORS,
    GRID,
    MUTED,
    Raw,
    Section,
    axes_of_chart,
    cards,
    chart,
    details,
    duration,
    heading,
    missing,
    table,
    video,
)
from tools.report.run_record import RunRecord
from utils.data.episodes import read_episode
from utils.runtime import format_number, format_score
from utils.viz.video import FRAMES_PER_SECOND

TRACKS_BY_NAME = 24  # charts of more tracks omit their names

CONTROLLER_PANELS: Panels = {
    "Return of a dream, points": {
        "best": "best candidate",
        "mean": "mean of a generation",
        "dream_score": "saved, on fixed dreams",
    },
    "Score on real validation tracks": {"real": "saved controller"},
    "Mutation strength": {"sigma": "sigma"},
}
ROUND_PANELS: Panels = {
    "Score on other validation tracks": {"mean": "mean", "low": "95%, low", "high": "95%, high"},
}


def glance(run: RunRecord) -> Section:
    """The summary at the top."""
    evaluation, steps = run.evaluation, sum(drive.entry.steps for drive in run.drives)
    shown = {}
    if evaluation:
        low, high = (format_number(bound, ".0f") for bound in evaluation["interval"])
        tracks = f"{len(evaluation['scores'])} {evaluation['split'] or 'chosen'} tracks"
        note = f"mean ± standard deviation on {tracks}; 95% interval of the mean {low} … {high}"
        shown["Real score"] = (mean_and_std(evaluation), note)
        if evaluation["baseline"]:
            other = evaluation["baseline"]
            driver = f"{other['driver'].capitalize()} driving"
            shown[driver] = (mean_and_std(other), "on the same tracks")
    if run.drives:
        minutes = f"{steps / FRAMES_PER_SECOND / 60:.0f} minutes"
        note = f"{len(run.drives)} episodes, {minutes} of driving"
        shown["Real data"] = (f"{steps:,} steps", note)
    generations = sum("best" in record for record in run.metrics("controller"))
    if generations and "controller" in run.models:
        settings = run.models["controller"][0].settings
        dreams = generations * settings["candidates"] * settings["dreams"]
        note = f"{dreams:,} dreams, {generations} generations"
        shown["Dreamed in the search"] = (f"{dreams * settings['horizon']:,} steps", note)
    seconds = sum(time.seconds for time in run.stage_times().values())
    if seconds:
        shown["Computing time"] = (duration(seconds), "all stages together")
    text = (
        "V compresses each frame to a latent of a few numbers. M learns to predict the next "
        "latent, so it can dream. C is evolved in these dreams and then drives the real track."
    )
    pieces = [cards(shown)] if shown else [missing("The run is empty: run collect_data.py.")]
    return "glance", "At a glance", text, pieces


def mean_and_std(summary: dict[str, Any]) -> str:
    """The mean and standard deviation of scores, in points."""
    return format_score(summary["scores"], ".0f").replace("-", "−")


def drive(run: RunRecord) -> Section:
    """The video, and still pictures for print."""
    text = (
        "A real drive beside V's reconstruction of each frame, M's prediction one step ahead, and "
        "an open-loop dream that gets nothing but the actions."
    )
    pieces: list[Raw] = []
    for path in sorted(run.folder.glob("track_*.mp4")):
        megabytes = path.stat().st_size / 1e6
        caption = f"Track {path.stem.removeprefix('track_')}"
        if megabytes <= run.video_mb:
            pieces.append(video(path, caption))
        else:
            pieces.append(missing(f"{caption}: {path} has {megabytes:.0f} MB and is not embedded; "
                                  "raise --video-mb to include it."))  # fmt: skip
    recorded = sorted((run.folder / "episodes").glob("[!.]*.npz"))
    if recorded and "rnn" in run.models:
        episode = read_episode(recorded[0])
        pieces.append(dream_strips(run, episode, f"Track {episode.seed}"))
    return "drive", "The drive", text, pieces or [missing("No video yet: run test_agent.py.")]


def scores(run: RunRecord) -> Section:
    """Scores by track, as a chart and a table."""
    text = (
        "The sum of rewards on each real track: −0.1 for each step, and 1000 divided among the "
        "tiles of the track. CarRacing counts as solved at a mean of 900."
    )
    evaluation = run.evaluation
    if evaluation and evaluation["split"] == "test":
        text += " These are the test tracks: they were not used for any choice."
    if evaluation is None:
        return "scores", "Scores by track", text, [missing("No scores yet: run test_agent.py.")]
    other = evaluation["baseline"]
    head = ["track", "score", "steps", "lap finished"]
    columns = [evaluation[key] for key in ("tracks", "scores", "steps", "finished")]
    columns[0] = [str(track) for track in columns[0]]
    if other:
        head.append(f"{other['driver']} driving")
        columns.append(other["scores"])
    rows = list(zip(*columns, strict=True))
    listing = details(f"All {len(rows)} tracks", table(head, rows))
    return "scores", "Scores by track", text, [score_chart(evaluation), listing]


def score_chart(evaluation: dict[str, Any]) -> Raw:
    """A dot for each track, the best at the top, over the mean and its interval."""
    figure, axes = axes_of_chart()
    values, other = np.array(evaluation["scores"]), evaluation["baseline"]
    order = np.argsort(values)
    rows = np.arange(len(values))
    figure.set_size_inches(4.8, float(np.clip(0.9 + 0.24 * len(values), 2.2, 7)))
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x")
    if None not in evaluation["interval"]:
        axes.axvspan(*evaluation["interval"], color=GRID, lw=0)
    axes.axvline(evaluation["mean"], color=MUTED, lw=1)
    if other:
        baseline_scores = np.array(other["scores"])[order]
        axes.plot(baseline_scores, rows, "x", color=COLORS[1], label=f"{other['driver']} driving")
    axes.plot(values[order], rows, "o", color=COLORS[0], label="the agent")
    by_name = len(values) <= TRACKS_BY_NAME
    names = [str(evaluation["tracks"][i]) for i in order]
    axes.set_yticks(rows if by_name else [], names if by_name else [])
    axes.set(xlabel="score", ylabel="track" if by_name else f"{len(values)} tracks")
    figure.legend(loc="outside upper left", ncols=2, fontsize=9, frameon=False)
    words = f"Scores on {len(values)} tracks, mean {mean_and_std(evaluation)}"
    return chart("Line: mean. Band: 95% interval of the mean", figure, words)


def evolution(run: RunRecord) -> Section:
    """The evolution of C."""
    text = (
        "CMA-ES samples controllers and evaluates them in dreams. At intervals the mean of its "
        "distribution is saved and drives real validation tracks; the best saved mean is the agent."
    )
    found = metric_charts(run, "controller", CONTROLLER_PANELS, "generation")
    pieces = [found] if found else [missing("No metrics of a search yet: run train_dream.py.")]
    rounds = metric_charts(run, "rounds", ROUND_PANELS, "round")
    if rounds:
        pieces += [heading("Rounds of Sim2Real2Sim: learning from its own drives"), rounds]
    return "evolution", "Evolution in the dream", text, pieces
