"""Where points are lost, and recoveries from pushes: counts checked by hand."""

import math
from typing import Any

import numpy as np
import pytest

from tools.analysis.score_breakdown import (
    by_curvature,
    failed_at,
    failed_drives,
    is_lap_complete,
    missed_tiles,
    points_lost,
    push_recovery,
    wilson,
)
from tools.analysis.trace import RECOVERY_STEPS, Push, Trace, Trial, run_trial
from utils.data.splits import VALIDATION
from utils.sim.tasks import DriveBatch, DriveResult, DriveTask

STEPS = 1000


def scripted(track: int, max_steps: int = STEPS) -> DriveBatch:
    return DriveBatch((DriveTask(track, "scripted", max_steps),))


@pytest.fixture(scope="module")
def drives() -> dict[str, Trace]:
    """Whole laps of the script, and a driver that does not get round."""
    return {
        "scripted": run_trial(Trial(scripted(VALIDATION[2]), Push()))[0],
        "random": run_trial(Trial(DriveBatch((DriveTask(VALIDATION[2], "random", 500),)), Push()))[
            0
        ],
        "cut off": run_trial(Trial(scripted(VALIDATION[2], 300), Push()))[0],
    }


def test_the_points_lost_by_cause_sum_to_1000_minus_the_score(
    drives: dict[str, Trace],
) -> None:
    for trace in drives.values():
        lost = points_lost(trace)
        assert 1000 - sum(lost.values()) == pytest.approx(trace.result.score, abs=0.01)
    assert set(points_lost(drives["scripted"]).values()) == {
        0.0,
        drives["scripted"].result.steps / 10,
    }
    assert points_lost(drives["cut off"])["out_of_time"] > 300
    assert failed_at(drives["cut off"]) is None


def test_the_scripted_driver_loses_nothing_on_straights(drives: dict[str, Trace]) -> None:
    rows = by_curvature([drives["scripted"]])
    assert rows[0]["name"] == "straight"
    assert rows[0]["tiles"] > 100 and rows[0]["mean_speed"] > rows[-1]["mean_speed"] > 10
    for row in rows:
        assert row["passed_by"] == row["after_failure"] == row["out_of_time"] == 0
        assert row["drives_failed"] == 0
    assert sum(row["tiles"] for row in rows) == len(drives["scripted"].visited)


def trace_of(visited: list[int], steps: int, pushes: tuple[int, ...] = (), **outcome: Any) -> Trace:
    """A drive by hand over tiles of curvature 0.00, 0.01, 0.02 …, at 1, 2, 3 … units/s."""
    facts = {"lap_finished": False, "left_playfield": False, **outcome}
    wheels = np.full(steps, 4)
    wheels[210:230] = 0
    return Trace(
        DriveResult(track=5, score=0.0, steps=steps, **facts),
        np.arange(len(visited)) / 100,
        np.array(visited),
        np.arange(1.0, steps + 1),
        wheels,
        pushes,
    )


def test_a_drive_fails_at_its_last_new_tile() -> None:
    never = [-1] * 30
    trace = trace_of([0, 0, 10, -1, 30, 40, *never], steps=500)
    assert failed_at(trace) == 5
    (row,) = failed_drives([trace])
    assert (row["tile"], row["step"], row["speed"], row["curvature"]) == (5, 40, 40.0, 0.05)
    assert row["sharpest_nearby"] == 0.35  # tiles −3 to 13 of a closed line of 36
    counted = {name: np.flatnonzero(tiles).tolist() for name, tiles in missed_tiles(trace).items()}
    assert counted == {"passed_by": [3], "after_failure": list(range(6, 36)), "out_of_time": []}
    kinds = by_curvature([trace])  # 0, 0.01; 0.01, 0.02; 0.03, 0.04; 0.05, 0.06; 0.07 …
    assert [row["tiles"] for row in kinds] == [1, 2, 2, 2, 29]
    assert [row["passed_by"] for row in kinds] == [0, 0, 1, 0, 0]
    assert [row["drives_failed"] for row in kinds] == [0, 0, 0, 0, 1]
    assert kinds[1]["mean_speed"] == 10.0  # visited during the reset has no speed
    # Cut off while tiles still came, it ran out of time.
    early = trace_of([0, 0, 10, -1, 30, 40, *never], steps=100)
    assert failed_at(early) is None and missed_tiles(early)["out_of_time"].sum() == 30
    assert failed_at(trace_of([0, 0, 10, 20, *never], 50, left_playfield=True)) == 3


def test_a_complete_lap_with_a_missed_tile_is_not_a_failed_drive() -> None:
    trace = trace_of([0, *range(10, 300, 10), -1, *range(310, 400, 10)], steps=1000)
    assert is_lap_complete(trace) and failed_at(trace) is None
    assert missed_tiles(trace)["passed_by"].sum() == 1


def test_a_recovery_needs_new_tiles_after_the_settling_steps() -> None:
    # The first push brings a tile at once and none later, the second one after 80 steps.
    visited = [0, 10, 205, 480, *[-1] * 40]
    rows = push_recovery([trace_of(visited, 1000, (200, 400))], Push("spin", 3.0))
    assert (rows["pushes"], rows["recovered"]) == (2, 1)
    assert (rows["left_road"], rows["recovered_from_grass"]) == (1, 0)
    late = trace_of([0, 10, 200 + RECOVERY_STEPS + 1, *[-1] * 40], 1000, (200,))
    assert push_recovery([late], Push())["recovered"] == 0
    finished = trace_of([0, 10, 20], 230, (200,), lap_finished=True)
    assert push_recovery([finished], Push())["recovered"] == 1


def test_wilson_interval_matches_its_formula() -> None:
    n, share, z = 24, 18 / 24, 1.959964
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    assert wilson(18, n) == pytest.approx([centre - half, centre + half], abs=1e-6)
    assert wilson(0, 0) is None
