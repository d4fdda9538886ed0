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
        self.weight = jnp.zeros((features, ACTION_SIZE))
        self.bias = jnp.zeros(ACTION_SIZE)

    def __call__(
        self, z: Float[Array, "*batch latent"], hidden: Float[Array, "*batch hidden"]
    ) -> Float[Array, "*batch 3"]:
        """The action, squashed as in the paper: tanh, (tanh + 1) / 2, clip(tanh, 0, 1)."""
        raw = jnp.tanh(jnp.concatenate([z, hidden], axis=-1) @ self.weight + self.bias)
        return jnp.stack([raw[..., 0], (raw[..., 1] + 1) / 2, jnp.clip(raw[..., 2], 0, 1)], axis=-1)


class Whitening(eqx.Module):
    """Mean and scale of each feature of [z, h], so that one mutation strength fits all weights.

    The search works on whitened features, ([z, h] − mean) / scale; a controller that drives takes
    the raw ones. The last `masked` features are hidden from C: the search has no weights for them.
    """

    mean: Float[Array, " features"]
    scale: Float[Array, " features"]
    masked: int = eqx.field(static=True, default=0)

    @property
    def visible(self) -> int:
        """The number of features that C sees."""
        return self.mean.shape[0] - self.masked

    def to_raw(self, controller: Controller) -> Controller:
        """The controller on raw features that equals `controller` on whitened, visible ones.

        The weights of masked features are zero.
        """
        weight = jnp.pad(controller.weight, ((0, self.masked), (0, 0))) / self.scale[:, None]
        return eqx.tree_at(
            lambda c: (c.weight, c.bias), controller, (weight, controller.bias - self.mean @ weight)
        )

    def to_whitened(self, controller: Controller) -> Controller:
        """The inverse of `to_raw`."""
        weight = (controller.weight * self.scale[:, None])[: self.visible]
        bias = controller.bias + self.mean @ controller.weight
        return eqx.tree_at(lambda c: (c.weight, c.bias), controller, (weight, bias))
