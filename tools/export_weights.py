"""Ship an agent: copy its V, M and C with weights in half precision, small enough to commit.

    python -m tools.export_weights --run-dir runs/default                      # to pretrained/
    python -m tools.export_weights --run-dir runs/default --output-dir another

Reads vae.eqx, rnn.eqx and controller.eqx of --run-dir. Writes the same three to --output-dir, each
named in the next one's lineage. The copies are agents like any other: every script takes the folder
as its --run-dir. They drive a little differently from what they were copied from, since their
weights are rounded: score the copy, not the original.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from utils import runtime
from utils.io import checkpoints
from utils.io.files import locked, sha256_of
from utils.io.run_folder import AgentFiles, find_agent
from utils.settings import CommonSettings, parse, setting
from utils.sim.agent import Agent

LOADERS = {
    "vae": checkpoints.load_vae,
    "rnn": checkpoints.load_rnn,
    "controller": checkpoints.load_controller,
}


@dataclass(frozen=True)
class Settings(CommonSettings):
    """The flags of this script."""

    output_dir: Path = setting(Path("pretrained"), "where the copies go")


def main(settings: Settings) -> None:
    """Copy the agent of a run."""
    files = find_agent(settings.run_dir, "shipping")
    Agent.load(files)  # refuses parts that do not belong together
    copies = AgentFiles.of_run(settings.output_dir)
    inputs: dict[str, str] = {}
    with locked(settings.output_dir):
        for part, load in LOADERS.items():
            header, model = load(getattr(files, part))
            header = dataclasses.replace(
                header, precision="float16", inputs={**header.inputs, **inputs}
            )
            copy = getattr(copies, part)
            checkpoints.save(copy, header, model)
            inputs[part] = sha256_of(copy)
            print(f"{copy}: {copy.stat().st_size / 1e6:.1f} MB, sha256 {inputs[part]}")


if __name__ == "__main__":
    runtime.run(main, parse(Settings, __doc__, {}))
