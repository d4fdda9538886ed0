"""The benchmark of start-up times."""

from pathlib import Path

from benchmarks.scale import STAGES, make_data, measure


def test_every_stage_stops_where_its_work_begins(tmp_path: Path) -> None:
    """A stage that did not stop would train for hours."""
    make_data(tmp_path, 10, steps=10)  # every tenth is held out
    for stage in STAGES:
        found = measure(stage, tmp_path, 10)
        assert found["MB"] > 10
    files = {path.name for path in tmp_path.glob("*/*") if path.is_file()}
    assert not files & {"evaluation.json", "rnn.training.eqx", "controller.training.eqx"}
    assert len(list((tmp_path / "data" / "latents").rglob("*.npz"))) == 10
    assert len(list((tmp_path / "data" / "rollouts").rglob("*.npz"))) == 10  # none was driven
