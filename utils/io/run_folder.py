"""The models in a run folder, and whether they were trained for each other."""

import dataclasses
from pathlib import Path

from utils.errors import UserError
from utils.io.files import sha256_of, write_atomically
from utils.io.hub import fetch_run_folder


@dataclasses.dataclass(frozen=True)
class AgentFiles:
    """The paths of an agent's three models."""

    vae: Path
    rnn: Path
    controller: Path

    @classmethod
    def of_run(cls, run_dir: Path) -> "AgentFiles":
        """The models of a run folder."""
        return cls(run_dir / "vae.eqx", run_dir / "rnn.eqx", run_dir / "controller.eqx")

    def sha256(self) -> dict[str, str]:
        """The sha256 of each file, which identify the agent."""
        return {part: sha256_of(path) for part, path in dataclasses.asdict(self).items()}


def copy_agent(source: Path, target: Path) -> None:
    """Copy V, M, C and the start states, if there are some, to another run folder.

    Each file is copied atomically.
    """
    paths = [*dataclasses.astuple(AgentFiles.of_run(source)), source / "starts.eqx"]
    for path in filter(Path.exists, paths):
        data = path.read_bytes()
        write_atomically(target / path.name, lambda file, data=data: file.write(data))


def find_agent(run_dir: Path, purpose: str) -> AgentFiles:
    """The agent in a run folder, downloaded if that is on the Hugging Face Hub.

    Raises UserError that names the missing model and its step.
    """
    agent = AgentFiles.of_run(fetch_run_folder(run_dir))
    steps = {"vae": "run_vae_training.py", "rnn": "train_rnn.py", "controller": "train_dream.py"}
    for part, script in steps.items():
        path = getattr(agent, part)
        if not path.exists():
            raise UserError(f"{purpose} needs an agent, but {path} is missing: run {script}")
    return agent


def check_compatible(path: Path, inputs: dict[str, str], part: str, expected: Path) -> None:
    """Raise UserError unless the model at `path` was trained with the file `expected`."""
    if inputs.get(part) != sha256_of(expected):
        raise UserError(
            f"{path} was made with another {part} than {expected}; they do not fit together"
        )
