"""The agent on the real track: V sees, C decides, M remembers. And where its parts come from."""

from pathlib import Path
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float, UInt8

from models.controller import Controller
from models.rnn import MDNRNN, LSTMState
from models.vae import ConvVAE
from utils.checkpoints import load_controller, load_rnn, load_vae
from utils.commandline import Failure
from utils.driving import AgentFiles
from utils.files import sha256_of


@eqx.filter_jit
def see(vae: ConvVAE, frame: UInt8[Array, "64 64 3"]) -> Float[Array, " latent"]:
    """The frame's latent: mu, since a driver has no use for the encoder's noise."""
    return vae.encode(frame)[0]


@eqx.filter_jit
def decide(
    controller: Controller, z: Float[Array, " latent"], memory: LSTMState
) -> Float[Array, " 3"]:
    """The action for what is seen and remembered."""
    return controller(z, memory.hidden)


@eqx.filter_jit
def remember(
    rnn: MDNRNN, memory: LSTMState, z: Float[Array, " latent"], action: Float[Array, " 3"]
) -> LSTMState:
    """The memory after z was seen and the action done."""
    return rnn.step(memory, z, action)[0]


class Agent:
    """Drives with a trained V, M and C; a `Driver`."""

    def __init__(self, vae: ConvVAE, rnn: MDNRNN, controller: Controller):
        self.vae, self.rnn, self.controller = vae, rnn, controller
        self.reset()

    @classmethod
    def load(cls, files: AgentFiles) -> "Agent":
        """Read the three parts; Failure if they do not belong together."""
        _, vae = load_vae(files.vae)
        rnn_header, rnn = load_rnn(files.rnn)
        controller_header, controller = load_controller(files.controller)
        require_lineage(files.rnn, rnn_header.inputs, "vae", files.vae)
        require_lineage(files.controller, controller_header.inputs, "vae", files.vae)
        require_lineage(files.controller, controller_header.inputs, "rnn", files.rnn)
        return cls(vae, rnn, controller)

    def reset(self, environment: Any = None) -> None:
        """Begin an episode with an empty memory."""
        self.memory = self.rnn.initial_state()

    def decide(self, frame: np.ndarray) -> np.ndarray:
        """Frame uint8 (64, 64, 3) -> action float32 (3), before the memory has seen either."""
        self.z = see(self.vae, frame)
        return np.asarray(decide(self.controller, self.z, self.memory))

    def remember(self, action: np.ndarray) -> None:
        """Put the frame just seen and the action really done into the memory."""
        self.memory = remember(self.rnn, self.memory, self.z, action)

    def act(self, frame: np.ndarray) -> np.ndarray:
        """`decide`, then `remember`."""
        action = self.decide(frame)
        self.remember(action)
        return action


def require_lineage(path: Path, inputs: dict[str, str], part: str, expected: Path) -> None:
    """Failure unless the model at `path` was made from the very file `expected`."""
    if inputs.get(part) != sha256_of(expected):
        raise Failure(f"{path} was made with another {part} than {expected}; they do not fit")
