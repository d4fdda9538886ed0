"""Figures of metrics: over the rounds of several runs, and over steps."""

import json
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from tools import rounds
from tools.rounds import METRICS_NAME, TEST, Settings, rounds_of
from utils.errors import UserError
from utils.viz import figures


def write_run(folder: Path, means: list[float], test: float | None = None) -> None:
    """A run folder with rounds of two drives each, the second one lost in round 0."""
    folder.mkdir(parents=True)
    records = [
        {
            **{"step": number, "mean": mean, "low": mean - 5, "high": mean + 5},
            **{"scores": [mean, mean], "lost": int(number == 0), "dream_score": None},
            **{"lap_steps": 900.0 - number},
        }
        for number, mean in enumerate(means)
    ]
    (folder / METRICS_NAME).write_text("".join(json.dumps(record) + "\n" for record in records))
    if test is not None:
        evaluation = {"mean": test, "interval": [test - 1, test + 1], "scores": [test] * 4}
        report = {"evaluation": {**evaluation, "lost": [True, False, False, False]}}
        (folder / "reproduce").mkdir()
        (folder / "reproduce" / "report.json").write_text(json.dumps({**report, "lap_steps": 800}))


@pytest.fixture
def drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Figure:
    """The figure of one run that is tested, and of another with a round more that is not."""
    write_run(tmp_path / "a", [700.0, 900.0], test=910.0)
    write_run(tmp_path / "b", [600.0, 800.0, 850.0])
    figures: list[Any] = []
    monkeypatch.setattr(rounds, "save_figure", lambda figure, path: figures.append((figure, path)))
    rounds.main(Settings(run_dir=tmp_path))
    [(figure, path)] = figures
    assert path == tmp_path / "rounds.png"
    return figure


def test_a_finished_run_has_a_last_point_for_its_test(tmp_path: Path) -> None:
    write_run(tmp_path / "a", [700.0, 900.0], test=910.0)
    first, second, test = rounds_of(tmp_path / "a")
    assert [first["step"], second["step"], test["step"]] == [0, 1, TEST]
    assert [first["lost_percent"], second["lost_percent"], test["lost_percent"]] == [50, 0, 25]
    assert (test["mean"], test["low"], test["high"], test["lap_steps"]) == (910, 909, 911, 800)


def test_each_run_is_a_line_over_the_rounds(drawn: Figure) -> None:
    score = drawn.axes[0]
    lines = [[list(line.get_xdata()), list(line.get_ydata())] for line in score.lines]
    assert lines[0] == [[0, 1], [700, 900]] and lines[2] == [[0, 1, 2], [600, 800, 850]]
    [[place], value] = lines[1]
    assert 2.5 < place < 3.5 and value == [910]
    assert [tick.get_text() for tick in score.get_xticklabels()] == ["0", "1", "2", TEST]
    legend = score.get_legend()
    assert legend is not None and [text.get_text() for text in legend.get_texts()] == ["a", "b"]


def test_what_was_not_measured_is_not_drawn(drawn: Figure) -> None:
    dream = drawn.axes[1]
    assert [len(line.get_xdata()) for line in dream.lines] == [0, 0]


def test_a_folder_without_runs_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no folder in .* has rounds\.metrics\.jsonl"):
        rounds.main(Settings(run_dir=tmp_path))


def test_a_curve_shows_the_last_record_of_each_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A choice among means comes back to the best ones."""
    drawn: list[Figure] = []
    monkeypatch.setattr(figures, "save_figure", lambda figure, path: drawn.append(figure))
    records = [{"step": 10, "real": 700.0}, {"step": 20, "real": 900.0}, {"step": 15, "best": 1.0}]
    records.append({"step": 10, "real": 800.0})
    figures.plot_curves(tmp_path / "curves.png", records, {"real score": ("real",)})
    (line,) = drawn[0].axes[0].lines
    assert [list(values) for values in line.get_data()] == [[10, 20], [800, 900]]
