"""A population sharded over several devices: four simulated ones give the bits of one."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from models.controller import Controller
from models.dream import DreamState, device_layout
from models.rnn import MDNRNN, LSTMState
from train_dream import Settings
from utils.data.start_states import StartStates
from utils.search.evolution import (
    DreamEvaluator,
    fit_whitening,
    initial_search,
    run_generations,
)

TESTS = Path(__file__).parent
TIMEOUT = 900.0  # seconds; one takes about 20 on 2 quiet cores


def one_generation() -> dict[str, Any]:
    """The results of one generation on all devices of this process.

    Sizes of the real thing, since a matrix product's bits depend on them; a short dream.
    One generation and no more: the next begins with an eigendecomposition whose threads share the
    work as the moment allows. Its last bits decide which basis of equal eigenvalues is found, so
    that the next candidates are as good, but others.
    """
    keys = jax.random.split(jax.random.key(0), 4)
    rnn = MDNRNN(key=keys[0])
    groups = []
    for key in keys[1:]:
        memory = LSTMState(*jax.random.normal(key, (2, 30, 256)) / 4)
        groups.append(DreamState(jax.random.normal(key, (30, 32)), memory))
    settings = Settings(candidates=32, dreams=32, horizon=4, sigma=0.1)
    start_states = StartStates(*groups)
    whitening, origin = fit_whitening(start_states, 288), Controller(288)
    evaluator = DreamEvaluator(rnn, start_states, whitening, origin, jnp.float32(1), settings)
    search, params, state = initial_search(settings, 288, jax.random.key(0))
    arguments = (search, params, state, evaluator, keys[0], jnp.int32(1), jnp.int32(1))
    compiled = run_generations.lower(*arguments).compile()
    state, returns, strengths = compiled(*arguments)
    returns = np.asarray(returns)[0]
    devices = len(jax.devices())
    return {
        "devices": devices,
        "shared": f"num_partitions={devices}" in compiled.compiled.as_text(),
        "different returns": len(set(returns.tolist())),
        "returns": returns.tobytes().hex(),
        "search": [np.asarray(x).tolist() for x in (state.mean, state.C.diagonal(), strengths[0])],
    }


def start_on_simulated_devices(count: int) -> "subprocess.Popen[str]":
    """Start `one_generation` in a process with `count` simulated devices."""
    program = "import json, test_devices; print(json.dumps(test_devices.one_generation()))"
    flags = f"--xla_force_host_platform_device_count={count}"
    path = os.pathsep.join([str(TESTS.parent), str(TESTS)])
    return subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "PYTHONPATH": path},
    )


def result_of(process: "subprocess.Popen[str]") -> dict[str, Any]:
    """What the process printed."""
    output, errors = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0, errors
    return json.loads(output.splitlines()[-1])


def test_four_devices_give_the_bits_of_one() -> None:
    # Both in new processes that differ in nothing else: this one has the settings, threads and
    # memory that the tests before left.
    processes = [start_on_simulated_devices(count) for count in (1, 4)]
    one, four = (result_of(process) for process in processes)
    assert (one["devices"], four["devices"]) == (1, 4)
    assert four["shared"], "the generation was not compiled for four devices"
    assert one["different returns"] == 32
    assert one["returns"] == four["returns"]
    for ours, theirs in zip(one["search"], four["search"], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-9)


def test_device_layout_of_a_population() -> None:
    assert device_layout(64, 16, 1, "cpu") == (16, 1)
    assert device_layout(64, 16, 4, "cpu") == (16, 4)
    assert device_layout(1024, 16, 8, "cpu") == (16, 8)
    assert device_layout(1, 64, 8, "cpu") == (1, 1)  # the dream score of one controller
    assert device_layout(50, 16, 4, "cpu") == (
        10,
        1,
    )  # five batches do not divide by 2, 3, 4
    assert device_layout(64, 1000, 4, "cpu") == (1, 4)
    assert device_layout(1024, 16, 1, "gpu") == (1024, 1)
    assert device_layout(1024, 16, 4, "gpu") == (256, 4)
    assert device_layout(66, 16, 4, "gpu") == (22, 3)
