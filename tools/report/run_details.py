"""Sections of the report about how the run was made: data, model settings, sizes and times."""

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
from tools.report.run_record import RecordedDrive, RunRecord, StageTime, size_of
from utils.data.episodes import dataset_fingerprint, read_episode
from utils.data.splits import MODES
from utils.io.checkpoints import count_parameters
from utils.io.files import sha256_of

PARTS = {"vae": "V, the vision model", "rnn": "M, the memory", "controller": "C, the controller"}
SHOWN_FRAMES = 8  # frames shown of an episode
# Stage -> (what it does, its files in the data folder, its files in the run folder).
STAGES: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "collect_data": ("collect episodes", ("rollouts",), ()),
    "run_vae_training": ("train V", (), ("vae.eqx", "vae.training.eqx")),
    "process_data": ("encode frames", ("latents",), ()),
    "train_rnn": (
        "train M",
        (),
        ("rnn.eqx", "rnn.training.eqx", "dream_rnn.eqx", "dream_rnn.training.eqx"),
    ),
    "train_dream": (
        "evolve C in dreams",
        (),
        ("controller.eqx", "controller.training.eqx", "snapshots", "starts.eqx"),
    ),
    "test_agent": ("test on real tracks", (), ("evaluation.json", "episodes")),
}


def data(run: RunRecord) -> Section:
    """The episodes by mode."""
    text = (
        "All data that V and M are trained on. One episode in ten is held out for validation "
        "losses."
    )
    if not run.drives:
        nothing = missing(f"No episodes in {run.data_dir / 'rollouts'}: set --data-dir.")
        return "data", "Data", text, [nothing]
    by_mode = {mode: [d for d in run.drives if d.entry.mode == mode] for mode in MODES}
    by_mode = {mode: drives for mode, drives in by_mode.items() if drives}
    head = [
        "mode",
        "episodes",
        "held out",
        "steps",
        "mean score",
        "laps finished",
        "left playfield",
    ]
    rows = [_row(mode, drives) for mode, drives in by_mode.items()]
    if len(rows) > 1:
        rows.append(_row("all", run.drives))
    pieces = [table(head, rows), _freshness(run), _score_chart(by_mode)]
    rows_of_frames = {mode: _frames_of(drives) for mode, drives in by_mode.items()}
    pieces.append(strips(rows_of_frames, [], "Frames of one episode of each mode"))
    return "data", "Data", text, pieces


def _frames_of(drives: list[RecordedDrive]) -> np.ndarray:
    episode = read_episode(drives[len(drives) // 2].entry.path)
    moments = np.linspace(0, len(episode.actions), SHOWN_FRAMES + 1).astype(int)[1:]
    return episode.frames[moments]


def _row(name: str, drives: list[RecordedDrive]) -> list[Any]:
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
    same = "exactly these episodes" if learned == now else "other episodes than these"
    return Raw(f"<p>V was trained on {same}.</p>")


def _score_chart(by_mode: dict[str, list[RecordedDrive]]) -> Raw:
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
    return chart("Score of each episode", figure, "Scores of the episodes of each mode")


def model_settings(run: RunRecord) -> Section:
    """Settings and sizes of V, M and C."""
    text = "The settings that each model was trained with, from the header of its checkpoint."
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


def stages(run: RunRecord) -> Section:
    """Size on disk and computing time of every stage."""
    text = (
        "Times are the sums over all runs of a stage. A run that was killed by SIGKILL or a power "
        "cut is counted without its time."
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
        pieces.append(missing("No times were recorded."))
    return "stages", "Sizes and times", text, pieces


def _time_cells(time: StageTime | None) -> list[Any]:
    if time is None:
        return [None, None]
    runs = f"{time.runs} + {time.killed} killed" if time.killed else time.runs
    return [duration(time.seconds) if time.runs else None, runs]


def megabytes(size: int) -> str:
    """A size in bytes as text, in megabytes."""
    return f"{size / 1e6:,.1f} MB" if size else "–"
