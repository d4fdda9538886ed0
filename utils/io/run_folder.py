"""What a run folder holds: V, M and C, and whether they belong together."""

import dataclasses
from pathlib import Path

from utils.errors import UserError
from utils.io.files import sha256_of


@dataclasses.dataclass(frozen=True)
class AgentFiles:
    """Where an agent's three parts lie."""

    vae: Path
    rnn: Path
    controller: Path

    @classmethod
    def of_run(cls, run_dir: Path) -> "AgentFiles":
        """The agent of a run folder."""
        return cls(run_dir / "vae.eqx", run_dir / "rnn.eqx", run_dir / "controller.eqx")

    def sha256(self) -> dict[str, str]:
        """The sha256 of each part: the agent's name in every lineage."""
        return {part: sha256_of(path) for part, path in dataclasses.asdict(self).items()}


def find_agent(run_dir: Path, purpose: str) -> AgentFiles:
    """The agent of a run folder; UserError names the step that is missing."""
    agent = AgentFiles.of_run(run_dir)
    steps = {"vae": "run_vae_training.py", "rnn": "train_rnn.py", "controller": "train_dream.py"}
    for part, script in steps.items():
        path = getattr(agent, part)
        if not path.exists():
            raise UserError(f"{purpose} needs an agent, but {path} is missing: run {script}")
    return agent


def check_compatible(path: Path, inputs: dict[str, str], part: str, expected: Path) -> None:
    """UserError unless the model at `path` was made from the very file `expected`."""
    if inputs.get(part) != sha256_of(expected):
        raise UserError(f"{path} was made with another {part} than {expected}; they do not fit")
