"""--track: curves equal the metrics file, also after a kill; a tracker never stops a training."""

import json
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scripts import KILL, Workshop

from utils.errors import UserError
from utils.io import tracking
from utils.io.checkpoints import Header, read_header
from utils.io.records import Metrics, append_record, read_metrics, read_records
from utils.io.trackers import Curves
from utils.io.tracking import TrackingSettings, track_finished, tracked

Points = dict[tuple[str, int], list[float]]  # the values of a curve at a step; one, if all is well
INSTALL = "pip install -r requirements/track.txt"
BEGUN = Header("vae", {"latent": 2}, {"batch": 4}, {"data": "a"}, {"step": 0, "first": 0})
SCRIPTS = {
    "vae": ("run_vae_training.py", ["data/rollouts"], ["--save-seconds", "0"]),
    "rnn": ("train_rnn.py", ["data/latents", "run/vae.eqx"], ["--save-seconds", "0"]),
    "controller": (
        "train_dream.py",
        ["data/latents", "run/vae.eqx", "run/rnn.eqx"],
        ["--save-every", "1"],
    ),
}


def expected(path: Path) -> Points:
    """Every number of a metrics file, read without the code under test."""
    points: Points = {}
    kind = path.name.split(".")[0]
    for line in path.read_text().splitlines():
        record = json.loads(line)
        step, stage = record.pop("step"), record.pop("stage", None)
        record.pop("first", None)
        prefix = f"{kind}/stage_{stage}/" if stage else f"{kind}/"
        for name, value in record.items():
            if isinstance(value, int | float):
                points.setdefault((prefix + name, step), []).append(np.float32(value).item())
    return points


# --- what each tracker holds ----------------------------------------------------------------------


def in_tensorboard(run_dir: Path, kind: str) -> Points:
    loaders = pytest.importorskip(
        "tensorboard.backend.event_processing.event_file_loader", reason=INSTALL
    )
    (path,) = (run_dir / "tensorboard" / kind).iterdir()
    points: Points = {}
    for event in loaders.LegacyEventFileLoader(str(path)).Load():
        for value in event.summary.value:
            points.setdefault((value.tag, event.step), []).append(value.simple_value)
    return points


def records_of(path: Path) -> Iterator[bytes]:
    """The records of a .wandb file: after 7 bytes, LevelDB's log format with blocks of 32 KiB."""
    data, at, parts = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if (1 << 15) - at % (1 << 15) < 7:
            at += (1 << 15) - at % (1 << 15)
        _, length, kind = struct.unpack_from("<IHB", data, at)
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


def in_wandb(run_dir: Path, kind: str) -> Points:
    messages = pytest.importorskip("wandb.proto.wandb_internal_pb2", reason=INSTALL)
    id = id_of(run_dir, kind)
    (path,) = run_dir.glob(f"wandb/offline-run-*/run-{id}.wandb")
    points: Points = {}
    for data in records_of(path):
        items = messages.Record.FromString(data).history.item
        row = {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items}
        for name, value in row.items():
            if name.startswith(f"{kind}/"):
                points.setdefault((name, row["step"]), []).append(np.float32(value).item())
    return points


def in_trackio(run_dir: Path, kind: str) -> Points:
    pytest.importorskip("trackio", reason=INSTALL)
    code = (
        "import json, sys, trackio; from trackio.sqlite_storage import SQLiteStorage as db\n"
        "names = [run.name for run in trackio.Api().runs('world-models')]\n"
        "print(json.dumps({name: db.get_logs('world-models', name) for name in names}))"
    )
    environment = {"TRACKIO_DIR": str(run_dir.parent / "trackio"), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    (logs,) = json.loads(done.stdout.splitlines()[-1]).values()
    points: Points = {}
    for row in logs:
        for name, value in row.items():
            if name.startswith(f"{kind}/"):
                points.setdefault((name, row["step"]), []).append(np.float32(value).item())
    return points


def id_of(run_dir: Path, kind: str) -> str:
    entries = read_records(run_dir / "tracking.jsonl")
    return [entry["id"] for entry in entries if entry["metrics"] == f"{kind}.metrics.jsonl"][-1]


# --- whole trainings ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("service", "kind", "read"),
    [
        ("tensorboard", "vae", in_tensorboard),
        ("tensorboard", "rnn", in_tensorboard),
        ("tensorboard", "controller", in_tensorboard),
        ("wandb", "vae", in_wandb),
        ("trackio", "vae", in_trackio),
    ],
)
def test_a_killed_training_continues_its_curves(
    workshop: Workshop, tmp_path: Path, service: str, kind: str, read: Any
) -> None:
    pytest.importorskip(service, reason=INSTALL)
    script, inputs, flags = SCRIPTS[kind]
    again = workshop.copy(tmp_path, *inputs)
    again.environment = {
        **workshop.environment,
        "WANDB_MODE": "offline",
        "TRACKIO_DIR": str(tmp_path / "trackio"),
    }
    flags = [*flags, "--track", service]
    final, state = (again.run_dir / f"{kind}{end}.eqx" for end in ("", ".training"))
    again.stop_at_work(
        script, *flags, signal_number=KILL, is_at_work=state.exists, is_done=final.exists
    )
    id = id_of(again.run_dir, kind)
    assert "resuming after step" in again.succeed(script, *flags)
    metrics = again.run_dir / f"{kind}.metrics.jsonl"
    assert read(again.run_dir, kind) == expected(metrics)
    assert id_of(again.run_dir, kind) == id
    # The tracker changed neither the model nor the metrics.
    for name in (f"run/{kind}.eqx", f"run/{kind}.metrics.jsonl"):
        assert again.files(name) == workshop.files(name)
    assert "track" not in read_header(final).settings


def test_a_finished_training_can_be_tracked_later(workshop: Workshop, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason=INSTALL)
    again = workshop.copy(tmp_path, "data/latents", "run")
    for kind in ("rnn", "controller"):
        script, before = SCRIPTS[kind][0], again.files(f"run/{kind}.*")
        assert "is finished" in again.succeed(script, "--track", "tensorboard")
        points = in_tensorboard(again.run_dir, kind)
        assert points == expected(again.run_dir / f"{kind}.metrics.jsonl") != {}
        assert again.files(f"run/{kind}.*") == before


# --- the tracker and the metrics file -------------------------------------------------------------


class Recorder:
    """A tracker that keeps what it is given."""

    opened: list["Recorder"]

    def __init__(self, curves: Curves):
        self.curves, self.records = curves, read_metrics(curves.path)
        self.failed: bool | None = None
        self.opened.append(self)

    def log(self, record: dict[str, Any]) -> None:
        self.records.append(record)

    def close(self, failed: bool) -> None:
        self.failed = failed


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Recorder]:
    """The trackers that are opened in place of TensorBoard."""
    monkeypatch.setattr(Recorder, "opened", [], raising=False)
    monkeypatch.setitem(tracking.TRACKERS, "tensorboard", Recorder)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    return Recorder.opened


def settings_in(folder: Path) -> TrackingSettings:
    return TrackingSettings(run_dir=folder, track="tensorboard")


def test_tensorboard_shows_a_selection_whose_steps_go_backwards(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason=INSTALL)
    path = tmp_path / "controller.metrics.jsonl"
    append_record(path, {"step": 1, "mean": 0.1, "note": None})
    metrics = Metrics(path, 1)
    with tracked(metrics, settings_in(tmp_path), BEGUN):
        metrics.append(step=2, mean=0.2, sigma=1)
        for stage, step in ((1, 1), (1, 2), (2, 2), (2, 1)):
            metrics.append(step=step, stage=stage, real=step / 3, scores=[1.0, 2.0])
    points = in_tensorboard(tmp_path, "controller")
    assert points == expected(path)
    steps = [step for name, step in points if name == "controller/stage_2/real"]
    assert steps == [1, 2]  # TensorBoard would drop a point after which a lower step comes
    assert points["controller/mean", 2] == [np.float32(0.2)]


@pytest.mark.parametrize(
    ("next_one", "same"),
    [
        (BEGUN, True),  # killed before its first state was saved
        (replace(BEGUN, progress={"step": 9, "first": 9}), True),  # continued with new episodes
        (replace(BEGUN, settings={"batch": 8}), False),  # from scratch with other settings
    ],
)
def test_a_training_keeps_its_id_while_its_records_stay(
    tmp_path: Path, opened: list[Recorder], next_one: Header, same: bool
) -> None:
    for begun in (BEGUN, next_one):
        with tracked(Metrics(tmp_path / "vae.metrics.jsonl", 0), settings_in(tmp_path), begun):
            pass
    first, second = (recorder.curves.id for recorder in opened)
    assert (first == second) == same
    track_finished(tmp_path / "vae.metrics.jsonl", settings_in(tmp_path))
    assert opened[-1].curves.id == second


def test_another_continuation_has_another_id(tmp_path: Path, opened: list[Recorder]) -> None:
    """Its records replace those that the tracker has, which cannot be taken back."""
    continued = replace(BEGUN, progress={"step": 9, "first": 9})
    for begun in (BEGUN, continued, BEGUN, replace(continued, inputs={"data": "b"})):
        with tracked(Metrics(tmp_path / "vae.metrics.jsonl", 0), settings_in(tmp_path), begun):
            pass
    ids = [recorder.curves.id for recorder in opened]
    assert len(set(ids[:3])) == 1 and ids[3] != ids[0]


def test_a_tracker_hears_how_a_training_ended(tmp_path: Path, opened: list[Recorder]) -> None:
    metrics = Metrics(tmp_path / "vae.metrics.jsonl", 0)
    with tracked(metrics, settings_in(tmp_path), BEGUN):
        metrics.append(step=1, mse=0.5)
    with pytest.raises(KeyboardInterrupt), tracked(metrics, settings_in(tmp_path), BEGUN):
        raise KeyboardInterrupt
    assert [recorder.failed for recorder in opened] == [False, True]
    assert opened[0].records == opened[1].records == [{"step": 1, "mse": 0.5}]


@pytest.mark.parametrize("broken", ["__init__", "log", "close"])
def test_a_tracker_that_fails_is_one_line(
    tmp_path: Path,
    opened: list[Recorder],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    broken: str,
) -> None:
    def fail(*_: object) -> None:
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(Recorder, broken, fail)
    metrics = Metrics(tmp_path / "vae.metrics.jsonl", 0)
    with tracked(metrics, settings_in(tmp_path), BEGUN):
        for step in range(1, 4):
            metrics.append(step=step, mse=0.5)
    assert [record["step"] for record in read_metrics(metrics.path)] == [1, 2, 3]
    (line,) = capsys.readouterr().err.splitlines()
    assert "TensorBoard failed: no route to host" in line and "rerun the same command" in line


def test_wandb_without_a_service_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("wandb", reason=INSTALL)
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))  # no key in ~/.netrc
    metrics = Metrics(tmp_path / "vae.metrics.jsonl", 0)
    with tracked(metrics, replace(settings_in(tmp_path), track="wandb"), BEGUN):
        metrics.append(step=1, mse=0.5)
    lines = [line for line in capfd.readouterr().err.splitlines() if "failed" in line]
    assert len(lines) == 1 and "Weights & Biases failed: " in lines[0]
    assert read_metrics(metrics.path) == [{"step": 1, "mse": 0.5}]


@pytest.mark.parametrize("service", ["tensorboard", "wandb", "trackio"])
def test_a_tracker_that_is_not_installed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, service: str
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    settings = TrackingSettings(run_dir=tmp_path, track=service)
    metrics = Metrics(tmp_path / "vae.metrics.jsonl", 0)
    with (
        pytest.raises(UserError, match=f"pip install {service}$"),
        tracked(metrics, settings, BEGUN),
    ):
        pass
    assert not (tmp_path / "tracking.jsonl").exists()
