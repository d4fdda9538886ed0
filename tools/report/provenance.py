"""The report's sections on the record: the data, the settings, what was spent."""

from typing import Any

import numpy as np

from tools.report.page import (
    COLORS,
    Raw,
    Section,
    axes_of_chart,
    chart,
    details,
    duration,
    escape,
    heading,
    missing,
    strips,
    table,
)
from tools.report.run_record import Drive, RunRecord, StageTime, size_of
from utils.data.episodes import dataset_fingerprint, read_episode
from utils.data.splits import MODES
from utils.io.checkpoints import count_parameters
from utils.io.files import sha256_of

PARTS = {"vae": "V, the eye", "rnn": "M, the memory that dreams", "controller": "C, the driver"}
SHOWN_FRAMES = 8  # of an episode
# Stage -> what it does, and what it writes to the data folder and to the run folder.
STAGES: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "collect_data": ("drive", ("rollouts",), ()),
    "run_vae_training": ("learn to see", (), ("vae.eqx", "vae.training.eqx")),
    "process_data": ("encode", ("latents",), ()),
    "train_rnn": ("learn to predict", (), ("rnn.eqx", "rnn.training.eqx")),
    "train_dream": (
        "evolve in the dream",
        (),
        ("controller.eqx", "controller.training.eqx", "snapshots", "starts.eqx"),
    ),
    "test_agent": ("face reality", (), ("evaluation.json", "episodes")),
}


def data(run: RunRecord) -> Section:
    """What was driven, by mode."""
    text = (
        "Everything that V and M know of the real track. One drive in ten is held out: they never "
        "learn from it."
    )
    if not run.drives:
        nothing = missing(f"No episodes in {run.data_dir / 'rollouts'}: name --data-dir.")
        return "data", "Data", text, [nothing]
    by_mode = {mode: [d for d in run.drives if d.entry.mode == mode] for mode in MODES}
    by_mode = {mode: drives for mode, drives in by_mode.items() if drives}
    head = ["mode", "drives", "held out", "steps", "mean score", "laps finished", "left playfield"]
    rows = [_row(mode, drives) for mode, drives in by_mode.items()]
    if len(rows) > 1:
        rows.append(_row("all", run.drives))
    pieces = [table(head, rows), _freshness(run), _score_chart(by_mode)]
    rows_of_frames = {mode: _frames_of(drives) for mode, drives in by_mode.items()}
    pieces.append(strips(rows_of_frames, [], "Moments of one drive of each mode"))
    return "data", "Data", text, pieces


def _frames_of(drives: list[Drive]) -> np.ndarray:
    episode = read_episode(drives[len(drives) // 2].entry.path)
    moments = np.linspace(0, len(episode.actions), SHOWN_FRAMES + 1).astype(int)[1:]
    return episode.frames[moments]


def _row(name: str, drives: list[Drive]) -> list[Any]:
    return [
        name,
        len(drives),
        sum(drive.entry.held_out for drive in drives),
        sum(drive.entry.steps for drive in drives),
        round(float(np.mean([drive.score for drive in drives])), 1),
        sum(drive.lap_finished for drive in drives),
        sum(drive.left_playfield for drive in drives),
    ]


def _freshness(run: RunRecord) -> Raw:
    if "vae" not in run.models:
        return Raw("")
    learned = run.models["vae"][0].inputs["data"]
    now = dataset_fingerprint(drive.entry for drive in run.drives)
    same = "exactly these drives" if learned == now else "other drives than are there now"
    return Raw(f"<p>V was trained on {same}.</p>")


def _score_chart(by_mode: dict[str, list[Drive]]) -> Raw:
    figure, axes = axes_of_chart()
    figure.set_size_inches(4.8, 0.8 + 0.42 * len(by_mode))
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x")
    for row, drives in enumerate(by_mode.values()):
        values = np.sort([drive.score for drive in drives])
        spread = np.linspace(-0.22, 0.22, len(values)) if len(values) > 1 else [0.0]
        axes.plot(values, row + np.array(spread), ".", color=COLORS[0], alpha=0.6, markersize=5)
    axes.set_yticks(range(len(by_mode)), list(by_mode))
    axes.set(xlabel="score", ylim=(len(by_mode) - 0.5, -0.5))
    return chart("Score of each drive", figure, "Scores of the drives of each mode")


def model_settings(run: RunRecord) -> Section:
    """Settings and sizes of the three models."""
    text = "What each part was trained with, read from the headers of its checkpoint."
    pieces: list[Raw] = []
    for name, (header, model) in run.models.items():
        path = run.folder / f"{name}.eqx"
        sizes = ", ".join(f"{key} {value}" for key, value in header.sizes.items())
        pieces.append(heading(f"{PARTS[name]}: {count_parameters(model):,} parameters ({sizes})"))
        rows = [[key.replace("_", " "), value] for key, value in header.settings.items()]
        rows.append(["steps done", header.progress["step"]])
        digest = Raw(f"<p>sha256 <code>{escape(sha256_of(path))}</code></p>")
        pieces.append(details("Settings", table(["setting", "value"], rows), digest))
    if run.evaluation:
        versions = run.evaluation["versions"].items()
        pieces += [heading("Versions"), table(["package", "version"], [list(v) for v in versions])]
    return "settings", "Settings", text, pieces or [missing("No model yet.")]


def costs(run: RunRecord) -> Section:
    """Sizes and times of every stage."""
    text = (
        "Time is what the stages noted themselves, over all their runs; a run that was killed "
        "outright could not note its own."
    )
    times, rows, total = run.stage_times(), [], [0, 0.0]
    for stage, (purpose, of_data, of_run) in STAGES.items():
        paths = [run.data_dir / name for name in of_data] + [run.folder / name for name in of_run]
        if stage == "test_agent":
            paths += run.folder.glob("track_*")
        size, time = size_of(*paths), times.get(stage)
        seconds = time.seconds if time else 0.0
        total = [total[0] + size, total[1] + seconds]
        rows.append([f"{stage}.py", purpose, megabytes(size), *_time_cells(time)])
    rows.append(["all", "", megabytes(total[0]), duration(total[1]) if times else None, None])
    pieces = [table(["stage", "what it does", "size on disk", "time", "runs"], rows)]
    commands = [Raw(f"<p><code>{escape(time.last_command)}</code></p>") for time in times.values()]
    if commands:
        pieces.append(details("The last command of each stage", *commands))
    else:
        pieces.append(missing("No stage has noted its times: the run is older than that record."))
    return "costs", "Sizes and times", text, pieces


def _time_cells(time: StageTime | None) -> list[Any]:
    if time is None:
        return [None, None]
    runs = f"{time.runs} + {time.killed} killed" if time.killed else time.runs
    return [duration(time.seconds) if time.runs else None, runs]


def megabytes(size: int) -> str:
    """A size in bytes as a reader wants it."""
    return f"{size / 1e6:,.1f} MB" if size else "–"
