"""Run folders on the Hugging Face Hub: hf://OWNER/NAME, or hf://OWNER/NAME@REVISION.

They are downloaded to the Hub's cache ($HF_HOME, by default ~/.cache/huggingface) and read there.
What is in the cache needs no network.
"""

import contextlib
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from utils.errors import UserError
from utils.settings import on_hub

MODELS = ("vae.eqx", "rnn.eqx", "controller.eqx")
# What a run folder on the Hub holds besides the models. No other file is downloaded.
RECORDS = (
    *("starts.eqx", "evaluation.json"),
    *("vae.metrics.jsonl", "rnn.metrics.jsonl", "controller.metrics.jsonl"),
)
ADDRESS = re.compile(r"(?:hf:/+)?([\w.-]+/[\w.-]+)(?:@([\w.-]+(?:/[\w.-]+)*))?")


class Repository(NamedTuple):
    """A repository on the Hub."""

    name: str  # OWNER/NAME
    revision: str | None  # branch, tag or commit; None for the newest

    def __str__(self) -> str:
        return f"hf://{self.name}" + (f"@{self.revision}" if self.revision else "")


def parse_address(address: str | Path) -> Repository:
    """The repository at `hf://OWNER/NAME` or `OWNER/NAME`. Raises UserError."""
    match = ADDRESS.fullmatch(str(address))
    if match is None:
        raise UserError(f"{address} is not the address of a repository: hf://OWNER/NAME")
    return Repository(match[1], match[2])


def fetch_run_folder(run_dir: str | Path) -> Path:
    """A local folder as it is; for one on the Hub, its copy in the Hub's cache.

    Raises UserError if the repository cannot be read or has no V, M and C.
    """
    if not on_hub(run_dir):
        return Path(run_dir)
    repository = parse_address(run_dir)
    with hub_client(repository) as hub:
        folder = Path(
            hub.snapshot_download(
                repository.name,
                revision=repository.revision,
                allow_patterns=[*MODELS, *RECORDS],
            )
        )
    missing = [name for name in MODELS if not (folder / name).exists()]
    if missing:
        raise UserError(f"{repository} is not an agent of this project: no {missing[0]}")
    return folder


def require_local(run_dir: Path, flag: str) -> Path:
    """The run folder, where results go if `flag` names no other place. UserError if on the Hub."""
    if on_hub(run_dir):
        raise UserError(f"{parse_address(run_dir)} can only be read: name a place with {flag}")
    return run_dir


@contextlib.contextmanager
def hub_client(repository: Repository) -> Iterator[Any]:
    """The huggingface_hub module. Its errors about `repository` become UserErrors of one line."""
    try:
        # By name, so that type checkers and readers of imports need no optional package.
        hub: Any = importlib.import_module("huggingface_hub")
        errors: Any = importlib.import_module("huggingface_hub.errors")
        constants: Any = importlib.import_module("huggingface_hub.constants")
        log: Any = importlib.import_module("huggingface_hub.utils.logging")
    except ImportError as error:
        raise UserError(f"{error.name} is missing: pip install -r requirements/hub.txt") from error
    log.set_verbosity_error()  # its warnings repeat what the errors say
    try:
        yield hub
    except (errors.HTTPError, OSError, RuntimeError, ValueError) as error:
        raise UserError(f"{repository}: {_explain(error, errors, constants.ENDPOINT)}") from error


def _explain(error: Any, errors: Any, endpoint: str) -> str:
    """What a user can do about an error of huggingface_hub, in one line."""
    token = "HF_TOKEN, or hf auth login"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"{endpoint} has no such repository, or it is private and needs a token ({token})"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{endpoint} has no such revision of the repository"
    if isinstance(error, errors.HfHubHTTPError):
        status = error.response.status_code
        refused = f"refuses the token ({token})" if status in (401, 403) else "fails"
        reason = f": {error.server_message}" if error.server_message else ""
        return f"{endpoint} {refused}, HTTP {status}{reason}"
    if isinstance(error, errors.LocalEntryNotFoundError):
        return f"{endpoint} cannot be reached, and the cache lacks the files"
    if isinstance(error, (errors.HTTPError, errors.OfflineModeIsEnabled)):
        return f"{endpoint} cannot be reached"
    return " ".join(str(error).split())  # a full disk, hf_xet, or a server that is not a Hub
