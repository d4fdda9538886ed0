"""Agents on the Hugging Face Hub: a local server stands in for it."""

import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from hub_server import TOKEN, HubServer
from scripts import ROOT

from tools.hub.card import Facts, model_card
from utils.errors import UserError
from utils.io.checkpoints import load_rnn, load_vae, read_header
from utils.io.hub import fetch_run_folder, parse_address
from utils.settings import parse

huggingface_hub = pytest.importorskip(
    "huggingface_hub", reason="pip install -r requirements/hub.txt"
)
safetensors = pytest.importorskip("safetensors.numpy", reason="pip install -r requirements/hub.txt")

MODELS = ("vae.eqx", "rnn.eqx", "controller.eqx")
AGENT = "driver/car"
TRACK = 85_000_003  # a validation track
DRIVE = ("--first-track", f"{TRACK}", "--episodes", "1", "--videos", "0", "--workers", "1")
FETCH = "from utils.io.hub import fetch_run_folder as fetch; print(fetch('hf://{}'))"
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def server() -> HubServer:
    return HubServer()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def run(server: HubServer, home: Path) -> Run:
    """Runs Python as a user of that server; other variables replace these."""

    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {
            **os.environ,
            "HF_ENDPOINT": server.endpoint,
            "HF_HOME": str(home),
            "HF_TOKEN": TOKEN,
            "HF_HUB_DISABLE_XET": "1",  # the server has Git LFS alone
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            **variables,
        }
        command = [sys.executable, *arguments]
        return subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600
        )

    return run


def one_line(done: subprocess.CompletedProcess[str], code: int = 1) -> str:
    """The single line of a failure."""
    assert done.returncode == code, done.stderr
    (line,) = done.stderr.strip().splitlines()
    return line


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory, run: Run) -> Path:
    """The shipped agent in a run folder, tested on one track."""
    folder = tmp_path_factory.mktemp("runs") / "car"
    folder.mkdir()
    for name in (*MODELS, "starts.eqx"):
        shutil.copy2(ROOT / "pretrained" / name, folder)
    (folder / f"track_{TRACK}.mp4").write_bytes(b"a video")
    (folder / "rnn.metrics.jsonl").write_text('{"step": 1, "nll": 1.0}\n')
    (folder / "rnn.training.eqx").write_bytes(b"the state of a training, for nobody else")
    done = run("test_agent.py", "--run-dir", str(folder), *DRIVE)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def pushed(run_dir: Path, run: Run, server: HubServer, home: Path) -> dict[str, bytes]:
    done = run("-m", "tools.hub", "push", AGENT, "--run-dir", str(run_dir))
    assert done.returncode == 0, done.stderr
    assert f"hf://{AGENT}" in done.stdout
    return server.files(AGENT)


def test_push_uploads_what_others_need_and_nothing_else(
    pushed: dict[str, bytes], run_dir: Path, server: HubServer
) -> None:
    same = {*MODELS, "starts.eqx", "evaluation.json", "rnn.metrics.jsonl"}
    assert set(pushed) == {*same, "README.md", "model.safetensors", "replay.mp4", ".gitattributes"}
    for name in same:
        assert pushed[name] == (run_dir / name).read_bytes()
    assert pushed["replay.mp4"] == b"a video"
    assert len(server.commits[AGENT]) == 2  # all in one commit after the one of its creation
    assert server.private[AGENT] is False


def test_the_card_has_the_score_that_was_measured(pushed: dict[str, bytes], run_dir: Path) -> None:
    evaluation = json.loads((run_dir / "evaluation.json").read_text())
    _, head, text = pushed["README.md"].decode().split("---\n", 2)
    metadata = yaml.safe_load(head)
    assert metadata["license"] == "mit" and metadata["library_name"] == "jax"
    assert {"reinforcement-learning", "CarRacing-v3"} <= set(metadata["tags"])
    (model,) = metadata["model-index"]
    (result,) = model["results"]
    (metric,) = result["metrics"]
    assert model["name"] == "car"
    assert metric["type"] == "mean_reward"
    assert metric["value"] == f"{evaluation['scores'][0]:.1f}"  # one drive has no spread
    assert result["dataset"]["args"] == {"first_track": TRACK, "last_track": TRACK, "episodes": 1}
    assert f"1 validation track, seed {TRACK}, one drive each" in text
    assert f"**{evaluation['scores'][0]:.1f}**: mean of the return over" in text
    assert read_header(run_dir / "rnn.eqx").inputs["data"] in text
    assert str(run_dir.parent) not in pushed["README.md"].decode()  # no path of this machine


def test_the_safetensors_are_the_weights(pushed: dict[str, bytes], run_dir: Path) -> None:
    tensors = safetensors.load(pushed["model.safetensors"])
    assert {tensor.dtype for tensor in tensors.values()} == {np.dtype("float16")}
    _, vae = load_vae(run_dir / "vae.eqx")
    _, rnn = load_rnn(run_dir / "rnn.eqx")
    np.testing.assert_array_equal(tensors["vae.decoder.0.weight"], vae.decoder[0].weight)
    np.testing.assert_array_equal(tensors["rnn.cell.weight_hh"], rnn.cell.weight_hh)
    assert tensors["controller.weight"].size == 864
    assert sum(tensor.size for tensor in tensors.values()) == 4_348_547 + 422_882 + 867


def test_pull_writes_the_same_bytes_and_replaces_none(
    pushed: dict[str, bytes], run: Run, tmp_path: Path
) -> None:
    pull = ("-m", "tools.hub", "pull", AGENT, "--run-dir", str(tmp_path / "theirs"))
    for _ in range(2):  # again: nothing is left to do
        done = run(*pull)
        assert done.returncode == 0, done.stderr
        copies = {path.name: path.read_bytes() for path in (tmp_path / "theirs").iterdir()}
        del copies[".lock"]
        assert set(copies) == {*MODELS, "starts.eqx", "evaluation.json", "rnn.metrics.jsonl"}
        assert all(copies[name] == pushed[name] for name in copies)
    (tmp_path / "theirs" / "controller.eqx").write_bytes(b"my own")
    assert "controller.eqx is of another agent" in one_line(run(*pull))
    assert (tmp_path / "theirs" / "controller.eqx").read_bytes() == b"my own"


def test_an_agent_on_the_hub_drives_to_the_same_score(
    pushed: dict[str, bytes], run: Run, tmp_path: Path
) -> None:
    address = f"hf://{AGENT}"
    assert "name a place with --output-dir" in one_line(run("test_agent.py", "--run-dir", address))
    done = run("test_agent.py", "--run-dir", address, "--output-dir", str(tmp_path), *DRIVE)
    assert done.returncode == 0, done.stderr
    measured = json.loads((tmp_path / "evaluation.json").read_text())
    evaluation = json.loads(pushed["evaluation.json"])
    assert measured["scores"] == evaluation["scores"] and measured["agent"] == evaluation["agent"]


def test_what_was_downloaded_once_needs_no_network(
    pushed: dict[str, bytes], run: Run, server: HubServer
) -> None:
    code = FETCH.format(AGENT)
    folder = Path(run("-c", code).stdout.strip())
    assert {path.name: path.read_bytes() for path in folder.glob("*.eqx")} == {
        name: data for name, data in pushed.items() if name.endswith(".eqx")
    }
    before = len(server.requests)
    for offline in ({"HF_ENDPOINT": "http://127.0.0.1:9"}, {"HF_HUB_OFFLINE": "1"}):
        again = run("-c", code, **offline)
        assert (again.returncode, again.stdout.strip()) == (0, str(folder)), again.stderr
    assert len(server.requests) == before


def test_its_dream_is_an_environment(pushed: dict[str, bytes], run: Run) -> None:
    code = (
        "import gymnasium\n"
        f"env = gymnasium.make('envs:DreamCarRacing-v0', run_dir='hf://{AGENT}@main')\n"
        "print(env.reset(seed=0)[0].shape)\n"
        f"env = gymnasium.make('envs:RealCarRacing-v0', run_dir='hf://{AGENT}')\n"
        "print(env.observation_space.shape)"
    )
    done = run("-c", code)
    assert done.stdout.split("\n")[:2] == ["(288,)", "(288,)"], done.stderr


REPORT = ("-m", "tools.report", "--output", "page.html", "--run-dir")


@pytest.mark.parametrize(
    ("repository", "variables", "message"),
    [
        (AGENT, {"HF_ENDPOINT": "http://127.0.0.1:9"}, "cannot be reached, and the cache lacks"),
        (AGENT, {"HF_HUB_OFFLINE": "1"}, "cannot be reached, and the cache lacks"),
        (AGENT, {"HF_TOKEN": "hf_wrong"}, "refuses the token (HF_TOKEN, or hf auth login)"),
        ("driver/nothing", {}, "has no such repository"),
        ("driver/nothing", {"HF_TOKEN": ""}, "has no such repository, or it is private"),
        (f"{AGENT}@v9", {}, "has no such revision"),
        ("driver", {}, "is not the address of a repository"),
        ("driver/empty", {}, "is not an agent of this project: no vae.eqx"),
    ],
)
def test_pulling_fails_in_one_line(
    repository: str,
    variables: dict[str, str],
    message: str,
    pushed: dict[str, bytes],
    server: HubServer,
    run: Run,
    tmp_path: Path,
) -> None:
    server.commits.setdefault("driver/empty", [{"config.json": b"{}"}])
    done = run(*REPORT, f"hf://{repository}", HF_HOME=str(tmp_path), **variables)
    line = one_line(done)
    assert line.startswith("python -m tools.report: hf:/") and message in line


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "http://127.0.0.1:9 cannot be reached"),
        ({"HF_TOKEN": "hf_wrong"}, "refuses the token (HF_TOKEN, or hf auth login), HTTP 401"),
        ({"HF_TOKEN": ""}, "refuses the token (HF_TOKEN, or hf auth login), HTTP 401"),
    ],
)
def test_pushing_fails_in_one_line(
    variables: dict[str, str], message: str, run_dir: Path, run: Run, tmp_path: Path
) -> None:
    push = ("-m", "tools.hub", "push", "driver/new", "--run-dir", str(run_dir))
    assert message in one_line(run(*push, HF_HOME=str(tmp_path), **variables))


def test_a_score_of_another_agent_is_never_pushed(
    pushed: dict[str, bytes], run_dir: Path, run: Run, server: HubServer, tmp_path: Path
) -> None:
    folder = tmp_path / "car"
    shutil.copytree(run_dir, folder)
    evaluation = json.loads((folder / "evaluation.json").read_text())
    evaluation["agent"]["controller"] = "0" * 64
    (folder / "evaluation.json").write_text(json.dumps(evaluation))
    push = ("-m", "tools.hub", "push", "driver/unmeasured", "--run-dir", str(folder))
    assert "is the score of another agent: run test_agent.py" in one_line(run(*push))
    assert "driver/unmeasured" not in server.commits
    # Without any score, the card says so; a file of an earlier push does not stay.
    (folder / "evaluation.json").unlink()
    server.commits["driver/unmeasured"] = [{"evaluation.json": b"{}", "notes.txt": b"mine"}]
    done = run(*push)
    assert done.returncode == 0, done.stderr
    assert "the card has no score" in done.stdout
    files = server.files("driver/unmeasured")
    assert "evaluation.json" not in files and files["notes.txt"] == b"mine"
    card = files["README.md"].decode()
    assert "Not measured." in card and "model-index" not in yaml.safe_load(card.split("---")[1])


def test_the_card_counts_the_data_where_they_are_known(run_dir: Path) -> None:
    headers = {name.removesuffix(".eqx"): read_header(run_dir / name) for name in MODELS}
    evaluation = {
        "split": "test",
        "tracks": list(range(90_000_000, 90_000_100)),
        "scores": [900.0] * 99 + [800.0],
        "mean": 899.0,
        "std": 9.95,
        "interval": [897.0, 900.0],
        "finished": [True] * 90 + [False] * 10,
        "versions": {"jax": "0.10.2"},
    }
    facts = Facts(
        AGENT, "mit", headers, dict.fromkeys(headers, "a" * 64), evaluation, {"random": (3, 1234)}
    )
    text = model_card(facts, huggingface_hub)
    assert "| random | 3 | 1,234 |" in text
    assert "100 test tracks, seeds 90000000 … 90000099, one drive each" in text
    assert "**899.0 ± 9.9** (95% interval of the mean 897 … 900)" in text.replace("9.95", "9.9")
    (model,) = yaml.safe_load(text.split("---")[1])["model-index"]
    assert model["results"][0]["dataset"]["split"] == "test"


@pytest.mark.parametrize(
    "script",
    ["run_vae_training", "train_rnn", "train_dream", "tools.iterate", "tools.ablate", "tools.hub"],
)
def test_scripts_that_write_a_run_folder_refuse_one_on_the_hub(
    script: str, capsys: pytest.CaptureFixture[str]
) -> None:
    module = importlib.import_module("tools.hub.__main__" if script == "tools.hub" else script)
    arguments = ["push", "a/b"] if script == "tools.hub" else []
    if script == "tools.ablate":
        arguments = ["--without", "memory"]
    with pytest.raises(SystemExit) as stop:
        parse(module.Settings, "", {}, [*arguments, "--run-dir", "hf://driver/car@v1"])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--run-dir must be a local folder here" in line
    assert "python -m tools.hub pull driver/car@v1 --run-dir FOLDER" in line


def test_without_the_package_the_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"pip install -r requirements/hub\.txt"):
        fetch_run_folder("hf://driver/car")


def test_addresses(tmp_path: Path) -> None:
    assert parse_address("driver/car") == ("driver/car", None)
    assert parse_address(Path("hf://driver/car@refs/pr/1")) == ("driver/car", "refs/pr/1")
    assert str(parse_address("hf://driver/car@v1")) == "hf://driver/car@v1"
    assert fetch_run_folder(tmp_path) == tmp_path
    for wrong in ("hf://driver", "hf://a/b/c", "hf://a b/c", "hf://../x/y", ""):
        with pytest.raises(UserError, match="is not the address"):
            parse_address(wrong)
