"""Ablations: what is taken away is away, and nothing else changed."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scripts import Workshop

from models.rnn import MDNRNN
from tools.ablate import prepend_random_units
from utils.io import checkpoints
from utils.io.checkpoints import load_controller, load_rnn, read_header
from utils.io.files import sha256_of

LATENT, HIDDEN = 4, 6


def test_a_random_memory_beside_the_trained_one_changes_no_prediction() -> None:
    rng, key = np.random.default_rng(0), jax.random.key(1)
    trained = MDNRNN(LATENT, HIDDEN, 2, key=jax.random.key(0))
    random = MDNRNN(LATENT, HIDDEN, 2, key=key)
    both = prepend_random_units(trained, key)
    states = [rnn.initial_state() for rnn in (trained, random, both)]
    for _ in range(5):
        z, action = (jnp.float32(rng.standard_normal(size)) for size in (LATENT, 3))
        (own, expected), (other, _), (joint, found) = (
            rnn.step(state, z, action)
            for rnn, state in zip((trained, random, both), states, strict=True)
        )
        states = [own, other, joint]
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), found, expected)
        np.testing.assert_allclose(joint.hidden, np.append(other.hidden, own.hidden), atol=1e-6)
        np.testing.assert_allclose(joint.cell, np.append(other.cell, own.cell), atol=1e-6)


@pytest.fixture(scope="module")
def ablated(workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """What the six scripts made, with every ablation but one."""
    made = workshop.copy(tmp_path_factory.mktemp("ablated"), "data", "run")
    for without in ("memory", "trained-memory", "asymmetric-loss", "second-model"):
        made.succeed("tools.ablate", "--without", without)
    return made


def folder_of(made: Workshop, without: str) -> Path:
    return made.run_dir / "ablations" / without


def test_without_memory_c_has_weights_for_z_alone(workshop: Workshop, ablated: Workshop) -> None:
    folder = folder_of(ablated, "memory")
    for part in ("vae", "rnn", "dream_rnn"):
        assert sha256_of(folder / f"{part}.eqx") == sha256_of(workshop.run_dir / f"{part}.eqx")
    _, controller = load_controller(folder / "controller.eqx")
    assert np.abs(controller.weight[:32]).min() > 0
    np.testing.assert_array_equal(controller.weight[32:], 0)


def test_without_trained_memory_m_still_dreams(workshop: Workshop, ablated: Workshop) -> None:
    folder = folder_of(ablated, "trained-memory")
    _, rnn = load_rnn(workshop.run_dir / "rnn.eqx")
    header, both = load_rnn(folder / "rnn.eqx")
    assert header.sizes["hidden"] == 2 * rnn.hidden
    np.testing.assert_array_equal(both.heads.weight[rnn.hidden :], rnn.heads.weight)
    _, controller = load_controller(folder / "controller.eqx")
    seen = 32 + rnn.hidden
    assert np.abs(controller.weight[:seen]).min() > 0
    np.testing.assert_array_equal(controller.weight[seen:], 0)


def test_without_a_second_model_c_evolves_in_the_dream_of_its_own(ablated: Workshop) -> None:
    folder = folder_of(ablated, "second-model")
    assert not (folder / "dream_rnn.eqx").exists()
    header = read_header(folder / "controller.eqx")
    assert "dream_rnn" not in header.inputs and header.settings["dream_rnn"] is False


def test_without_asymmetry_m_learns_as_long_as_it_did(
    workshop: Workshop, ablated: Workshop
) -> None:
    header = read_header(workshop.run_dir / "rnn.eqx")
    plain = read_header(folder_of(ablated, "asymmetric-loss") / "rnn.eqx")
    assert plain.settings == {**header.settings, "optimism_penalty": 1.0}
    other = read_header(folder_of(ablated, "asymmetric-loss") / "dream_rnn.eqx")
    assert other.settings["optimism_penalty"] == 1.0 and other.inputs == plain.inputs
    assert plain.progress["step"] == header.progress["step"]
    assert plain.progress["continued_from"] == ""


def test_an_ablation_drives_and_is_not_made_again(ablated: Workshop, tmp_path: Path) -> None:
    folder = folder_of(ablated, "trained-memory")
    before = ablated.files("run/ablations/trained-memory/*.eqx")
    ablated.succeed("tools.ablate", "--without", "trained-memory")
    assert ablated.files("run/ablations/trained-memory/*.eqx") == before
    flags = ("--episodes", "1", "--output-dir", str(tmp_path))
    ablated.succeed("test_agent.py", "--run-dir", str(folder), *flags)
    assert (tmp_path / "evaluation.json").exists()


def test_an_ablations_drives_are_no_episodes_of_the_run(workshop: Workshop, tmp_path: Path) -> None:
    made = workshop.copy(tmp_path, "data", "run")
    path = made.run_dir / "controller.eqx"
    header, controller = load_controller(path)
    header.settings["record"] = True
    checkpoints.save(path, header, controller)
    episodes = made.files("data/rollouts/**/*.npz")
    lengths = "--searches", "2", "--generations", "1"
    made.succeed("tools.ablate", "--without", "nothing", *lengths)
    assert made.files("data/rollouts/**/*.npz") == episodes
    settings = read_header(folder_of(made, "nothing") / "controller.eqx").settings
    assert settings["record"] is False
    assert (settings["searches"], settings["generations"]) == (2, 1)
