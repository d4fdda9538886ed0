"""The choice among saved means: who drives what, what is recorded, and that it resumes."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from train_dream import Settings
from utils.data.episodes import EpisodeFile
from utils.data.splits import SELECTION, VALIDATION
from utils.errors import UserError
from utils.io.records import Metrics, read_metrics
from utils.io.run_folder import AgentFiles
from utils.search import selection
from utils.search.selection import (
    Recording,
    columns,
    drive_each,
    finalists,
    own_tracks,
    recording_of,
    same_tracks,
    schedule,
    scored_means,
    select,
)
from utils.sim.tasks import DriveResult, DriveTask, batch_tasks


@pytest.mark.parametrize(
    ("means", "tracks", "expected"),
    [
        (24, 100, [(24, 8), (8, 24), (3, 68)]),
        (48, 100, [(48, 8), (16, 24), (6, 68)]),
        (2, 40, [(2, 8), (2, 24), (2, 8)]),
        (7, 8, [(7, 8)]),
        (7, 3, [(7, 3)]),
    ],
)
def test_a_third_stays_and_drives_three_times_as_many_tracks(
    means: int, tracks: int, expected: list[tuple[int, int]]
) -> None:
    stages = schedule(means, tracks)
    assert [(stage.agents, stage.last - stage.first) for stage in stages] == expected
    # No track serves twice.
    assert [t for s in stages for t in same_tracks(s, 0)] == list(VALIDATION[:tracks])
    # Recorded drives have tracks of their own, one after another.
    own = [t for s in stages for place in range(s.agents) for t in own_tracks(500)(s, place)]
    assert own == list(range(500, 500 + len(own)))


def test_recorded_drives_are_on_tracks_that_m_has_not_seen(tmp_path: Path) -> None:
    def entry(mode: str, seed: int) -> EpisodeFile:
        return EpisodeFile(tmp_path / mode / f"{seed}.npz", seed, 10, "", "{}")

    settings = Settings(data_dir=tmp_path, seed=5, record=True)
    entries = [entry("random", 3), entry("on-policy", 40_000_007)]
    assert recording_of(settings, entries) == Recording(tmp_path, 5, SELECTION[0])
    entries.append(entry("on-policy", SELECTION[41]))
    assert recording_of(settings, entries) == Recording(tmp_path, 5, SELECTION[42])
    assert recording_of(Settings(), entries) is None


TRUE = {name: 900.0 - 10 * name for name in range(12)}  # what each mean scores on average


def agents() -> dict[int, AgentFiles]:
    return {name: AgentFiles(Path("v"), Path("m"), Path(f"{name}.eqx")) for name in TRUE}


def outcome(name: int, track: int) -> DriveResult:
    noise = np.random.default_rng([name, track]).normal(0, 5)
    return DriveResult(track, TRUE[name] + noise, 900, TRUE[name] > 850, False)


class Drives:
    """Drives by a formula; counts them, and stops for good after `most` agents."""

    def __init__(self, most: int = 1000):
        self.most, self.done = most, []

    def __call__(
        self, agents: Mapping[int, AgentFiles], tracks: Mapping[int, Sequence[int]]
    ) -> Iterator[tuple[int, list[DriveResult]]]:
        for name in agents:
            if len(self.done) == self.most:
                raise KeyboardInterrupt
            self.done.append((name, len(tracks[name])))
            yield name, [outcome(name, track) for track in tracks[name]]


def test_the_best_mean_is_found_by_few_drives(tmp_path: Path) -> None:
    drives, metrics = Drives(), Metrics(tmp_path / "metrics.jsonl", 0)
    best, driven = select(agents(), 100, drives, metrics, first=0)
    assert best == 0 and len(driven["scores"]) == 100
    assert [count for _, count in drives.done] == [8] * 12 + [24] * 4 + [68] * 3
    expected = [outcome(0, track) for track in VALIDATION[:100]]
    assert driven["scores"] == [o.score for o in expected]
    # Every drive is on record, and the last record of a mean is its score over all its tracks.
    records = read_metrics(metrics.path)
    assert sum(len(record["scores"]) for record in records) == 12 * 8 + 4 * 24 + 3 * 68
    last = [record["real"] for record in records if record["step"] == 0][-1]
    assert last == pytest.approx(np.mean(driven["scores"]))


@pytest.mark.parametrize("most", [0, 5, 12, 14, 18])
def test_a_stopped_choice_drives_what_is_missing(tmp_path: Path, most: int) -> None:
    whole = Metrics(tmp_path / "whole.jsonl", 0)
    chosen = select(agents(), 100, Drives(), whole, first=0)
    stopped, again = Drives(most), Drives()
    metrics = Metrics(tmp_path / "stopped.jsonl", 0)
    with pytest.raises(KeyboardInterrupt):
        select(agents(), 100, stopped, metrics, first=0)
    assert select(agents(), 100, again, metrics, first=0) == chosen
    assert len(stopped.done + again.done) == 19
    assert metrics.path.read_bytes() == whole.path.read_bytes()


def test_drives_of_an_earlier_training_are_not_taken_for_this_ones(tmp_path: Path) -> None:
    drives, metrics = Drives(), Metrics(tmp_path / "metrics.jsonl", 0)
    select(agents(), 8, drives, metrics, first=0)
    select(agents(), 8, drives, metrics, first=12)
    assert len(drives.done) == 24


def test_earlier_drives_are_a_first_stage(tmp_path: Path) -> None:
    """A third of the agents stays for the first new drive, and keeps what it has driven."""
    before = {name: columns([outcome(name, track) for track in range(20)]) for name in TRUE}
    drives, metrics = Drives(), Metrics(tmp_path / "metrics.jsonl", 0)
    best, driven = select(agents(), 100, drives, metrics, first=0, before=before)
    assert [name for name, _ in drives.done] == [0, 1, 2, 3] + 2 * [0, 1, 2]
    assert [count for _, count in drives.done] == [8] * 4 + [24] * 3 + [68] * 3
    assert best == 0
    expected = [outcome(0, track).score for track in [*range(20), *VALIDATION[:100]]]
    assert driven["scores"] == expected


def test_finalists_keep_all_their_drives_of_their_run_alone(tmp_path: Path) -> None:
    metrics, later = Metrics(tmp_path / "metrics.jsonl", 0), Drives()
    select({0: agents()[0]}, 100, Drives(), metrics, first=0)
    metrics.append(step=3, first=12, dream_score=7.0)  # no drive
    _, driven = select(agents(), 100, later, metrics, first=12)
    found = finalists(metrics.path, first=12)
    assert sorted(found) == [0, 1, 2] and found[0] == driven
    for name, drives in found.items():
        assert drives["scores"] == [outcome(name, track).score for track in VALIDATION[:100]]


def test_a_mean_without_a_return_is_not_chosen(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [
        '{"step": 30, "first": 0, "best": 999, "dream_score": 900}',  # another training
        '{"step": 20, "first": 20, "best": 50, "dream_score": 30}',
        '{"step": 30, "first": 20, "best": 50, "dream_score": NaN}',
        '{"step": 40, "first": 20, "best": 9999}',  # nobody's mean: a lucky candidate
        '{"step": 50, "first": 20, "best": 60, "dream_score": 70}',
    ]
    path.write_text("\n".join(lines) + "\n")
    assert scored_means(path, first=20) == {20: 30, 50: 70}
    with pytest.raises(UserError, match="since generation 60"):
        scored_means(path, first=60)


def test_agents_come_in_their_order_whatever_ends_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def backwards(tasks: list[DriveTask], workers: int) -> Iterator[tuple[DriveTask, DriveResult]]:
        for task in reversed(tasks):
            yield task, outcome(int(task.agent.controller.stem), task.track)

    monkeypatch.setattr(selection, "drive_all", backwards)
    found = list(drive_each(agents(), {name: [5, 4] for name in TRUE}, "fast", 1))
    assert found == [(name, [outcome(name, 5), outcome(name, 4)]) for name in TRUE]


def test_cars_side_by_side_are_one_agents() -> None:
    tasks = [
        DriveTask(track, "on-policy", 10, agent=agent)
        for agent in list(agents().values())[:3]
        for track in (1, 2, 3)
    ]
    groups = batch_tasks(tasks, workers=1)
    assert len(groups) == 6  # two of an agent's three tracks have the same slot
    assert all(len({task.agent for task in group.tasks}) == 1 for group in groups)
    grouped = [(task.agent, task.track) for group in groups for task in group.tasks]
    assert len(grouped) == 9 and set(grouped) == {(task.agent, task.track) for task in tasks}


@pytest.mark.parametrize(
    ("score", "lap", "lost"), [(950, True, False), (720, False, False), (450, False, True)]
)
def test_lost_is_without_a_lap_and_below_700(score: float, lap: bool, lost: bool) -> None:
    assert DriveResult(1, score, 1000, lap, False).lost is lost
