"""The three trackers that show a metrics file as curves; each package is optional.

Each class takes the `Curves` of a metrics file and brings its service to the state of that file:
no step is missing, and none is there twice.
"""

import dataclasses
import importlib
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from utils.io.records import read_metrics

PROJECT = "world-models"  # in W&B, unless WANDB_PROJECT is set, and in Trackio
POSITIONS = ("step", "first", "stage")  # keys of a record that are not metrics
NETWORK_SECONDS = 60  # that W&B may wait for the network, at the start and at the end


@dataclasses.dataclass(frozen=True)
class Curves:
    """The curves of one metrics file, and how a tracker names them."""

    path: Path  # RUN_DIR/KIND.metrics.jsonl
    config: Mapping[str, Any]  # the training's settings and inputs
    id: str  # of the training; a resumed or continued training keeps it

    @property
    def kind(self) -> str:
        """vae, rnn or controller."""
        return self.path.name.split(".")[0]

    @property
    def run(self) -> str:
        """The name of the run folder."""
        return self.path.parent.resolve().name

    def values(self, record: Mapping[str, Any]) -> dict[str, float]:
        """The numbers in a record, by the names of their curves; lists are left out.

        Each stage of the selection in train_dream.py has curves of its own, since all stages score
        the same generations.
        """
        stage = f"stage_{record['stage']}/" if "stage" in record else ""
        return {
            f"{self.kind}/{stage}{name}": value
            for name, value in record.items()
            if isinstance(value, int | float) and name not in POSITIONS
        }


class Tracker(Protocol):
    """A service that shows curves. The constructor brings it to the state of the metrics file."""

    def log(self, record: dict[str, Any]) -> None:
        """Add a record that has just been appended to the metrics file."""

    def close(self, failed: bool) -> None:
        """Flush what is pending."""


class TensorBoard:
    """An event file in RUN_DIR/tensorboard/KIND; `tensorboard --logdir RUN_DIR` shows it."""

    def __init__(self, curves: Curves):
        self.curves = curves
        self.folder = curves.path.parent / "tensorboard" / curves.kind
        self.events = importlib.import_module("tensorboard.compat.proto.event_pb2")
        self.summaries = importlib.import_module("tensorboard.compat.proto.summary_pb2")
        self.writers = importlib.import_module("tensorboard.summary.writer.record_writer")
        self._rewrite()

    def log(self, record: dict[str, Any]) -> None:
        """Add a record."""
        if record["step"] < self.step:  # TensorBoard drops points if steps go backwards
            self._rewrite()
        else:
            self._append(self._event(record))

    def close(self, failed: bool) -> None:
        """Nothing to do: no file stays open."""

    def _rewrite(self) -> None:
        """Replace the event file by one with all records, ordered by step."""
        records = sorted(read_metrics(self.curves.path), key=lambda record: record["step"])
        self.folder.mkdir(parents=True, exist_ok=True)
        for old in self.folder.glob("events.out.tfevents.*"):
            old.unlink()
        # A running TensorBoard would go on reading the old file if the new one had its name.
        self.path = self.folder / f"events.out.tfevents.{time.time_ns()}.{self.curves.id}"
        self._append(
            self.events.Event(file_version="brain.Event:2"),
            # Makes a running TensorBoard discard what it has read.
            self.events.Event(session_log=self.events.SessionLog(status="START")),
            *map(self._event, records),
        )

    def _event(self, record: dict[str, Any]) -> Any:
        values = [
            self.summaries.Summary.Value(tag=name, simple_value=value)
            for name, value in self.curves.values(record).items()
        ]
        return self.events.Event(
            step=record["step"], summary=self.summaries.Summary(value=values), wall_time=time.time()
        )

    def _append(self, *events: Any) -> None:
        with open(self.path, "ab") as file:
            writer = self.writers.RecordWriter(file)
            for event in events:
                writer.write(event.SerializeToString())
                self.step = event.step


class WeightsAndBiases:
    """A run of W&B; its local files are in RUN_DIR/wandb. WANDB_MODE=offline needs no network.

    W&B's own step is the number of a record in the metrics file, because it must not decrease.
    """

    def __init__(self, curves: Curves):
        self.curves, folder = curves, curves.path.parent
        wandb = importlib.import_module("wandb")
        # Offline, the run is written anew: files of an earlier process cannot be appended to.
        for old in folder.glob(f"wandb/offline-run-*-{curves.id}"):
            shutil.rmtree(old)
        settings = wandb.Settings(
            console="off", init_timeout=NETWORK_SECONDS, finish_timeout=NETWORK_SECONDS
        )
        try:
            self.run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", PROJECT),
                dir=folder,
                id=curves.id,
                resume="allow",
                name=f"{curves.run}/{curves.kind}",
                group=curves.run,
                job_type=curves.kind,
                config=dict(curves.config),
                settings=settings,
            )
        except wandb.Error as error:  # no network, or no key
            raise ConnectionError(str(error)) from error
        self.run.define_metric("*", step_metric="step")
        self.records = 0
        for record in read_metrics(curves.path):
            self.log(record)

    def log(self, record: dict[str, Any]) -> None:
        """Add a record, unless the server has it from before the training was interrupted."""
        if self.records >= self.run.starting_step:
            values = self.curves.values(record) | {"step": record["step"]}
            self.run.log(values, step=self.records)
        self.records += 1

    def close(self, failed: bool) -> None:
        """Upload the rest."""
        self.run.finish(exit_code=int(failed))


class Trackio:
    """A run of Trackio in its local database; `trackio show` shows it."""

    def __init__(self, curves: Curves):
        self.curves = curves
        self.trackio = trackio = importlib.import_module("trackio")
        for variable in ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"):
            if variable in os.environ:
                raise ValueError(f"unset {variable}: the curves are kept in the local database")
        name = f"{curves.run}/{curves.kind} {curves.id}"
        for old in self._runs(trackio):
            if old.name == name:
                old.delete()
        self.run = trackio.init(
            project=PROJECT, name=name, group=curves.run, config=dict(curves.config), embed=False
        )
        for record in read_metrics(curves.path):
            self.log(record)

    def log(self, record: dict[str, Any]) -> None:
        """Add a record."""
        self.run.log(self.curves.values(record), step=record["step"])

    def close(self, failed: bool) -> None:
        """Write what is pending."""
        self.trackio.finish()  # not run.finish(), which Trackio would repeat when Python exits

    @staticmethod
    def _runs(trackio: Any) -> list[Any]:
        try:
            return list(trackio.Api().runs(PROJECT))
        except ValueError:  # there is no such project yet
            return []
