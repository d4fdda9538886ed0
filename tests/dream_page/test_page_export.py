"""The export: weights, bytes, what it replaces and what it refuses."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dream_page.page import export, save_agent
from tools import export_web
from tools.export_web import Bundle
from utils.errors import UserError
from utils.io.run_folder import AgentFiles
from utils.sim.agent import Agent


def test_the_weights_are_the_models_rounded_to_float16(
    site: Path, tensors: Callable[[str], np.ndarray]
) -> None:
    agent = Agent.load(AgentFiles.of_run(site / "run"))
    leaves = {
        "vae.decoder.2.weight": agent.vae.decoder[2].weight,
        "vae.from_latent.bias": agent.vae.from_latent.bias,
        "rnn.cell.weight_hh": agent.rnn.cell.weight_hh,
        "rnn.heads.weight": agent.rnn.heads.weight,
        "controller.weight": agent.controller.weight,
    }
    for name, leaf in leaves.items():
        np.testing.assert_allclose(tensors(name), leaf, rtol=2**-11, atol=2**-25, err_msg=name)


def test_exporting_again_gives_the_same_bytes_and_removes_only_what_it_replaced(
    tmp_path: Path, site: Path, output: Path
) -> None:
    shutil.copytree(output, tmp_path / "page")
    before = {p: p.read_bytes() for p in (tmp_path / "page").rglob("*") if p.is_file()}
    old = tmp_path / "page/data/weights-0123456789ab.bin"
    mine = tmp_path / "page/data/notes.txt"
    old.write_text("of an earlier export")
    mine.write_text("somebody's own")
    export(site / "run", tmp_path / "page")
    assert not old.exists()
    assert mine.read_text() == "somebody's own"
    assert {p: p.read_bytes() for p in before} == before


def test_an_export_that_fails_halfway_leaves_the_earlier_page_whole(
    tmp_path: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(output, tmp_path / "page")
    save_agent(tmp_path / "other", 70)

    def fail(path: Path, value: Any) -> None:
        raise UserError(f"cannot write {path}")

    monkeypatch.setattr(export_web, "write_json", fail)
    with pytest.raises(UserError):
        export(tmp_path / "other", tmp_path / "page")
    manifest = json.loads((tmp_path / "page/dream.json").read_text())
    for name, size in manifest["bytes"].items():
        data = (tmp_path / "page" / name).read_bytes()
        assert len(data) == size and hashlib.sha256(data).hexdigest()[:12] in name


def test_what_cannot_be_exported_is_refused(tmp_path: Path, site: Path) -> None:
    with pytest.raises(UserError, match="run run_vae_training"):
        export(tmp_path / "nothing", tmp_path / "page")
    shutil.copytree(site / "run", tmp_path / "mixed")
    save_agent(tmp_path / "other", 70)
    shutil.copy(tmp_path / "other/vae.eqx", tmp_path / "mixed/vae.eqx")
    with pytest.raises(UserError, match="another vae"):
        export(tmp_path / "mixed", tmp_path / "page")
    (tmp_path / "home").mkdir()
    (tmp_path / "home/index.html").write_text("my own page")
    with pytest.raises(UserError, match="of another page"):
        export(site / "run", tmp_path / "home")
    with pytest.raises(UserError, match="float16"):
        Bundle(tmp_path).add("rnn.heads.bias", np.array([1.0, 1e6]))
