"""Sim2Real2Sim in rounds: what a round does, and that it goes on after a kill."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from scripts import KILL, Workshop

from tools import iterate
from utils.io.checkpoints import load_rnn, read_header, save
from utils.io.files import sha256_of
from utils.io.records import read_metrics

ROUND = ("--on-policy-episodes", "1", "--iterative-episodes", "1", "--score-tracks", "1")
PARTS = ("rnn", "dream_rnn", "controller")  # what a round trains
RESULTS = ("run/*rnn.eqx", "run/controller.eqx", "run/rounds.metrics.jsonl", "data/**/*.npz")


def results(workshop: Workshop) -> dict[str, bytes]:
    return {name: data for pattern in RESULTS for name, data in workshop.files(pattern).items()}


@pytest.fixture(scope="module")
def iterated(workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """One round, never interrupted, after the six scripts."""
    made = workshop.copy(tmp_path_factory.mktemp("iterated"), "data", "run")
    made.succeed("tools.iterate", *ROUND, "--rounds", "1")
    return made


def test_a_round_drives_the_agent_and_lets_m_and_c_go_on(
    workshop: Workshop, iterated: Workshop
) -> None:
    first = {part: sha256_of(workshop.run_dir / f"{part}.eqx") for part in PARTS}
    for part, sha256 in first.items():
        assert read_header(iterated.run_dir / f"{part}.eqx").progress["continued_from"] == sha256
    for mode in ("on-policy", "iterative"):
        assert len(list((iterated.data / "rollouts" / mode).glob("*.npz"))) == 1
        assert len(list((iterated.data / "latents" / mode).glob("*.npz"))) == 1
    records = read_metrics(iterated.run_dir / "rounds.metrics.jsonl")
    assert [record["step"] for record in records] == [0, 1]
    assert records[0]["agent"]["controller"] == first["controller"]
    assert records[1]["agent"]["controller"] == sha256_of(iterated.run_dir / "controller.eqx")
    evaluation = json.loads((iterated.run_dir / "rounds" / "1" / "evaluation.json").read_text())
    assert records[1]["mean"] == evaluation["mean"]
    assert (iterated.run_dir / "rounds.png").stat().st_size > 5000


def test_a_round_encodes_what_its_m_learns_from(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = workshop.copy(tmp_path, "run").run_dir
    header, rnn = load_rnn(run_dir / "rnn.eqx")
    del header.settings["mirror"]
    values: dict[str, dict[str, Any]] = {}
    monkeypatch.setattr(
        iterate, "run_script", lambda _, script, **v: values.update({script.__name__: v})
    )
    # The M of an earlier version has no such setting, and goes on with the default.
    cases: list[tuple[dict[str, Any], bool]] = [({"mirror": False}, False), ({}, True)]
    for number, (recorded, mirror) in enumerate(cases, 1):
        now = dataclasses.replace(header, settings={**header.settings, **recorded})
        save(run_dir / "rnn.eqx", now, rnn)
        settings = iterate.Settings(data_dir=tmp_path, run_dir=run_dir, dask="tcp://host:1")
        iterate.run_round(settings, number)
        assert values["process_data"] == {"mirror": mirror}
        assert values["collect_data"]["dask"] == values["train_dream"]["dask"] == "tcp://host:1"


def test_rounds_that_are_done_are_not_done_again(iterated: Workshop) -> None:
    before = results(iterated)
    iterated.succeed("tools.iterate", *ROUND, "--rounds", "1")
    assert results(iterated) == before


def test_a_killed_round_goes_on(workshop: Workshop, iterated: Workshop, tmp_path: Path) -> None:
    killed = workshop.copy(tmp_path, "data", "run")
    killed.stop_at_work(
        "tools.iterate",
        *(*ROUND, "--rounds", "1"),
        signal_number=KILL,
        is_at_work=(tmp_path / "run/rnn.training.eqx").exists,
        is_done=lambda: len(read_metrics(killed.run_dir / "rounds.metrics.jsonl")) > 1,
    )
    killed.succeed("tools.iterate", *ROUND, "--rounds", "1")
    assert results(killed) == results(iterated)
    assert killed.leftovers() == []
