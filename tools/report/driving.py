"""The report's sections on the driver: at a glance, the film, scores by track, the search for C."""

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
    film,
    heading,
    missing,
    show,
    table,
)
from tools.report.run_record import RunRecord
from utils.data.episodes import read_episode
from utils.runtime import format_number
from utils.viz.video import FRAMES_PER_SECOND

TRACKS_BY_NAME = 24  # more tracks than that are charted without their names

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
    """The figures to be seen first."""
    evaluation, steps = run.evaluation, sum(drive.entry.steps for drive in run.drives)
    shown = {}
    if evaluation:
        low, high = (format_number(bound, ".0f") for bound in evaluation["interval"])
        tracks = f"{len(evaluation['scores'])} {evaluation['split'] or 'chosen'} tracks"
        note = f"mean ± deviation, {tracks}; the mean is within {low} … {high} (95%)"
        shown["Real score"] = (mean_and_std(evaluation), note)
        if evaluation["baseline"]:
            other = evaluation["baseline"]
            driver = f"{other['driver'].capitalize()} driving"
            shown[driver] = (mean_and_std(other), "on the same tracks")
    if run.drives:
        minutes = f"{steps / FRAMES_PER_SECOND / 60:.0f} minutes at the wheel"
        note = f"{len(run.drives)} drives, {minutes}"
        shown["Seen of the real track"] = (f"{steps:,} steps", note)
    if "controller" in run.models:
        settings = run.models["controller"][0].settings
        generations = sum("best" in record for record in run.metrics("controller"))
        dreams = generations * settings["candidates"] * settings["dreams"]
        note = f"{dreams:,} dreams, {generations} generations"
        shown["Dreamed"] = (f"{dreams * settings['horizon']:,} steps", note)
    seconds = sum(time.seconds for time in run.stage_times().values())
    if seconds:
        shown["Computing time"] = (duration(seconds), "all stages together")
    text = (
        "V turns each frame into a few numbers, M learns to predict them and so can dream, and C "
        "is evolved inside these dreams. Then it is put on the real track."
    )
    pieces = [cards(shown)] if shown else [missing("Nothing is there yet: run collect_data.py.")]
    return "glance", "At a glance", text, pieces


def mean_and_std(summary: dict[str, Any]) -> str:
    """The mean and standard deviation of scores, in points."""
    return f"{show(round(summary['mean']))} ± {summary['std']:.0f}"


def drive(run: RunRecord) -> Section:
    """The film, and the same as pictures for paper."""
    text = (
        "A real drive, beside what V makes of each frame, what M expected it to be one step "
        "earlier, and an open-loop dream that is told only the actions. The score counts up."
    )
    pieces: list[Raw] = []
    for path in sorted(run.folder.glob("track_*.mp4")):
        megabytes = path.stat().st_size / 1e6
        caption = f"Track {path.stem.removeprefix('track_')}"
        if megabytes <= run.video_mb:
            pieces.append(film(path, caption))
        else:
            pieces.append(missing(f"{caption}: {path} has {megabytes:.0f} MB and stays outside; "
                                  "--video-mb raises the limit."))  # fmt: skip
    filmed = sorted((run.folder / "episodes").glob("[!.]*.npz"))
    if filmed and "rnn" in run.models:
        episode = read_episode(filmed[0])
        pieces.append(dream_strips(run, episode, f"Track {episode.seed}"))
    return "drive", "The drive", text, pieces or [missing("No film yet: run test_agent.py.")]


def scores(run: RunRecord) -> Section:
    """Scores by track, charted and as a table."""
    text = (
        "The sum of rewards on each real track: −0.1 a step, and 1000 shared out among a track's "
        "tiles; 900 is called solved."
    )
    evaluation = run.evaluation
    if evaluation and evaluation["split"] == "test":
        text += " These tracks served this report alone; no choice was made by them."
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
    """A dot for each track, best at the top; mean and its interval behind."""
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
        theirs = np.array(other["scores"])[order]
        axes.plot(theirs, rows, "x", color=COLORS[1], label=f"{other['driver']} driving")
    axes.plot(values[order], rows, "o", color=COLORS[0], label="the agent")
    by_name = len(values) <= TRACKS_BY_NAME
    names = [str(evaluation["tracks"][i]) for i in order]
    axes.set_yticks(rows if by_name else [], names if by_name else [])
    axes.set(xlabel="score", ylabel="track" if by_name else f"{len(values)} tracks")
    figure.legend(loc="outside upper left", ncols=2, fontsize=9, frameon=False)
    mean, std = evaluation["mean"], evaluation["std"]
    words = f"Scores on {len(values)} tracks, mean {mean:.0f}, standard deviation {std:.0f}"
    return chart("Line: mean. Band: where the mean lies, 95%", figure, words)


def evolution(run: RunRecord) -> Section:
    """The search for C."""
    text = (
        "CMA-ES proposes controllers, dreams judge them. Every so often the distribution's mean "
        "is saved and driven on real validation tracks; the best of these is the agent."
    )
    found = metric_charts(run, "controller", CONTROLLER_PANELS, "generation")
    pieces = [found] if found else [missing("No search yet: run train_dream.py.")]
    rounds = metric_charts(run, "rounds", ROUND_PANELS, "round of Sim2Real2Sim")
    if rounds:
        pieces += [heading("Rounds of learning from its own drives"), rounds]
    return "evolution", "Evolution in the dream", text, pieces
