"""Curves of a training in TensorBoard, Weights & Biases or Trackio: the flag --track.

The metrics file is the reference. When a training starts or resumes, the tracker is brought to the
state of that file. A tracker does not change a model, and one that fails does not stop a training.
The packages are optional: requirements/track.txt.
"""

import contextlib
import dataclasses
import importlib.util
import secrets
import sqlite3
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from utils.errors import UserError
from utils.io.checkpoints import Header
from utils.io.records import Metrics, append_record, read_records
from utils.io.trackers import Curves, TensorBoard, Tracker, Trackio, WeightsAndBiases
from utils.settings import CommonSettings, setting

IDS_NAME = "tracking.jsonl"  # in the run folder: the id of each training in W&B and Trackio
PACKAGES = {"tensorboard": "TensorBoard", "wandb": "Weights & Biases", "trackio": "Trackio"}
TRACKERS: dict[str, Callable[[Curves], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "trackio": Trackio,
}

# What a tracker raises when its files, its database, its service or the network fail.
FAILURES: tuple[type[Exception], ...] = (
    *(OSError, RuntimeError, ValueError, TypeError, LookupError, AttributeError),
    *(ImportError, sqlite3.Error),
)


@dataclasses.dataclass(frozen=True)
class TrackingSettings(CommonSettings):
    """The flag of the scripts that train."""

    track: str = setting(
        "none",
        "also send the metrics to this tracker (pip install -r requirements/track.txt)",
        choices=("none", *PACKAGES),
        changes_result=False,
    )


class Follower:
    """Feeds a tracker until it fails for the first time, which is one line on stderr."""

    def __init__(self, service: str, curves: Curves):
        self.service = service
        self.tracker: Tracker | None = None
        with self._failure_reported():
            self.tracker = TRACKERS[service](curves)

    def log(self, record: dict[str, Any]) -> None:
        """Pass a record on."""
        if self.tracker is not None:
            with self._failure_reported():
                self.tracker.log(record)

    def close(self, failed: bool = False) -> None:
        """Close the tracker. `failed`: an error or an interrupt ended the training."""
        if self.tracker is not None:
            with self._failure_reported():
                self.tracker.close(failed)

    @contextlib.contextmanager
    def _failure_reported(self) -> Iterator[None]:
        try:
            yield
        except FAILURES as error:
            self.tracker = None
            reason = " ".join(str(error).split()) or type(error).__name__
            tqdm.write(
                f"{PACKAGES[self.service]} failed: {reason}. The training does not need it; "
                "rerun the same command to complete the curves",
                sys.stderr,
            )


def open_tracker(path: Path, settings: TrackingSettings, begun: Header | None) -> Follower:
    """The tracker of `settings`, with the records in the metrics file `path`.

    `begun` describes a training that runs, as it began; None for one that is finished. Raises
    UserError if the package is not installed.
    """
    service = settings.track
    if importlib.util.find_spec(service) is None:
        raise UserError(f"--track {service} needs {PACKAGES[service]}: pip install {service}")
    ids = path.with_name(IDS_NAME)
    known = [entry for entry in read_records(ids) if entry.get("metrics") == path.name]
    last = known[-1] if known else {"metrics": path.name, "id": new_id(), "trainings": []}
    entry = last if begun is None else _with_training(last, dataclasses.asdict(begun))
    if entry not in known[-1:]:
        append_record(ids, entry)
    config = entry["trainings"][-1] if entry["trainings"] else {}
    return Follower(service, Curves(path, config, entry["id"]))


def new_id() -> str:
    """The id of a training in W&B and Trackio."""
    return secrets.token_hex(4)


def _with_training(entry: dict[str, Any], training: dict[str, Any]) -> dict[str, Any]:
    """The id of a metrics file and the trainings whose records it holds, with one more training.

    The id stays if no record differs from those that the tracker has: if the same training is
    repeated, which gives the same records, or if this one continues the others.
    """
    trainings, first = entry["trainings"], training["progress"]["first"]
    if training in trainings:
        return entry
    before = [other for other in trainings if other["progress"]["first"] < first]
    name = entry["id"] if before == trainings else new_id()
    return {**entry, "id": name, "trainings": [*before, training]}


@contextlib.contextmanager
def tracked(metrics: Metrics, settings: TrackingSettings, begun: Header) -> Iterator[None]:
    """Pass what is appended to `metrics` to the tracker of `settings`, if it names one."""
    if settings.track == "none":
        yield
        return
    follower, failed = open_tracker(metrics.path, settings, begun), True
    metrics.listener = follower.log
    try:
        yield
        failed = False
    finally:
        follower.close(failed)


def track_finished(path: Path, settings: TrackingSettings) -> None:
    """Send the metrics of a finished training to the tracker of `settings`, if it names one."""
    if settings.track != "none":
        open_tracker(path, settings, None).close()
