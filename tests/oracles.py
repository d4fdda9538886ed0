"""Reference implementations of M and C in float64 NumPy and SciPy, and models for tests."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import equinox as eqx
import jax
import numpy as np
from scipy.special import expit, log_softmax, logsumexp, softmax
from scipy.stats import norm

from models.controller import Controller
from models.rnn import MDNRNN

ModelT = TypeVar("ModelT")


def random_model(build: Callable[[], ModelT], seed: int, scale: float = 1.0) -> ModelT:
    """The model that `build` makes, with weights ~ U(±scale / √rows) from NumPy: no compilation."""
    rng = np.random.default_rng(seed)

    def weights(leaf: Any) -> np.ndarray:
        bound = scale / max(leaf.shape[0], 4) ** 0.5
        return rng.uniform(-bound, bound, leaf.shape).astype(np.float32)

    return jax.tree.map(weights, eqx.filter_eval_shape(build))


def constant_rnn(latent: int, hidden: int, components: int, **outputs: float) -> MDNRNN:
    """An RNN with constant predictions: `reward` (in tiles over −0.1), `end_logit`, `log_scale`.

    All components predict that z does not change.
    """
    shapes = eqx.filter_eval_shape(
        lambda: MDNRNN(latent, hidden, components, key=jax.random.key(0))
    )
    rnn = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
    bias = np.zeros(3 * components * latent + 2, np.float32)
    bias[2 * components * latent : -2] = outputs.get("log_scale", 0.0)
    bias[-2], bias[-1] = outputs.get("reward", 0.0), outputs.get("end_logit", 0.0)
    return eqx.tree_at(lambda r: r.heads.bias, rnn, bias)


class Foreseen(NamedTuple):
    """One prediction in float64; mixtures (components, latent)."""

    log_weight: np.ndarray
    mean: np.ndarray
    scale: np.ndarray
    reward: float
    end: float  # probability


def _double(array: Any) -> np.ndarray:
    return np.asarray(array, np.float64)


def lstm_step(
    rnn: MDNRNN, hidden: np.ndarray, cell: np.ndarray, z: np.ndarray, action: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """LSTM (Hochreiter & Schmidhuber 1997) with a forget gate whose bias is offset by 1."""
    gates = np.concatenate([z, action]) @ _double(rnn.cell.weight_ih)
    gates = gates + _double(rnn.cell.bias) + hidden @ _double(rnn.cell.weight_hh)
    n = len(hidden)
    into, forget, candidate, out = (gates[n * i : n * (i + 1)] for i in range(4))
    cell = expit(forget + 1) * cell + expit(into) * np.tanh(candidate)
    return expit(out) * np.tanh(cell), cell


def foresee(rnn: MDNRNN, hidden: np.ndarray, z: np.ndarray) -> Foreseen:
    """M's heads: weights, means relative to z, log scales; reward in tiles over −0.1; end."""
    out = hidden @ _double(rnn.heads.weight) + _double(rnn.heads.bias)
    per_part = rnn.components * rnn.latent
    logits, shift, log_scale = (
        out[per_part * i : per_part * (i + 1)].reshape(rnn.components, rnn.latent) for i in range(3)
    )
    return Foreseen(
        log_weight=log_softmax(logits, axis=0),
        mean=z + shift,
        scale=np.exp(log_scale),
        reward=-0.1 + 1000 / 296 * out[-2],
        end=float(expit(out[-1])),
    )


def log_likelihood(foreseen: Foreseen, z: np.ndarray) -> np.ndarray:
    """Graves 2013, eq. 24, of each latent dimension in nats."""
    return logsumexp(foreseen.log_weight + norm.logpdf(z, foreseen.mean, foreseen.scale), axis=0)


def sample(
    foreseen: Foreseen, choice: np.ndarray, normal: np.ndarray, temperature: float
) -> np.ndarray:
    """As in Ha's code: for each dimension a component by its adjusted weight, then a Gaussian."""
    weights = softmax(foreseen.log_weight / temperature, axis=0)
    z = np.empty(len(choice))
    for i in range(len(choice)):
        k = min(int(np.searchsorted(np.cumsum(weights[:, i]), choice[i])), len(weights) - 1)
        z[i] = foreseen.mean[k, i] + foreseen.scale[k, i] * np.sqrt(temperature) * normal[i]
    return z


def act(controller: Controller, z: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """C: W [z, h] + b, squashed as in Ha & Schmidhuber's code."""
    features = np.concatenate([z, hidden])
    raw = np.tanh(features @ _double(controller.weight) + _double(controller.bias))
    return np.array([raw[0], (raw[1] + 1) / 2, min(max(raw[2], 0.0), 1.0)])
