"""C: one linear layer from [z, h] to the action (Ha & Schmidhuber 2018, section 2.3)."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from models.rnn import ACTION_SIZE


class Controller(eqx.Module):
    """[z_t, h_t] -> (steer, gas, brake); (32 + 256) × 3 + 3 = 867 parameters by default."""

    weight: Float[Array, "features 3"]
    bias: Float[Array, " 3"]

    def __init__(self, features: int):
        # Zeros steer straight ahead at half gas without braking: the starting point of the search.
        self.weight = jnp.zeros((features, ACTION_SIZE), jnp.float32)
        self.bias = jnp.zeros(ACTION_SIZE, jnp.float32)

    def __call__(
        self, z: Float[Array, "*batch latent"], hidden: Float[Array, "*batch hidden"]
    ) -> Float[Array, "*batch 3"]:
        """The action, squashed as in the paper: tanh, (tanh + 1) / 2, clip(tanh, 0, 1)."""
        raw = jnp.tanh(jnp.concatenate([z, hidden], axis=-1) @ self.weight + self.bias)
        return jnp.stack([raw[..., 0], (raw[..., 1] + 1) / 2, jnp.clip(raw[..., 2], 0, 1)], axis=-1)


class Whitening(eqx.Module):
    """The space that the search works in: principal components of whitened [z, h].

    Whitened features are ([z, h] − mean) / scale, so that one mutation strength fits all weights.
    The components span the first features only where the others are masked: C does not see those.
    """

    mean: Float[Array, " features"]
    scale: Float[Array, " features"]
    basis: Float[Array, "visible components"]  # orthonormal columns

    @property
    def components(self) -> int:
        """The number of inputs of a controller in this space."""
        return self.basis.shape[1]

    def to_raw(self, controller: Controller) -> Controller:
        """The controller on [z, h] that equals `controller` on the components.

        The weights of masked features are zero.
        """
        visible = self.basis @ controller.weight
        masked = len(self.mean) - len(visible)
        weight = jnp.pad(visible, ((0, masked), (0, 0))) / self.scale[:, None]
        return eqx.tree_at(
            lambda c: (c.weight, c.bias), controller, (weight, controller.bias - self.mean @ weight)
        )
