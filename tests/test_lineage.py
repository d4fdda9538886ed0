"""Checkpoints: when a training resumes or begins, and which files are refused.

Over 300 lines: all cases share one set of tiny checkpoints.
"""

import dataclasses
import hashlib
import io
import json
import pickle
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import run_vae_training
import train_dream
import train_rnn
from models.controller import Controller
from models.rnn import MDNRNN
from models.vae import ConvVAE
from tools import export_weights
from utils.errors import UserError
from utils.io import checkpoints
from utils.io.checkpoints import Header, load, load_controller, load_rnn, read_header, save
from utils.io.files import sha256_of
from utils.io.resume import plan_training, save_on_interrupt, stop_if_diverged
from utils.io.run_folder import AgentFiles
from utils.settings import recorded_settings, restore_settings
from utils.sim.agent import Agent

INPUTS = {"data": "d1", "vae": "v1", "rnn": "r1"}
SETTINGS = {"steps": 10, "learning_rate": 0.1}


class Run:
    """A run folder's final checkpoint and training state."""

    def __init__(self, folder: Path):
        self.final, self.state = folder / "rnn.eqx", folder / "rnn.training.eqx"

    def finished(self, step: int = 10, continued_from: str = "", **changed: Any) -> str:
        """Write a final checkpoint; returns its sha256."""
        self._write(self.final, step, 0, continued_from, changed)
        return sha256_of(self.final)

    def stopped(
        self, step: int = 4, first: int = 0, continued_from: str = "", **changed: Any
    ) -> None:
        """Write the state of a training that was stopped after `step`."""
        self._write(self.state, step, first, continued_from, changed)

    def _write(
        self, path: Path, step: int, first: int, origin: str, changed: dict[str, Any]
    ) -> None:
        progress = {"step": step, "first": first, "continued_from": origin}
        settings = {**SETTINGS, **changed.pop("settings", {})}
        header = Header("rnn", {}, settings, {**INPUTS, **changed}, progress)
        save(path, header, jnp.arange(3.0))

    def plan(
        self,
        fresh: bool = False,
        settings: dict[str, Any] | None = None,
        successors: dict[str, str] | None = None,
        **changed: str,
    ) -> tuple[str, int, int, str]:
        inputs, values = {**INPUTS, **changed}, {**SETTINGS, **(settings or {})}
        plan = plan_training(self.final, self.state, inputs, values, fresh, successors)
        self.reason = plan.reason
        return plan.action, plan.first, plan.done, plan.continued_from


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


BEGIN = ("begin", 0, 0, "")


def test_an_empty_folder_begins(run: Run) -> None:
    assert run.plan() == run.plan(fresh=True) == BEGIN


def test_the_same_unfinished_resumes(run: Run) -> None:
    run.stopped(step=4)
    assert run.plan() == run.plan(fresh=True) == ("resume", 0, 4, "")
    assert "step 4" in run.reason


def test_another_unfinished_training_is_not_resumed(run: Run) -> None:
    run.stopped(step=4)
    assert run.plan(data="d2") == run.plan(vae="v2") == BEGIN
    assert run.plan(settings={"steps": 20}) == BEGIN


def test_the_same_finished_is_finished(run: Run) -> None:
    run.finished()
    assert run.plan()[0] == run.plan(fresh=True)[0] == "finished"
    assert str(run.final) in run.reason


def test_new_episodes_continue_from_the_last_weights(run: Run) -> None:
    sha256 = run.finished(step=10)
    assert run.plan(data="d2") == ("continue", 10, 10, sha256)
    assert run.plan(data="d2", fresh=True) == BEGIN


def test_the_length_of_a_continuation_may_change(run: Run) -> None:
    sha256, longer = run.finished(step=10), {"continue_steps": 99}
    assert run.plan(settings=longer)[0] == "finished"
    assert run.plan(data="d2", settings=longer) == ("continue", 10, 10, sha256)
    run.stopped(step=12, first=10, continued_from=sha256, data="d2")
    assert run.plan(data="d2", settings=longer) == ("resume", 10, 12, sha256)


def test_a_stopped_continuation_resumes(run: Run) -> None:
    sha256 = run.finished(step=10)
    run.stopped(step=12, first=10, continued_from=sha256, data="d2")
    assert run.plan(data="d2") == ("resume", 10, 12, sha256)
    # Newer episodes begin another continuation; --fresh begins from scratch.
    assert run.plan(data="d2", fresh=True) == BEGIN
    assert run.plan(data="d3") == ("continue", 10, 10, sha256)


def test_a_continuation_of_other_weights_is_not_resumed(run: Run) -> None:
    run.stopped(step=12, first=10, continued_from="of another file", data="d2")
    assert run.plan(data="d2") == BEGIN
    sha256 = run.finished(step=10)
    assert run.plan(data="d2") == ("continue", 10, 10, sha256)


def test_a_state_left_by_a_kill_after_the_end_changes_nothing(run: Run) -> None:
    """The final file is written before the state is removed; a kill can come between."""
    sha256 = run.finished(step=10)
    run.finished(step=13, continued_from=sha256, data="d2")
    run.stopped(step=13, first=10, continued_from=sha256, data="d2")
    assert run.plan(data="d2")[0] == "finished"
    run.finished(step=10)
    run.stopped(step=10)
    assert run.plan() == ("resume", 0, 10, "")  # only the final file is left to write


def test_fresh_redoes_what_was_continued_and_then_is_done(run: Run) -> None:
    run.finished(continued_from="older weights")
    assert run.plan(fresh=True) == BEGIN
    run.finished()
    assert run.plan(fresh=True)[0] == "finished"


@pytest.mark.parametrize("fresh", [False, True])
def test_a_changed_setting_begins_and_is_named(run: Run, fresh: bool) -> None:
    run.finished()
    assert run.plan(fresh, settings={"learning_rate": 0.2}) == BEGIN
    assert "learning_rate" in run.reason and "steps" not in run.reason
    assert run.plan(fresh, settings={"learning_rate": 0.2}, data="d2") == BEGIN


def test_a_setting_of_another_version_begins_and_is_named(run: Run) -> None:
    run.finished(settings={"of_an_older_version": 1})
    assert run.plan() == BEGIN and "of_an_older_version" in run.reason
    assert run.plan(data="d2") == BEGIN and "steps" not in run.reason
    run.finished()
    assert run.plan(settings={"of_a_newer_version": None}) == BEGIN
    assert "of_a_newer_version" in run.reason
    run.stopped(settings={"of_an_older_version": 1})
    assert run.plan()[0] == "finished"


def test_another_model_below_begins_and_is_named(run: Run) -> None:
    run.finished()
    assert run.plan(vae="v2", data="d2") == BEGIN
    assert "vae" in run.reason
    assert run.plan(rnn="r2") == BEGIN
    assert "rnn" in run.reason


def test_a_model_below_that_was_trained_further_counts_as_the_same(run: Run) -> None:
    sha256 = run.finished()
    assert run.plan(rnn="r2", data="d2", successors={"rnn": "r1"}) == ("continue", 10, 10, sha256)
    assert run.plan(rnn="r2", data="d2", successors={"rnn": "r0"}) == BEGIN
    assert run.plan(rnn="r2", vae="v2", successors={"rnn": "r1"}) == BEGIN
    assert run.plan(rnn="r2", data="d2", successors={"rnn": ""}) == BEGIN  # M from scratch


@pytest.mark.parametrize("which", ["final", "state"])
def test_a_damaged_file_is_an_error(run: Run, which: str) -> None:
    path = getattr(run, which)
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(UserError, match=str(path)):
        run.plan()
    assert path.read_bytes() == b"not a checkpoint"


def test_diverged_weights_stop_and_name_the_good_state(tmp_path: Path) -> None:
    good, state = Controller(4), tmp_path / "state.eqx"
    stop_if_diverged(good, 7, state)
    bad = eqx.tree_at(lambda c: c.bias, good, jnp.array([0.0, jnp.nan, 0.0]))
    with pytest.raises(UserError, match=r"step 7; no state was saved.*--learning-rate"):
        stop_if_diverged(bad, 7, state)
    state.write_bytes(b"")
    with pytest.raises(UserError, match=f"step 7.*{state}"):
        stop_if_diverged(bad, 7, state)


@pytest.mark.parametrize("ending", [KeyboardInterrupt, SystemExit, UserError, None])
def test_a_stopped_training_is_saved_and_a_failed_one_is_not(ending: Any) -> None:
    saved: list[int] = []

    def train() -> None:
        with save_on_interrupt(lambda: saved.append(1)):
            if ending is not None:
                raise ending

    if ending is None:
        train()
    else:
        with pytest.raises(ending):
            train()
    assert saved == [1] * (ending in (KeyboardInterrupt, SystemExit))


@pytest.mark.parametrize("script", [run_vae_training, train_rnn, train_dream])
def test_headers_record_what_changes_the_result_and_nothing_else(script: Any) -> None:
    """Else `--fresh` once, other workers or another folder would train anew ever after."""
    plain = script.Settings()
    recorded = recorded_settings(plain)
    elsewhere = {"run_dir": Path("x"), "data_dir": Path("y"), "debug": True, "fresh": True}
    how = {
        "workers": 99,
        "dask": "tcp://host:1",
        "save_seconds": 0.0,
        "save_every": 1,
        "evaluate_every": 7,
        "track": "wandb",
        **({"dream_rnn": False} if script is train_rnn else {}),  # the first M is the same
    }
    names = {field.name for field in dataclasses.fields(plain)}
    changes = {name: value for name, value in {**elsewhere, **how}.items() if name in names}
    assert recorded_settings(dataclasses.replace(plain, **changes)) == recorded
    sizes = {field.name for field in dataclasses.fields(plain) if field.metadata.get("size")}
    assert set(recorded) == names - set(changes) - sizes  # sizes have a place of their own
    assert json.loads(json.dumps(recorded)) == recorded
    assert recorded_settings(dataclasses.replace(plain, seed=1)) != recorded


# --- checkpoints ----------------------------------------------------------------------------------

SIZES = {"latent": 3, "hidden": 4, "components": 2}
HEADER = Header("rnn", SIZES, SETTINGS, INPUTS, {"step": 3, "first": 0, "continued_from": ""})


@pytest.fixture
def rnn() -> MDNRNN:
    return MDNRNN(**SIZES, key=jax.random.key(5))


def test_a_checkpoint_carries_its_sizes_and_comes_back(tmp_path: Path, rnn: MDNRNN) -> None:
    path = tmp_path / "rnn.eqx"
    save(path, HEADER, rnn)
    assert read_header(path) == HEADER
    header, again = load_rnn(path)
    assert header == HEADER
    assert jax.tree.structure(again) == jax.tree.structure(rnn)
    for one, other in zip(jax.tree.leaves(again), jax.tree.leaves(rnn), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def test_the_same_twice_is_the_same_bytes(tmp_path: Path, rnn: MDNRNN) -> None:
    paths = tmp_path / "1.eqx", tmp_path / "2.eqx"
    for path in paths:
        save(path, HEADER, rnn)
    assert sha256_of(paths[0]) == sha256_of(paths[1])
    save(paths[1], dataclasses.replace(HEADER, inputs={**INPUTS, "vae": "v2"}), rnn)
    assert sha256_of(paths[0]) != sha256_of(paths[1])


def refused(path: Path, **reason: str) -> None:
    with pytest.raises(UserError, match=reason.get("match")) as caught:
        load_rnn(path)
    assert str(path) in str(caught.value)


def test_a_flipped_bit_anywhere_is_refused(tmp_path: Path) -> None:
    path, zeros = tmp_path / "rnn.eqx", [jnp.zeros(2), jnp.zeros(3)]
    save(path, HEADER, [jnp.arange(2.0), jnp.arange(3.0)])
    whole = path.read_bytes()
    header_length = whole.index(b"\n") + 1
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << (position * 5 % 8)
        path.write_bytes(damaged)
        try:
            header, _ = load(path, "rnn", lambda _: zeros)
        except UserError as error:
            assert str(path) in str(error)
            continue
        # An E instead of the e of a number in the header changes nothing.
        assert position < header_length and header == HEADER


def test_every_bit_of_the_header_counts(tmp_path: Path, rnn: MDNRNN) -> None:
    path = tmp_path / "rnn.eqx"
    save(path, HEADER, rnn)
    path.write_bytes(path.read_bytes().replace(b'"step": 3', b'"step": 2'))
    refused(path, match="is damaged")
    with pytest.raises(UserError, match=str(path)):
        read_header(path)


def test_a_header_without_a_checksum_is_refused(tmp_path: Path, rnn: MDNRNN) -> None:
    path = tmp_path / "rnn.eqx"
    save(path, HEADER, rnn)
    line, leaves = path.read_bytes().split(b"\n", 1)
    fields = json.loads(line)
    del fields["header_sha256"]
    path.write_bytes(json.dumps(fields).encode() + b"\n" + leaves)
    refused(path, match="is damaged")


def test_a_header_above_damaged_leaves_is_not_trusted(tmp_path: Path, rnn: MDNRNN) -> None:
    """Else a training would say that it is finished, and the next step refuse its model."""
    path = tmp_path / "rnn.eqx"
    save(path, HEADER, rnn)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=f"{path} is damaged"):
        read_header(path)


def test_truncation_and_trailing_bytes_are_refused(tmp_path: Path, rnn: MDNRNN) -> None:
    path = tmp_path / "rnn.eqx"
    save(path, HEADER, rnn)
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        refused(path)
    path.write_bytes(whole + b"\0")
    refused(path)


def test_another_architecture_is_refused(tmp_path: Path, rnn: MDNRNN) -> None:
    path = tmp_path / "rnn.eqx"
    for sizes in ({**SIZES, "hidden": 5}, {**SIZES, "colour": 1}, {}):
        save(path, dataclasses.replace(HEADER, sizes=sizes), rnn)
        refused(path, match="of another architecture")


def test_a_leaf_more_less_or_of_another_type_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.eqx"
    save(path, HEADER, [jnp.zeros(2), jnp.ones(3)])
    assert len(load(path, "rnn", lambda _: [jnp.zeros(2), jnp.zeros(3)])[1]) == 2
    for tree in (
        [jnp.zeros(2)],
        [jnp.zeros(2), jnp.ones(3), jnp.ones(1)],
        [jnp.zeros(2), jnp.ones(3, jnp.int32)],
        [jnp.zeros(2), jnp.ones((3, 1))],
    ):
        with pytest.raises(UserError, match=f"{path} holds a rnn of another architecture"):
            load(path, "rnn", lambda _, tree=tree: tree)
    save(path, HEADER, [jnp.zeros(2), np.ones(3, np.int64)])  # which JAX would take for int32
    with pytest.raises(UserError, match="of another architecture"):
        load(path, "rnn", lambda _: [jnp.zeros(2), jnp.ones(3, jnp.int32)])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_leaf_that_is_no_number_is_refused_by_name(tmp_path: Path, value: float) -> None:
    path, shapes = tmp_path / "model.eqx", {"one": jnp.zeros(2), "two": [jnp.zeros(3)]}
    bad = {"one": jnp.ones(2), "two": [jnp.array([0, 0, value])]}
    save(path, HEADER, bad)
    with pytest.raises(UserError, match=f"{path}: two.0: NaN or infinity"):
        load(path, "rnn", lambda _: shapes)
    # The state of a new search: its best value is infinite.
    save(path, dataclasses.replace(HEADER, kind="rnn training"), bad)
    if np.isnan(value):
        with pytest.raises(UserError, match=f"{path}: two.0: NaN or infinity"):
            load(path, "rnn training", lambda _: shapes)
    else:
        assert load(path, "rnn training", lambda _: shapes)[1]["two"][0][2] == value


def test_another_kind_is_refused(tmp_path: Path, rnn: MDNRNN) -> None:
    path = tmp_path / "rnn.eqx"
    save(path, dataclasses.replace(HEADER, kind="rnn training"), rnn)
    refused(path, match="holds a rnn training, not a rnn")
    with pytest.raises(UserError, match=f"{path} holds a rnn training, not a controller"):
        load_controller(path)


@pytest.mark.parametrize(
    "data", [b"", b"\n", b"{}\n", b"[]\n", b"3\n", b"[" * 100_000, b"\xff" * 9]
)
def test_foreign_files_are_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "rnn.eqx"
    path.write_bytes(data)
    refused(path)


def test_a_missing_file_is_a_failure_naming_it(tmp_path: Path) -> None:
    refused(tmp_path / "rnn.eqx", match="is missing")


class Trap:
    """Unpickling one leaves a file behind."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return Path.touch, (self.path,)


def test_checkpoints_are_never_unpickled(tmp_path: Path) -> None:
    path, mark = tmp_path / "rnn.eqx", tmp_path / "unpickled"
    pickle.loads(pickle.dumps(Trap(mark)))
    mark.unlink()  # the trap works
    leaf = io.BytesIO()
    np.save(leaf, np.array([Trap(mark)], object), allow_pickle=True)
    # An attacker would make all checksums right.
    fields = {
        "format": checkpoints.FORMAT,
        "sha256": hashlib.sha256(leaf.getvalue()).hexdigest(),
        **dataclasses.asdict(HEADER),
    }
    digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
    line = json.dumps({**fields, "header_sha256": digest}).encode()
    path.write_bytes(line + b"\n" + leaf.getvalue())
    assert read_header(path) == HEADER
    with pytest.raises(UserError, match=f"{path} holds a rnn of another architecture"):
        load(path, "rnn", lambda _: jnp.zeros(1))
    assert not mark.exists()


# --- agents ---------------------------------------------------------------------------------------


def write_agent(folder: Path, seed: int) -> AgentFiles:
    """A V, M and C that belong together, tiny but for V."""
    files = AgentFiles.of_run(folder)
    nothing_done = {"step": 0, "first": 0, "continued_from": ""}
    # Constant weights: drawing four million random ones takes seconds to compile.
    shapes = eqx.filter_eval_shape(ConvVAE, 3, key=jax.random.key(0))
    vae = jax.tree.map(lambda leaf: jnp.full(leaf.shape, seed / 100, leaf.dtype), shapes)
    save(files.vae, Header("vae", {"latent": 3}, {}, {}, nothing_done), vae)
    inputs = {"vae": sha256_of(files.vae)}
    rnn = MDNRNN(**SIZES, key=jax.random.key(seed))
    save(files.rnn, Header("rnn", SIZES, {}, inputs, nothing_done), rnn)
    inputs |= {"rnn": sha256_of(files.rnn)}
    features = {"features": SIZES["latent"] + SIZES["hidden"]}
    header = Header("controller", features, {}, inputs, nothing_done)
    save(files.controller, header, Controller(**features))
    return files


def test_an_agent_whose_parts_do_not_belong_together_is_refused(tmp_path: Path) -> None:
    one, other = (write_agent(tmp_path / str(seed), seed) for seed in (1, 2))
    action = Agent.load(one).act(np.zeros((64, 64, 3), np.uint8))
    np.testing.assert_allclose(action, [0.0, 0.5, 0.0])  # a controller of zeros
    mixed = {
        "vae": AgentFiles(other.vae, one.rnn, one.controller),
        "rnn": AgentFiles(one.vae, other.rnn, one.controller),
        "controller": AgentFiles(one.vae, one.rnn, other.controller),
        "vae and rnn": AgentFiles(other.vae, other.rnn, one.controller),
    }
    blamed = {
        "vae": one.rnn,
        "rnn": other.rnn,
        "controller": other.controller,
        "vae and rnn": one.controller,
    }
    for case, files in mixed.items():
        with pytest.raises(UserError, match=f"^{blamed[case]} was made with another"):
            Agent.load(files)


def test_a_shipped_agent_is_half_as_large_and_belongs_together(tmp_path: Path) -> None:
    files = write_agent(tmp_path / "run", 3)
    settings = export_weights.Settings(
        data_dir=tmp_path, run_dir=tmp_path / "run", output_dir=tmp_path / "shipped"
    )
    export_weights.main(settings)
    shipped = AgentFiles.of_run(tmp_path / "shipped")
    assert 1.9 < files.vae.stat().st_size / shipped.vae.stat().st_size < 2.0
    agent, copy = Agent.load(files), Agent.load(shipped)
    for part in ("vae", "rnn", "controller"):
        whole, rounded = (jax.tree.leaves(getattr(a, part)) for a in (agent, copy))
        for a, b in zip(whole, rounded, strict=True):
            assert b.dtype == jnp.float32
            np.testing.assert_array_equal(np.float16(a), b)
    # A copy of the copy has the same bytes: the weights are rounded already.
    again = {"run_dir": tmp_path / "shipped", "output_dir": tmp_path / "again"}
    export_weights.main(dataclasses.replace(settings, **again))
    assert AgentFiles.of_run(tmp_path / "again").sha256() == shipped.sha256()
    header, original = (read_header(f.controller) for f in (shipped, files))
    assert header.settings == original.settings and header.inputs["vae"] == sha256_of(shipped.vae)


def test_a_checkpoint_of_unknown_precision_is_refused(tmp_path: Path, rnn: MDNRNN) -> None:
    path = tmp_path / "rnn.eqx"
    save(path, HEADER, rnn)
    line, leaves = path.read_bytes().split(b"\n", 1)
    fields = json.loads(line) | {"precision": "float8"}
    del fields["header_sha256"]
    fields["header_sha256"] = checkpoints._digest(fields)
    path.write_bytes(json.dumps(fields, sort_keys=True).encode() + b"\n" + leaves)
    refused(path, match="damaged or not a checkpoint .*: unknown precision")


def test_settings_that_a_script_does_not_have_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "rnn.eqx"
    settings = {"window": 50, "of_an_older_version": 1, "another": "x"}
    save(path, Header("rnn", {}, settings, {}, {}), {})
    known = restore_settings(read_header(path).settings, train_rnn.Settings, path)
    assert train_rnn.Settings(**known).window == 50 and list(known) == ["window"]
    said = capsys.readouterr().err
    assert said.startswith(f"{path}: ") and "of_an_older_version=1" in said and "another=x" in said
    assert restore_settings({"window": 9}, train_rnn.Settings, path) == {"window": 9}
    sizes = {"latent": 3, "hidden": 4, "components": 2}
    restored = restore_settings({"window": 9}, train_rnn.Settings, path, sizes)
    assert restored == {"window": 9, "hidden": 4, "components": 2}
    assert not capsys.readouterr().err


def test_a_model_of_another_size_is_trained_anew(tmp_path: Path) -> None:
    final, state = tmp_path / "rnn.eqx", tmp_path / "rnn.training.eqx"
    progress = {"step": 5, "first": 0, "continued_from": ""}
    save(final, Header("rnn", {"hidden": 8}, SETTINGS, INPUTS, progress), jnp.arange(3.0))
    save(state, Header("rnn training", {"hidden": 8}, SETTINGS, INPUTS, progress), jnp.arange(3.0))

    def plan(hidden: int) -> tuple[str, str]:
        sizes = {"hidden": hidden}
        plan = plan_training(final, state, INPUTS, SETTINGS, fresh=False, sizes=sizes)
        return plan.action, plan.reason

    assert plan(9) == ("begin", "from scratch: hidden changed")
    assert plan(8)[0] == "resume"
    state.unlink()
    assert plan(8)[0] == "finished"


def test_a_header_of_an_earlier_version_restores_the_settings_that_are_left(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "controller.eqx"
    gone = {"focus": 0.5, "steering_cost": 0.0, "weight_cost": 0.25}
    recorded = {"generations": 80, "validate_every": 10, **gone}  # as version 0.1 wrote them
    save(path, Header("controller", {}, recorded, {}, {"step": 30}), {})
    header = read_header(path)
    known = restore_settings(header.settings, train_dream.Settings, path)
    assert known == {"generations": 80, "save_mean_every": 10}
    assert train_dream.Settings(**known).generations == 80
    said = capsys.readouterr().err
    assert all(f"{name}={value}" in said for name, value in gone.items())


def test_renamed_keys_of_a_header_are_read_by_their_current_names(tmp_path: Path) -> None:
    progress = {"step": 30, "chosen": {"step": 20, "judged": 150.5, "real": 800.0}}
    path = tmp_path / "controller.eqx"
    save(path, Header("controller", {}, {"unseen_units": 256, "sigma": 0.02}, {}, progress), {})
    assert b"unseen_units" in path.read_bytes()
    header = read_header(path)
    assert header.settings == {"masked_units": 256, "sigma": 0.02}
    assert header.progress["chosen"] == {"step": 20, "dream_score": 150.5, "real": 800.0}
