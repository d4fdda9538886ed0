"""Drive tasks: the renderer, the workers and the batch do not change an episode's bytes."""

import dataclasses
import hashlib
import sys
from collections.abc import Iterable
from pathlib import Path

import jax
import numpy as np
import pytest
from oracles import lstm_step, random_model

from models.controller import Controller
from models.rnn import MDNRNN
from models.vae import ConvVAE
from utils.data.splits import VALIDATION
from utils.io.checkpoints import Header, save
from utils.io.files import sha256_of
from utils.io.run_folder import AgentFiles
from utils.sim.agent import Agent, encode, policy_step
from utils.sim.env import drive_episode, make_environment, resize_frame
from utils.sim.rollouts import drive_all, make_driver, package_versions, run_batch
from utils.sim.tasks import CARS_PER_BATCH, DriveBatch, DriveTask, batch_tasks
from utils.sim.workers import kept_workers


@pytest.mark.parametrize("driver", ["scripted", "recovery", "random"])
def test_both_drawings_give_the_same_score_and_bytes(tmp_path: Path, driver: str) -> None:
    paths = {name: tmp_path / f"{name}.npz" for name in ("fast", "gymnasium")}
    outcomes = [
        run_batch(DriveBatch((DriveTask(VALIDATION[3], driver, 60, name, output=path),)))
        for name, path in paths.items()
    ]
    assert outcomes[0] == outcomes[1]
    assert outcomes[0][0].steps == 60
    assert paths["fast"].read_bytes() == paths["gymnasium"].read_bytes()


def test_noise_follows_from_mode_seed_and_track(tmp_path: Path) -> None:
    drive = DriveTask(VALIDATION[0], "recovery", max_steps=30, output=tmp_path / "a.npz")
    again = dataclasses.replace(drive, output=tmp_path / "b.npz")
    other = dataclasses.replace(drive, seed=1, output=tmp_path / "c.npz")
    for task in (drive, again, other):
        run_batch(DriveBatch((task,)))
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert (tmp_path / "a.npz").read_bytes() != (tmp_path / "c.npz").read_bytes()


SIZES = {"latent": 32, "hidden": 16, "components": 2}


BEGUN = {"step": 1, "first": 0, "continued_from": ""}


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> AgentFiles:
    """An agent that does something else in every frame."""
    files = AgentFiles.of_run(tmp_path_factory.mktemp("agent"))
    vae = random_model(lambda: ConvVAE(32, key=jax.random.key(0)), seed=1)
    save(files.vae, Header("vae", {"latent": 32}, {}, {}, BEGUN), vae)
    inputs = {"vae": sha256_of(files.vae)}
    rnn = random_model(lambda: MDNRNN(**SIZES, key=jax.random.key(0)), seed=2)
    save(files.rnn, Header("rnn", SIZES, {}, inputs, BEGUN), rnn)
    save_controller(files, seed=0)
    return files


def save_controller(files: AgentFiles, seed: int) -> None:
    """Write a random controller for the V and M of these files."""
    features, rng = SIZES["latent"] + SIZES["hidden"], np.random.default_rng(seed)
    controller = jax.tree.map(
        lambda x: rng.normal(0, 0.5, x.shape).astype(np.float32), Controller(features)
    )
    inputs = {"vae": sha256_of(files.vae), "rnn": sha256_of(files.rnn)}
    header = Header("controller", {"features": features}, {}, inputs, BEGUN)
    save(files.controller, header, controller)


def digests(folder: Path) -> dict[str, str]:
    """The bytes of a folder's episodes, in short."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.mark.parametrize("mode", ["on-policy", "iterative"])
def test_an_episode_has_the_same_bytes_whatever_is_driven_beside_it(
    tmp_path: Path, agent: AgentFiles, mode: str
) -> None:
    def drives(name: str, tracks: Iterable[int]) -> list[DriveTask]:
        return [
            DriveTask(
                track,
                mode,
                20 + track,
                exploration=0.3,
                agent=agent,
                output=tmp_path / name / f"{track}.npz",
            )
            for track in tracks
        ]

    for task in drives("alone", range(4)):
        run_batch(DriveBatch((task,)))
    for group in batch_tasks(drives("together", range(4)), workers=1):
        assert len(group.tasks) == CARS_PER_BATCH == 2
        run_batch(group)
    a, b, c, d = drives("otherwise", range(4))
    for group in (a, d), (c, b):  # other neighbours, and the longer drive first or last
        run_batch(DriveBatch(group))
    alone = digests(tmp_path / "alone")
    assert len(set(alone.values())) == 4
    assert alone == digests(tmp_path / "together") == digests(tmp_path / "otherwise")


def test_an_episode_has_the_same_bytes_whatever_the_number_of_workers(
    tmp_path: Path, agent: AgentFiles
) -> None:
    scores = {}
    for workers, together in ((1, [2, 1]), (3, [1, 1, 1])):  # two in one slot, one in the other
        tasks = [
            DriveTask(
                track, "on-policy", 25, agent=agent, output=tmp_path / f"{workers}/{track}.npz"
            )
            for track in (7, 8, 9)
        ]
        assert [len(group.tasks) for group in batch_tasks(tasks, workers)] == together
        scores[workers] = {task.track: outcome for task, outcome in drive_all(tasks, workers)}
    assert scores[1] == scores[3] and len(scores[1]) == 3
    assert digests(tmp_path / "1") == digests(tmp_path / "3")


def test_kept_workers_drive_the_agent_that_the_files_hold_now(
    tmp_path: Path, agent: AgentFiles
) -> None:
    files = AgentFiles.of_run(tmp_path)
    for source, target in ((agent.vae, files.vae), (agent.rnn, files.rnn)):
        target.write_bytes(source.read_bytes())

    def drive(folder: str) -> dict[str, str]:
        output = tmp_path / folder
        tasks = [
            DriveTask(track, "on-policy", 25, agent=files, output=output / f"{track}.npz")
            for track in (7, 8)
        ]
        assert len(list(drive_all(tasks, workers=1))) == 2
        return digests(output)

    fresh, kept = [], []
    for seed in (1, 2):
        save_controller(files, seed)
        fresh.append(drive(f"fresh{seed}"))
    with kept_workers():
        for seed in (1, 2):
            save_controller(files, seed)
            kept.append(drive(f"kept{seed}"))
    assert fresh[0] != fresh[1]
    assert kept == fresh


def test_agents_of_the_same_sizes_are_compiled_once(tmp_path: Path, agent: AgentFiles) -> None:
    files = dataclasses.replace(agent, controller=tmp_path / "controller.eqx")
    run_batch(DriveBatch((DriveTask(7, "on-policy", 2, agent=agent),)))
    compiled = policy_step._cache_size()
    for seed in (1, 2):
        save_controller(files, seed)
        run_batch(DriveBatch((DriveTask(7, "on-policy", 2, agent=files),)))
    assert policy_step._cache_size() == compiled > 0


def test_more_tasks_than_workers_fill_the_batches(agent: AgentFiles) -> None:
    tasks = [DriveTask(track, "on-policy", 25, agent=agent) for track in (7, 8, 9, 11, 12)]
    assert [len(group.tasks) for group in batch_tasks(tasks, 2)] == [2, 2, 1]
    assert [len(group.tasks) for group in batch_tasks(tasks, 5)] == [1] * 5


def test_noisy_actions_stay_in_the_action_space_and_update_the_memory(
    agent: AgentFiles,
) -> None:
    task = DriveTask(3, "iterative", 30, exploration=1.0, agent=agent)
    driver, environment = make_driver(task), make_environment()
    actions = drive_episode(environment, driver, task.track, task.max_steps, {}).actions
    assert all(action in environment.action_space for action in actions)
    assert ((actions == 1) | (actions == -1)).any(), "no action was so noisy that it was cut"
    plain = drive_episode(environment, Agent.load(agent), task.track, task.max_steps, {}).actions
    assert (actions != plain).any(axis=1).all()
    # The memory gets the noisy actions.
    loaded = Agent.load(agent)
    observation, _ = environment.reset(seed=task.track)
    hidden, cell = np.zeros((2, SIZES["hidden"]))
    for action in actions:
        z = np.asarray(encode(loaded.vae, resize_frame(observation)))
        hidden, cell = lstm_step(loaded.rnn, hidden, cell, z, action)
        observation, *_ = environment.step(action)
    np.testing.assert_allclose(driver.agent.memory.hidden[0], hidden, atol=1e-4)


@pytest.mark.parametrize("box2d", [{"box2d": "2.3.10"}, {"box2d-py": "2.3.8"}])
def test_versions_name_the_box2d_that_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, box2d: dict[str, str]
) -> None:
    """box2d has no wheel for Python 3.14 and ARM64 Linux: these have box2d-py."""
    installed = {"gymnasium": "1.4.0", **box2d, "pygame-ce": "2.5.8", "numpy": "2.4", "jax": "0.9"}
    for name, version in installed.items():
        folder = tmp_path / f"{name.replace('-', '_')}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Name: {name}\nVersion: {version}\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert package_versions("jax") == installed
