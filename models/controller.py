"""C: one linear layer from what is seen and remembered to the controls (section 2.3)."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from models.rnn import ACTIONS


class Controller(eqx.Module):
    """[z_t, h_t] -> steer, gas, brake; (32 + 256) × 3 + 3 = 867 parameters."""

    weight: Float[Array, "features 3"]
    bias: Float[Array, " 3"]

    def __init__(self, features: int):
        # Zeros: straight ahead, half gas, no brake. The search begins there, nothing is cloned.
        self.weight = jnp.zeros((features, ACTIONS))
        self.bias = jnp.zeros(ACTIONS)

    def __call__(
        self, z: Float[Array, "*batch latent"], hidden: Float[Array, "*batch hidden"]
    ) -> Float[Array, "*batch 3"]:
        """The action, squashed as in the paper: tanh, (tanh + 1) / 2, clip(tanh, 0, 1)."""
        raw = jnp.tanh(jnp.concatenate([z, hidden], axis=-1) @ self.weight + self.bias)
        return jnp.stack([raw[..., 0], (raw[..., 1] + 1) / 2, jnp.clip(raw[..., 2], 0, 1)], axis=-1)


class Whitening(eqx.Module):
    """Mean and scale of [z, h], so that one mutation strength fits all 867 parameters.

    The last `unseen` features are hidden from C: the search has no weights for them.
    """

    mean: Float[Array, " features"]
    scale: Float[Array, " features"]
    unseen: int = eqx.field(static=True, default=0)

    @property
    def seen(self) -> int:
        """How many features C sees."""
        return self.mean.shape[0] - self.unseen

    def fold(self, controller: Controller) -> Controller:
        """The controller on [z, h] that equals `controller` on what it sees, whitened.

        Whitened is ([z, h] − mean) / scale; the weights of what is unseen are zero.
        """
        weight = jnp.pad(controller.weight, ((0, self.unseen), (0, 0))) / self.scale[:, None]
        return eqx.tree_at(
            lambda c: (c.weight, c.bias), controller, (weight, controller.bias - self.mean @ weight)
        )

    def unfold(self, controller: Controller) -> Controller:
        """The inverse of `fold`."""
        weight = (controller.weight * self.scale[:, None])[: self.seen]
        bias = controller.bias + self.mean @ controller.weight
        return eqx.tree_at(lambda c: (c.weight, c.bias), controller, (weight, bias))
