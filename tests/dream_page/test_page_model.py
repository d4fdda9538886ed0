"""The page computes what JAX and a float64 reference compute."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import act, foresee, lstm_step, sample
from scipy import stats

from dream_page.page import decode, exported_models, text, wait_for_step
from models.dream import DreamState, dream_return
from models.rnn import LSTMState, MixtureNoise, mixture_noise

RUN_MODEL = """async ([start, noise, temperature, plain]) => {
    const url = name => new URL("js/" + name, document.baseURI).href;
    const { Tensors } = await import(url("float16.js"));
    const { Model } = await import(url("model.js"));
    const { Workspace, plainKernels } = await import(url("matmul.js"));
    const manifest = await (await fetch("dream.json")).json();
    const buffer = await (await fetch(manifest.weights)).arrayBuffer();
    const tensors = new Tensors(manifest.tensors, buffer);
    const workspace = new Workspace();
    const vectors = /native code/.test(workspace.kernels.single);
    if (plain) workspace.kernels = plainKernels(workspace.memory);
    const model = new Model(manifest, tensors, workspace);
    const row = name => tensors.rows("starts." + name)[start];
    let state = { z: row("z"), hidden: row("hidden"), cell: row("cell") };
    const steps = [];
    const times = [];
    for (let t = 0; t < noise.choice.length; t++) {
        const before = performance.now();
        const action = model.controller.act(state);
        const at = { choice: noise.choice[t], normal: noise.normal[t] };
        const { reward, end, state: next } = model.rnn.imagine(state, action, at, temperature);
        state = next;
        const image = model.decoder.decode(state.z);
        times.push(performance.now() - before);
        const numbers = { ...state, action, image: t % 10 == 4 ? image : [] };
        for (const name in numbers) numbers[name] = Array.from(numbers[name]);
        steps.push({ reward, end, ...numbers });
    }
    return { steps, vectors, milliseconds: Math.min(...times) }; // other processes may slow some
}"""


@pytest.mark.parametrize(
    ("temperature", "steps", "plain"), [(1.0, 50, False), (2.5, 5, False), (0.3, 5, True)]
)
def test_the_page_computes_what_jax_and_a_reference_compute(
    site: Path,
    still: Any,
    tensors: Callable[[str], np.ndarray],
    temperature: float,
    steps: int,
    plain: bool,
) -> None:
    vae, rnn, controller = exported_models(site)
    start = 2
    noise = mixture_noise(jax.random.key(3), (steps, 32))
    given = {"choice": noise.choice.tolist(), "normal": noise.normal.tolist()}
    ran = still.evaluate(RUN_MODEL, [start, given, temperature, plain])
    assert ran["vectors"]  # else both runs would test the same kernel
    z, hidden, cell = (
        tensors(f"starts.{name}")[start].astype(np.float64) for name in ("z", "hidden", "cell")
    )
    for t, step in enumerate(ran["steps"]):
        action = act(controller, z, hidden)
        hidden, cell = lstm_step(rnn, hidden, cell, z, action)
        foreseen = foresee(rnn, hidden, z)
        z = sample(foreseen, np.asarray(noise.choice[t]), np.asarray(noise.normal[t]), temperature)
        for name, value in {"action": action, "z": z, "hidden": hidden, "cell": cell}.items():
            np.testing.assert_allclose(step[name], value, atol=2e-4, err_msg=f"{name} at step {t}")
        np.testing.assert_allclose(step["reward"], foreseen.reward, atol=2e-4)
        np.testing.assert_allclose(step["end"], foreseen.end, atol=2e-5)
        if step["image"]:
            shown = np.array(step["image"]).reshape(64, 64, 4)[..., :3]
            drawn = 255 * np.asarray(decode(vae, jnp.asarray(z, jnp.float32)))
            assert np.abs(shown - drawn).max() < 0.55  # rounded to whole levels
            assert shown.std() > 10
    if not plain:
        assert ran["milliseconds"] < 1000 / 30, "slower than 30 frames a second"


def test_the_dream_counts_its_return_as_jax_does(
    site: Path, still: Any, tensors: Callable[[str], np.ndarray]
) -> None:
    _, rnn, controller = exported_models(site)
    page = still
    steps = 30
    noise = page.evaluate(
        """async steps => {
            const url = new URL("js/noise.js", document.baseURI).href;
            const { mixtureNoise } = await import(url);
            const rows = Array.from({ length: steps }, (_, t) => mixtureNoise(11, t, 32));
            return { choice: rows.map(r => Array.from(r.choice)),
                     normal: rows.map(r => Array.from(r.normal)) };
        }""",
        steps,
    )
    for _ in range(steps):
        page.keyboard.press(".")
    wait_for_step(page, steps)
    z, hidden, cell = (
        jnp.asarray(tensors(f"starts.{name}")[4]) for name in ("z", "hidden", "cell")
    )
    drawn = MixtureNoise(jnp.asarray(noise["choice"]), jnp.asarray(noise["normal"]))
    start = DreamState(z, LSTMState(hidden, cell))
    expected = float(jax.jit(dream_return)(rnn, controller, start, drawn, 1.0))
    assert float(text(page, "total").replace("−", "-")) == pytest.approx(expected, abs=0.06)


def test_noise_is_uniform_and_normal_and_never_twice_the_same(still: Any) -> None:
    rows = still.evaluate(
        """async () => {
            const { mixtureNoise } = await import(new URL("js/noise.js", document.baseURI).href);
            const rows = [];
            for (let seed = 0; seed < 10; seed++)
                for (let step = 0; step < 50; step++) {
                    const { choice, normal } = mixtureNoise(seed, step, 32);
                    rows.push([Array.from(choice), Array.from(normal)]);
                }
            return rows;
        }"""
    )
    choice, normal = np.array(rows).transpose(1, 0, 2)
    assert len(np.unique(choice)) > 0.99 * choice.size
    assert stats.kstest(choice.ravel(), "uniform").pvalue > 1e-3
    assert stats.kstest(normal.ravel(), "norm").pvalue > 1e-3
    neighbours = np.corrcoef(normal[:-1].ravel(), normal[1:].ravel())[0, 1]
    assert abs(neighbours) < 5 / np.sqrt(normal.size)
