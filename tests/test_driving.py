"""Drives as tasks: the fast drawing changes nothing, and identity decides every byte."""

import dataclasses
from pathlib import Path

import pytest

from utils.driving import Drive, run_drive
from utils.tracks import VALIDATION


@pytest.mark.parametrize("driver", ["scripted", "recovery", "random"])
def test_both_drawings_give_the_same_score_and_bytes(tmp_path: Path, driver: str) -> None:
    paths = {name: tmp_path / f"{name}.npz" for name in ("fast", "gymnasium")}
    outcomes = [
        run_drive(Drive(VALIDATION[3], driver, max_steps=60, environment=name, output=path))
        for name, path in paths.items()
    ]
    assert outcomes[0] == outcomes[1]
    assert outcomes[0].steps == 60
    assert paths["fast"].read_bytes() == paths["gymnasium"].read_bytes()


def test_noise_follows_from_mode_seed_and_track(tmp_path: Path) -> None:
    drive = Drive(VALIDATION[0], "recovery", max_steps=30, output=tmp_path / "a.npz")
    again = dataclasses.replace(drive, output=tmp_path / "b.npz")
    other = dataclasses.replace(drive, seed=1, output=tmp_path / "c.npz")
    for task in (drive, again, other):
        run_drive(task)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert (tmp_path / "a.npz").read_bytes() != (tmp_path / "c.npz").read_bytes()
