"""What the documents name exists: links, paths, commands, flags; their figures were measured."""

import ast
import importlib
import json
import re
import shlex
from pathlib import Path
from types import ModuleType

import pytest

from utils.data.splits import MODES, TEST
from utils.io.files import sha256_of
from utils.settings import CommonSettings, parse

ROOT = Path(__file__).parents[1]
ROOMS = (
    *("models", "utils", "envs", "fast_car_racing", "tools", "benchmarks"),
    *("tests", "web", "docs", "examples", "pretrained", "requirements", ".ci"),
)
DOCUMENTS = sorted(
    {*ROOT.glob("*.md"), *(path for room in ROOMS for path in (ROOT / room).rglob("*.md"))}
)
README = (ROOT / "README.md").read_text()
RESULTS = (ROOT / "docs" / "results.md").read_text()
CARD = (ROOT / "pretrained" / "README.md").read_text()
SUFFIXES = "py|md|txt|toml|json|jsonl|ipynb|sh|js|css|html|svg|webp|png|yml|cff|lock"
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
MAKEFILE = (ROOT / "Makefile").read_text()


def text_of(path: Path) -> str:
    return path.read_text()


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def code_of(text: str) -> list[str]:
    """The lines of all code blocks, continued lines joined, and all code spans."""
    blocks = "\n".join(match[2] for match in FENCE.finditer(text))
    lines = blocks.replace("\\\n", " ").splitlines()
    spans = re.findall(r"`([^`]+)`", FENCE.sub("", text))
    return [line.strip() for line in lines] + [" ".join(span.split()) for span in spans]


def anchors_of(text: str) -> set[str]:
    """The anchors that GitHub gives to the headings."""
    headings = re.findall(r"^#+ (.*)", FENCE.sub("", text), re.MULTILINE)
    kept = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
    return {heading.replace(" ", "-") for heading in kept}


every_document = pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)


@every_document
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", text_of(document))):
        if re.match(r"\w+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (document.parent / path).resolve() if path else document
        assert linked.exists(), target
        assert not anchor or anchor in anchors_of(linked.read_text()), target


@every_document
def test_paths_exist(document: Path) -> None:
    """Paths into this repository, wherever they are named; and files named without a folder."""
    text = text_of(document)
    rooms = "|".join(map(re.escape, ROOMS))
    for path in re.findall(rf"(?<![\w/.*-])((?:{rooms})/[\w./-]*\w)", text):
        made_later = {"__pycache__", "dist"} & set(Path(path).parts)
        assert (ROOT / path).exists() or made_later, path
    files = {path.name for path in ROOT.glob("*")}
    files |= {path.name for room in ROOMS for path in (ROOT / room).rglob("*")}
    for span in re.findall(r"`([^`\n]+)`", FENCE.sub("", text)):
        if re.fullmatch(r"[\w-]+\.(py|md|toml|sh|ipynb)", span):
            assert span in files, span
        if re.fullmatch(r"(tools|benchmarks|models|utils|envs)(\.[a-z_]+)+", span):
            found = [ROOT / span.replace(".", "/"), ROOT / (span.replace(".", "/") + ".py")]
            assert any(path.exists() for path in found), span


# --- commands -------------------------------------------------------------------------------------


def module_of(command: list[str]) -> tuple[ModuleType | None, list[str]]:
    """The script or tool that a command runs, and the command's arguments."""
    if command and re.fullmatch(r"(.*/)?python3?", command[0]):
        command = command[1:]
    if command[:1] == ["-m"]:
        name = command[1]
        if name.split(".")[0] not in ("tools", "benchmarks", "examples") or name.endswith(".NAME"):
            return None, []
        folder = ROOT / name.replace(".", "/")
        return importlib.import_module(f"{name}.__main__" if folder.is_dir() else name), command[2:]
    if command and re.fullmatch(r"\w+\.py", command[0]) and (ROOT / command[0]).exists():
        return importlib.import_module(command[0].removesuffix(".py")), command[1:]
    return None, []


def commands_in(document: Path) -> list[tuple[ModuleType, list[str]]]:
    found, lines = [], code_of(text_of(document))
    variables = dict(re.findall(r'^(\w+)="(.*)"$', "\n".join(lines), re.MULTILINE))
    for line in lines:
        line = re.sub(r"\$(\w+)", lambda match: variables.get(match[1], match[0]), line)
        line = re.split(r"\s#\s|\s(?:&&|\|)\s", line)[0].replace("…", "").strip()
        line = re.sub(r"^(\w+=\S+ )+", "", line)
        if re.match(r"((\S*/)?python3? |\w+\.py( |$))", line):
            module, arguments = module_of(shlex.split(line))
            if module is not None:
                found.append((module, arguments))
    return found


@every_document
def test_commands_are_read_by_the_real_parsers(
    document: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for module, arguments in commands_in(document):
        if not arguments or "--help" in arguments or arguments[-1:] == ["--without"]:
            continue  # a name of the program, not a command to run
        if hasattr(module, "Settings"):
            try:
                parse(module.Settings, "", getattr(module, "PRESETS", {}), arguments)
            except SystemExit:
                pytest.fail(f"{module.__name__} {arguments}: {capsys.readouterr().err}")
        else:  # benchmarks and examples build their parsers as they run
            source = Path(str(module.__file__)).read_text()
            source += (ROOT / "benchmarks" / "measuring.py").read_text()
            for flag in (argument for argument in arguments if argument.startswith("--")):
                assert f'"{flag}"' in source, flag


def test_commands_are_found() -> None:
    named = {module.__name__ for module, _ in commands_in(ROOT / "README.md")}
    assert {"collect_data", "run_vae_training", "process_data"} <= named
    assert {"train_rnn", "train_dream", "test_agent", "tools.ablate"} <= named
    assert "tools.analysis.__main__" in named


def flags_of(settings: type[CommonSettings]) -> set[str]:
    names = {name.replace("_", "-") for name in settings.__dataclass_fields__}
    return {f"--{name}" for name in names} | {f"--no-{name}" for name in names}


@every_document
def test_flags_exist(document: Path) -> None:
    """A flag that is named alone is a flag of some script or tool."""
    scripts = [path for path in ROOT.glob("*.py")] + list((ROOT / "tools").rglob("*.py"))
    modules = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in scripts]
    flags = {"--preset", "--help", "--platform"}
    for name in modules:
        module = importlib.import_module(name)
        flags |= flags_of(module.Settings) if hasattr(module, "Settings") else set()
    sources = [path.read_text() for path in (ROOT / "benchmarks").glob("*.py")]
    flags |= set(re.findall(r'"(--[a-z-]+)"', "".join(sources)))
    spans = re.findall(r"`(--[a-z-]+)[^`]*`", FENCE.sub("", text_of(document)))
    assert set(spans) <= flags


@every_document
def test_make_targets_and_their_variables_exist(document: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
    variables = set(re.findall(r"^([A-Z_]+) \??=", MAKEFILE, re.MULTILINE))
    for line in code_of(text_of(document)):
        if line.startswith("make "):
            words = shlex.split(re.split(r"\s#\s|\s&&\s", line)[0])[1:]
            assert {word for word in words if "=" not in word} <= targets, line
            assert {word.split("=")[0] for word in words if "=" in word} <= variables, line


@every_document
def test_python_snippets_compile(document: Path) -> None:
    for language, code in FENCE.findall(text_of(document)):
        if language == "python":
            ast.parse(code)


# --- the README -----------------------------------------------------------------------------------


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 150


def test_the_readme_has_the_menu() -> None:
    assert tuple(re.findall(r"^\| \d \| `([\w-]+)` \|", README, re.MULTILINE)) == MODES


def test_the_architecture_names_every_module() -> None:
    architecture = (ROOT / "docs" / "architecture.md").read_text()
    modules = [path for room in ("models", "utils") for path in (ROOT / room).rglob("*.py")]
    names = [name_of(path) for path in modules if path.name != "__init__.py"]
    assert [name for name in names if f"`{name}`" not in architecture] == []
    tools = {path.stem for path in (ROOT / "tools").iterdir() if (path / "__main__.py").exists()}
    tools |= {path.stem for path in (ROOT / "tools").glob("*.py") if "__main__" in path.read_text()}
    assert [tool for tool in tools if f"`python -m tools.{tool}`" not in architecture] == []


# --- figures --------------------------------------------------------------------------------------

FIGURE = re.compile(r"(−?\d+\.\d) ± (\d+\.\d)")
LOG = [json.loads(line) for line in (ROOT / "docs" / "test_log.jsonl").read_text().splitlines()]
LOGGED = {(f"{line['mean']:.1f}", f"{line['std']:.1f}") for line in LOG}
# Not agents on the 100 test tracks: the script, random driving, the 8 tracks of `make run`, and
# validation tracks.
OTHERS = {("930.3", "7.8"), ("−64.4", "36.7"), ("712.8", "309.7"), ("879.0", "35.9")} | {
    *(("809.7", "66.5"), ("913.4", "17.0")),
}


def shipped() -> dict:
    """The last evaluation of the agent in pretrained/ on the first 100 test tracks."""
    parts = ("vae", "rnn", "controller")
    sha256 = {part: sha256_of(ROOT / "pretrained" / f"{part}.eqx") for part in parts}
    first = TEST.start
    return [x for x in LOG if x["agent"] == sha256 and x.get("first_track") == first][-1]


def test_the_shipped_agents_figures_are_those_of_the_log() -> None:
    line = shipped()
    score = f"**{line['mean']} ± {line['std']}**"
    steps = f"{line['mean_steps']:.0f} steps on average"
    assert line["episodes"] == 100
    assert score in README and score in RESULTS and score in CARD
    assert f"{line['laps_finished']} of the 100 laps" in RESULTS
    assert f"{line['laps_finished']} laps finished" in CARD
    assert steps in RESULTS and steps in CARD


@pytest.mark.parametrize("text", [README, RESULTS], ids=["README", "results"])
def test_scores_on_test_tracks_are_those_of_the_log(text: str) -> None:
    figures = set(FIGURE.findall(text))
    assert len(figures) >= 4
    assert figures <= LOGGED | OTHERS


def test_the_card_names_the_files_that_lie_beside_it() -> None:
    for name, sha256 in re.findall(r"^\| `(\w+\.eqx)` .*`([0-9a-f]+)…`", CARD, re.MULTILINE):
        assert sha256_of(ROOT / "pretrained" / name).startswith(sha256)
