"""Share an agent on the Hugging Face Hub, or download one.

    python -m tools.hub push OWNER/NAME --run-dir runs/default
    python -m tools.hub pull OWNER/NAME --run-dir runs/theirs
    python test_agent.py --run-dir hf://OWNER/NAME --output-dir runs/theirs    # without pull

push uploads the models of --run-dir in one commit, with the states that dreams start from, the
metrics and the newest evaluation.json, where they exist. It adds the weights as model.safetensors
and a model card. The card's score is that of evaluation.json, so run test_agent.py first; its data
are those of --data-dir, if M was trained on exactly these. A repository that does not exist is
created. An earlier push is replaced, its model card too.

pull downloads these files, without the safetensors and the card, to --run-dir.

push needs a token with write access: the environment variable HF_TOKEN, or `hf auth login`.
Requires `pip install -r requirements/hub.txt`.
"""

import importlib
import json
import shutil
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np

from envs.dream import load_starts
from models.rnn import MDNRNN
from tools.hub.card import Facts, model_card
from tools.report.run_record import LOADERS, read_evaluation
from utils import runtime
from utils.data.episodes import dataset_fingerprint, scan_latents
from utils.errors import UserError
from utils.io.checkpoints import Header
from utils.io.files import locked, sha256_of, write_atomically
from utils.io.hub import MODELS, RECORDS, Repository, fetch_run_folder, hub_client, parse_address
from utils.io.run_folder import AgentFiles, find_agent
from utils.settings import CommonSettings, parse, setting
from utils.sim.agent import Agent

CARD, WEIGHTS, VIDEO = "README.md", "model.safetensors", "replay.mp4"
UPLOADED = (*MODELS, *RECORDS, CARD, WEIGHTS, VIDEO)


@dataclass(frozen=True)
class Settings(CommonSettings):
    """The arguments of this script."""

    action: str = setting("", "upload or download", choices=("push", "pull"), positional=True)
    repository: str = setting("", "OWNER/NAME, or OWNER/NAME@REVISION to pull", positional=True)
    license: str = setting("mit", "licence of the weights, as the Hub names it")
    private: bool = setting(False, "create a repository that only its owner can see")


PRESETS: dict[str, dict[str, Any]] = {}


def main(settings: Settings) -> None:
    """Push or pull."""
    repository = parse_address(settings.repository)
    if settings.action == "push":
        push(settings, repository)
    else:
        pull(settings.run_dir, repository)


def push(settings: Settings, repository: Repository) -> None:
    """Upload an agent. The repository has all of it or, after an error, nothing new."""
    if repository.revision:
        raise UserError(f"{repository}: push without a revision, to the main branch")
    with hub_client(repository) as hub:  # an error if it is not installed, before any work
        api = hub.HfApi()
        contents = contents_of(settings, repository, hub)
        api.create_repo(repository.name, private=settings.private or None, exist_ok=True)
        stale = set(api.list_repo_files(repository.name)) & (set(UPLOADED) - set(contents))
        api.create_commit(
            repository.name,
            [
                *(hub.CommitOperationAdd(name, content) for name, content in contents.items()),
                *(hub.CommitOperationDelete(name) for name in sorted(stale)),
            ],
            commit_message="Upload a world model",
        )
    print(f"{repository}: {', '.join(contents)}")


def contents_of(settings: Settings, repository: Repository, hub: Any) -> dict[str, str | bytes]:
    """What the repository is to hold: paths, and the bytes of files that are made here.

    Raises UserError if the files of the run folder do not belong together.
    """
    run_dir = settings.run_dir
    files = find_agent(run_dir, "tools.hub")
    agent = Agent.load(files)  # raises UserError if the parts do not belong together
    contents: dict[str, str | bytes] = {
        name: str(run_dir / name) for name in (*MODELS, *RECORDS) if (run_dir / name).exists()
    }
    if "starts.eqx" in contents:
        load_starts(run_dir, agent.rnn, None)
    evaluation = evaluation_of(run_dir, files)
    video = run_dir / f"track_{evaluation['tracks'][0]}.mp4" if evaluation else None
    if video is not None and video.exists():
        contents[VIDEO] = str(video)
    models = {name: LOADERS[name](getattr(files, name)) for name in LOADERS}
    headers = {name: header for name, (header, _) in models.items()}
    facts = Facts(
        repository.name,
        settings.license,
        headers,
        files.sha256(),
        evaluation,
        data_of(settings.data_dir, headers["rnn"], agent.rnn),
    )
    contents[WEIGHTS] = safetensors_of(models)
    contents[CARD] = model_card(facts, hub).encode()
    return contents


def evaluation_of(run_dir: Path, files: AgentFiles) -> dict[str, Any] | None:
    """The run folder's evaluation.json. UserError if it is of another agent."""
    evaluation = read_evaluation(run_dir)
    if evaluation is None:
        print(f"no {run_dir / 'evaluation.json'}: the card has no score; test_agent.py makes one")
    elif evaluation.get("agent") != files.sha256():
        raise UserError(
            f"{run_dir / 'evaluation.json'} is the score of another agent: run test_agent.py"
        )
    return evaluation


def data_of(data_dir: Path, header: Header, rnn: MDNRNN) -> dict[str, tuple[int, int]] | None:
    """Episodes and frames by mode, if M was trained on exactly the latents of `data_dir`."""
    entries = scan_latents(data_dir, rnn.latent)
    if dataset_fingerprint(entries) != header.inputs["data"]:
        return None
    counts: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
    for entry in entries:
        episodes, frames = counts[entry.mode]
        counts[entry.mode] = episodes + 1, frames + entry.steps + 1
    return dict(counts)


def safetensors_of(models: dict[str, tuple[Header, Any]]) -> bytes:
    """V, M and C as one safetensors file, in the precision of their checkpoints.

    Each tensor is named by its path, such as vae.decoder.0.weight. The sizes of the models are in
    the metadata.
    """
    try:
        safetensors: Any = importlib.import_module("safetensors.numpy")
    except ImportError as error:
        raise UserError(f"{error.name} is missing: pip install -r requirements/hub.txt") from error
    tensors = {}
    for name, (header, model) in models.items():
        for path, leaf in jax.tree_util.tree_leaves_with_path(eqx.filter(model, eqx.is_array)):
            place = jax.tree_util.keystr(path, simple=True, separator=".")
            tensors[f"{name}.{place}"] = np.asarray(leaf, header.precision)
    sizes = {name: json.dumps(header.sizes) for name, (header, _) in models.items()}
    return safetensors.save(tensors, metadata=sizes)


def pull(run_dir: Path, repository: Repository) -> None:
    """Download an agent into a run folder. Files that are there already are never replaced."""
    source = fetch_run_folder(f"hf://{repository.name}" + f"@{repository.revision or 'main'}")
    Agent.load(AgentFiles.of_run(source))  # raises UserError if a file is damaged
    names = [name for name in (*MODELS, *RECORDS) if (source / name).exists()]
    with locked(run_dir):
        missing = [name for name in names if not (run_dir / name).exists()]
        for name in set(names) - set(missing):
            if sha256_of(run_dir / name) != sha256_of(source / name):
                raise UserError(f"{run_dir / name} is of another agent: choose another --run-dir")
        for name in missing:
            copy(source / name, run_dir / name)
    print(f"{run_dir}: {', '.join(names)}")


def copy(source: Path, target: Path) -> None:
    """Copy a file, atomically."""
    with open(source, "rb") as file:
        write_atomically(target, lambda copied: shutil.copyfileobj(file, copied))


if __name__ == "__main__":
    runtime.run(main, parse(Settings, __doc__, PRESETS))
