"""A search on several devices: four simulated ones give the bits of one, and all are used."""

import json
import os
import subprocess
import sys
from pathlib import Path

from models.dream import layout

ROOT = Path(__file__).parents[1]

# Sizes of the real thing, since a matrix product's bits depend on them; a short dream.
PROGRAM = """
import hashlib, json
import jax, jax.numpy as jnp, numpy as np
from models.dream import DreamState
from models.rnn import MDNRNN, LSTMState
from train_dream import Evolution, Settings, evolve, first_state, whiten
from utils.dream_starts import StartBank
from utils.lineage import Plan

keys = jax.random.split(jax.random.key(0), 4)
rnn = MDNRNN(key=keys[0])
groups = [
    DreamState(jax.random.normal(k, (30, 32)), LSTMState(*jax.random.normal(k, (2, 30, 256)) / 4))
    for k in keys[1:]
]
settings = Settings(candidates=32, dreams=32, horizon=4, sigma=0.1)
bank = StartBank(*groups)
evolution = Evolution(rnn, bank, whiten(bank), settings)
search, params, state = first_state(Plan("begin", ""), evolution, settings)
arguments = (search, params, state, evolution, keys[0], jnp.int32(1), jnp.int32(2))
text = evolve.lower(*arguments).compile().compiled.as_text()
state, returns, strengths = evolve(*arguments)
leaves = [np.asarray(x) for x in jax.tree.leaves((state, returns, strengths))]
print(json.dumps({
    "devices": len(jax.devices()),
    "shared": f"num_partitions={len(jax.devices())}" in text,
    "different returns": len(set(np.asarray(returns)[:2].ravel().tolist())),
    "returns": np.asarray(returns)[:2].tobytes().hex(),
    "all": hashlib.sha256(b"".join(x.tobytes() for x in leaves)).hexdigest(),
}))
"""


def search_on(devices: int) -> dict:
    """Two generations on so many simulated devices."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=300,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_four_devices_give_the_bits_of_one() -> None:
    one, four = search_on(1), search_on(4)
    assert (one["devices"], four["devices"]) == (1, 4)
    assert four["shared"], "the generation was not compiled for four devices"
    assert one["different returns"] == 64
    assert one["returns"] == four["returns"]
    assert one["all"] == four["all"]  # the search's state, too


def test_layout_of_a_population() -> None:
    assert layout(64, 16, 1, "cpu") == (16, 1)
    assert layout(64, 16, 4, "cpu") == (16, 4)
    assert layout(1024, 16, 8, "cpu") == (16, 8)
    assert layout(1, 64, 8, "cpu") == (1, 1)  # one controller, judged by many dreams
    assert layout(50, 16, 4, "cpu") == (10, 1)  # five parts cannot be shared by two to four
    assert layout(64, 1000, 4, "cpu") == (1, 4)
    assert layout(1024, 16, 1, "gpu") == (1024, 1)
    assert layout(1024, 16, 4, "gpu") == (256, 4)
    assert layout(66, 16, 4, "gpu") == (22, 3)
