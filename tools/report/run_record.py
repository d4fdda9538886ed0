"""Everything that a run wrote: models, metrics, episodes, scores, sizes and times."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.data.episodes import EPISODE_SCHEMA, EpisodeFile, scan_files
from utils.errors import UserError
from utils.io import checkpoints
from utils.io.checkpoints import Header
from utils.io.npz import read_arrays
from utils.io.records import TIMES_NAME, read_metrics, read_records
from utils.io.renames import with_current_names

LOADERS = {
    "vae": checkpoints.load_vae,
    "rnn": checkpoints.load_rnn,
    "controller": checkpoints.load_controller,
}


@dataclass(frozen=True)
class RecordedDrive:
    """Summary of an episode file."""

    entry: EpisodeFile
    score: float
    lap_finished: bool
    left_playfield: bool


@dataclass(frozen=True)
class StageTime:
    """The time of a stage, summed over its runs."""

    seconds: float
    runs: int  # finished or interrupted
    killed: int  # killed without recording their time
    last_command: str


@dataclass(frozen=True)
class RunRecord:
    """The contents of a run folder and its data folder; missing parts are empty or None."""

    folder: Path
    data_dir: Path
    models: dict[str, tuple[Header, Any]]
    drives: list[RecordedDrive]
    evaluation: dict[str, Any] | None
    video_mb: float

    @classmethod
    def load(cls, folder: Path, data_dir: Path, video_mb: float) -> "RunRecord":
        """Read all files that exist. Raises UserError if one is damaged."""
        paths = {name: folder / f"{name}.eqx" for name in LOADERS}
        models = {name: LOADERS[name](path) for name, path in paths.items() if path.exists()}
        entries = scan_files(data_dir / "rollouts", EPISODE_SCHEMA)
        drives = [_drive_of(entry) for entry in entries]
        return cls(folder, data_dir, models, drives, read_evaluation(folder), video_mb)

    def metrics(self, part: str) -> list[dict[str, Any]]:
        """The metrics of a training, a record for each evaluated step."""
        return read_metrics(self.folder / f"{part}.metrics.jsonl")

    def stage_times(self) -> dict[str, StageTime]:
        """The times of all stages that ran on these folders, those of tools.iterate included."""
        folders = (self.data_dir, self.folder, *sorted(self.folder.glob("rounds/*")))
        records = [record for folder in folders for record in read_records(folder / TIMES_NAME)]
        return _stage_times(records)


def _drive_of(entry: EpisodeFile) -> RecordedDrive:
    arrays = read_arrays(entry.path, EPISODE_SCHEMA, ("rewards", "terminated", "lap_finished"))
    lap_finished = bool(arrays["lap_finished"])
    return RecordedDrive(
        entry=entry,
        score=float(arrays["rewards"].sum(dtype="float64")),
        lap_finished=lap_finished,
        left_playfield=bool(arrays["terminated"][-1]) and not lap_finished,
    )


def read_evaluation(folder: Path) -> dict[str, Any] | None:
    """The newest record of test_agent.py in a run folder. Raises UserError if it is damaged."""
    path = folder / "evaluation.json"
    if not path.exists():
        return None
    try:
        return with_current_names(json.loads(path.read_text()))
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}") from error


def _stage_times(records: list[dict[str, Any]]) -> dict[str, StageTime]:
    # Only the process that holds the lock of the folder writes: an end follows its own start.
    times: dict[str, StageTime] = {}
    for record in records:
        now = times.get(record["stage"], StageTime(0.0, 0, 0, ""))
        if "seconds" in record:
            seconds = now.seconds + record["seconds"]
            now = StageTime(seconds, now.runs + 1, now.killed - 1, now.last_command)
        else:
            command = " ".join(record["command"])
            now = StageTime(now.seconds, now.runs, now.killed + 1, command)
        times[record["stage"]] = now
    return times


def size_of(*paths: Path) -> int:
    """Total bytes of files and folders; missing ones count 0."""
    files = [file for path in paths for file in (path.rglob("*") if path.is_dir() else [path])]
    return sum(file.stat().st_size for file in files if file.is_file())
