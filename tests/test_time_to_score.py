"""benchmarks.time_to_score: its table, and a rehearsal of our pipeline and of PPO."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.time_to_score.pipeline import Pipeline
from benchmarks.time_to_score.results import Point, draw, read_curve, table
from utils.io.records import read_records

ROOT = Path(__file__).parents[1]


def test_the_table_has_the_first_time_above_a_level_and_the_last_score_before_a_minute(
    tmp_path: Path,
) -> None:
    curves = {
        "ours": [Point(300.0, 1_000, [400.0, 700.0]), Point(2_000.0, 5_000, [850.0, 950.0])],
        "ppo": [Point(630.0, 9_000, [100.0]), Point(1_230.0, 18_000, [510.0])],
    }
    lines = table(curves, finished=["ours"]).splitlines()
    assert lines[0].split(" | ")[1:4] == ["to 500", "to 800", "to 900"]
    assert lines[2] == (
        "| ours | 5 min, 1,000 frames | 33 min, 5,000 frames | 33 min, 5,000 frames | "
        "550 ± 150 | 900 ± 50 | 900 ± 50 | 900 ± 50, 33 min |"
    )
    # 630 s still count as 10 minutes. PPO has not been trained for 60 minutes.
    assert lines[3] == "| ppo | 20 min, 18,000 frames | – | – | 100 ± 0 | – | – | 510 ± 0, 20 min |"
    draw(curves, tmp_path / "curves.svg")
    assert (tmp_path / "curves.svg").read_text().rstrip().endswith("</svg>")


def rehearse(folder: Path, *flags: str) -> str:
    """Run the rehearsal; returns what it printed."""
    command = "-m benchmarks.time_to_score --rehearse --tracks 2 --every 0.05 --output-dir"
    done = subprocess.run(
        [sys.executable, *command.split(), str(folder), *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_our_pipeline_stops_when_its_time_is_over_and_resumes(tmp_path: Path) -> None:
    commands = "collect_data.py --mode recovery --episodes 2 --max-steps 30 --workers 1"
    pipeline = Pipeline(tmp_path, commands, range(1), minutes=0.01)
    pipeline.run()
    stopped = pipeline.progress()
    assert stopped["done"] == 0 and stopped["seconds"] > 0.6
    pipeline.run()  # the time is over already
    assert pipeline.progress() == stopped
    pipeline.limit = 300.0
    pipeline.run()
    done = pipeline.progress()
    assert done["done"] == 1 and done["seconds"] > stopped["seconds"]
    assert pipeline.frames() == (60, 0)
    # A kept drive that validated an agent is counted there, not here.
    (rollouts := tmp_path / "data" / "rollouts").joinpath("recovery").rename(rollouts / "on-policy")
    assert pipeline.frames() == (0, 0)


def test_a_rehearsal_draws_every_curve_and_resumes(tmp_path: Path) -> None:
    pytest.importorskip("stable_baselines3", reason="needs requirements/benchmarks.txt")
    rehearse(tmp_path, "--curves", "ours", "--minutes", "10")
    [ours] = read_records(tmp_path / "ours" / "scores.jsonl")
    assert len(ours["scores"]) == 2 and ours["frames"] > ours["collected"] == 180
    minutes, before, done = 0.05, 0, 0.0
    for _ in range(2):
        text = rehearse(tmp_path, "--curves", "ppo", "ppo-dream", "--minutes", str(minutes))
        assert "| ppo-dream |" in text
        ppo = read_records(tmp_path / "ppo" / "scores.jsonl")
        assert ppo[-1]["seconds"] >= 60 * minutes and len(ppo[-1]["scores"]) == 2
        assert ppo[-1]["frames"] > before
        before, done, minutes = ppo[-1]["frames"], minutes, ppo[-1]["seconds"] / 60 + 0.05
    assert [record["frames"] for record in ppo] == sorted({record["frames"] for record in ppo})
    [trained, *_] = read_records(tmp_path / "ppo-dream" / "scores.jsonl")
    [dream, *_] = read_curve(tmp_path / "ppo-dream")
    assert dream.frames == 180  # those that V and M learned from
    assert trained["seconds"] < dream.seconds < trained["seconds"] + ours["seconds"]
    assert (tmp_path / "time_to_score.svg").read_text().rstrip().endswith("</svg>")
    rehearse(tmp_path, "--curves", "ppo", "--minutes", str(done))  # nothing is left to do
    assert read_records(tmp_path / "ppo" / "scores.jsonl") == ppo
