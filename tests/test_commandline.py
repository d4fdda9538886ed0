"""The command line: flags and presets in this process; exit codes and Ctrl-C in a shell.

Over 300 lines: all cases share the tiny scripts and their folders.
"""

import dataclasses
import importlib
import io
import re
import signal
import subprocess
import sys
import textwrap
import time
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from scripts import Workshop, wait_until_empty

from utils import runtime, settings
from utils.errors import UserError
from utils.io.checkpoints import read_header
from utils.settings import CommonSettings, setting

ROOT = Path(__file__).parents[1]
NAMES = (
    *("collect_data", "run_vae_training", "process_data"),
    *("train_rnn", "train_dream", "test_agent", "tools.analysis.__main__"),
)
SCRIPTS: dict[str, ModuleType] = {name: importlib.import_module(name) for name in NAMES}


def parse(name: str, *arguments: str) -> Any:
    script = SCRIPTS[name]
    return settings.parse(script.Settings, script.__doc__ or "", script.PRESETS, [*arguments])


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


# --- flags, in this process -----------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_without_flags_the_defaults_are_those_of_the_laptop(name: str) -> None:
    assert parse(name) == parse(name, "--preset", "laptop") == SCRIPTS[name].Settings()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("preset", ["quick", "paper"])
def test_a_preset_changes_its_sizes_and_nothing_else(name: str, preset: str) -> None:
    script = SCRIPTS[name]
    sizes = script.PRESETS.get(preset, {})
    assert parse(name, "--preset", preset) == dataclasses.replace(script.Settings(), **sizes)
    for size, value in sizes.items():
        # A flag that is given wins, before the preset or after it.
        if isinstance(value, bool):
            other, arguments = not value, [flag(size).replace("--", "--no-" if value else "--", 1)]
        else:
            other, arguments = value + 1, [flag(size), str(value + 1)]
        given = parse(name, *arguments, "--preset", preset)
        assert getattr(given, size) == other
        assert given == parse(name, "--preset", preset, *arguments)


def test_there_are_no_presets_of_unknown_names() -> None:
    for script in SCRIPTS.values():
        assert set(script.PRESETS) <= set(settings.PRESET_NAMES)
        fields = {field.name for field in dataclasses.fields(script.Settings)}
        assert all(set(sizes) <= fields for sizes in script.PRESETS.values())
    assert parse("collect_data", "--preset", "paper").episodes == 10_000


@pytest.mark.parametrize("name", NAMES)
def test_help_is_complete(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(name, "--help")
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert (SCRIPTS[name].__doc__ or "").strip() in text
    options = text[text.index("options:") :]
    words = " ".join(options.split())
    assert "--preset {quick,laptop,paper}" in words
    for field in dataclasses.fields(SCRIPTS[name].Settings):
        default = "none" if field.default is None else str(field.default)
        entry = words[words.index(" " + flag(field.name)) :]
        # Argparse breaks lines inside long words; spaces do not count.
        expected = f"{field.metadata['help']} (default: {default})"
        assert expected.replace(" ", "") in entry.replace(" ", "")[:600]


def test_help_shows_the_defaults_of_the_preset(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse("collect_data", "--preset", "quick", "--help")
    steps = SCRIPTS["collect_data"].PRESETS["quick"]["episodes"]
    assert f"(default: {steps})" in capsys.readouterr().out


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_is_a_flag_that_takes_effect(name: str) -> None:
    settings_class = SCRIPTS[name].Settings
    types = typing.get_type_hints(settings_class)
    for field in dataclasses.fields(settings_class):
        before = field.default
        if types[field.name] is bool:
            form = f"--no-{flag(field.name)[2:]}" if before else flag(field.name)
            assert getattr(parse(name, form), field.name) is (not before)
            continue
        choices = field.metadata.get("choices")
        if choices:
            value: Any = next(choice for choice in choices if choice != before)
        elif "Path" in str(types[field.name]):
            value = Path("some/where")
        else:
            value = 7 if before is None else before + 1
            value = str(value) if types[field.name] == (str | None) else value
        changed = parse(name, flag(field.name), str(value))
        assert changed == dataclasses.replace(settings_class(), **{field.name: value})
        assert type(getattr(changed, field.name)) is type(value) or isinstance(value, Path)


WRONG_USAGE = [
    ("collect_data", ["--mode", "sideways"], "--mode"),
    ("collect_data", ["--episodes", "0"], "0 is below 1"),
    ("collect_data", ["--episodes", "many"], "invalid int value: 'many'"),
    ("collect_data", ["--epis", "3"], "unrecognized arguments"),
    ("collect_data", ["stray"], "unrecognized arguments"),
    ("collect_data", ["--preset", "huge"], "--preset"),
    ("collect_data", ["--seed", "-1"], "-1 is below 0"),
    ("train_rnn", ["--seed", "4294967296"], "4294967296 is above 4294967295"),  # JAX keeps 32 bits
    ("train_dream", ["--temperature", "nan"], "nan is below"),
    ("test_agent", ["--first-track", "4294967296"], "is above 4294967295"),
    ("test_agent", ["--first-track", "-1"], "is below 0"),
    ("train_rnn", ["--optimism-penalty"], "expected one argument"),
]


@pytest.mark.parametrize(("name", "arguments", "said"), WRONG_USAGE)
def test_wrong_usage_exits_2_and_says_what(
    name: str, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(name, *arguments)
    assert caught.value.code == 2
    assert said in capsys.readouterr().err


# --- exit codes, in this process ------------------------------------------------------------------


def exit_of(
    error: BaseException | None,
    capsys: pytest.CaptureFixture[str],
    debug: bool = False,
    work: Callable[[], object] = lambda: None,
) -> tuple[Any, str]:
    """Exit code of a script whose main works and raises `error`, and what it says on stderr."""

    def main(settings: CommonSettings) -> None:
        work()
        if error is not None:
            raise error

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with pytest.raises(SystemExit) as caught:
            runtime.run(main, CommonSettings(debug=debug))
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return caught.value.code, capsys.readouterr().err


def test_exit_codes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert exit_of(None, capsys) == (0, "")
    code, said = exit_of(UserError("run train_rnn.py\n  first"), capsys)
    assert code == 1 and said.endswith(": run train_rnn.py first\n") and said.count("\n") == 1
    code, said = exit_of(FileNotFoundError(2, "No such file", "some/file"), capsys)
    assert code == 1 and said.endswith(": some/file: No such file\n")
    code, said = exit_of(MemoryError(), capsys)
    assert code == 1 and said.endswith(": out of memory (MemoryError)\n")
    code, said = exit_of(KeyboardInterrupt(), capsys)
    assert code == 130 and "interrupted" in said and said.count("\n") == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, UserError])
def test_generators_of_main_end_before_the_exit(
    error: Callable[[], BaseException],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ended: list[bool] = []

    def workers() -> Iterator[int]:
        try:
            yield 1
        finally:
            ended.append(True)

    def stopped_at_work() -> None:
        for _ in workers():
            raise error()

    at_exit: list[list[bool]] = []
    leave = runtime._exit
    monkeypatch.setattr(runtime, "_exit", lambda *how: (at_exit.append([*ended]), leave(*how)))
    exit_of(None, capsys, work=stopped_at_work)
    assert at_exit == [[True]]


def test_debug_shows_the_traceback_and_bugs_always_do(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError):
        exit_of(UserError("x"), capsys, debug=True)
    with pytest.raises(ZeroDivisionError):
        exit_of(ZeroDivisionError(), capsys)


def test_settings_fields_carry_their_help() -> None:
    @dataclasses.dataclass(frozen=True)
    class Settings(CommonSettings):
        share: float = setting(0.5, "100 % of it", minimum=0.0, maximum=1.0)

    assert settings.parse(Settings, "", {}, ["--share", "1"]).share == 1.0
    with pytest.raises(SystemExit):
        settings.parse(Settings, "", {}, ["--share", "1.01"])
    with pytest.raises(SystemExit) as caught:
        settings.parse(Settings, "", {}, ["--help"])
    assert caught.value.code == 0


# --- the scripts, as a shell sees them ------------------------------------------------------------


def shell(
    script: str, *flags: str, text: str = "", folder: Path
) -> subprocess.CompletedProcess[str]:
    folders = ["--data-dir", str(folder / "data"), "--run-dir", str(folder / "run")]
    return subprocess.run(
        [sys.executable, str(ROOT / script), *folders, *flags],
        input=text,
        capture_output=True,
        text=True,
        cwd=folder,
        timeout=300,
    )


def one_line(done: subprocess.CompletedProcess[str], script: str) -> str:
    """The one plain line on stderr of a script that exits 1."""
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith(f"{script}: ")
    return done.stderr.removeprefix(f"{script}: ")


def test_the_menu_through_a_pipe(tmp_path: Path) -> None:
    done = shell(
        "collect_data.py", "--max-steps", "5", text="7\nx\n1\nmany\n0\n1\n", folder=tmp_path
    )
    assert done.returncode == 0, done.stderr
    menu = [line.strip() for line in done.stdout.splitlines()][1:7]
    assert menu == [
        "1 Random (Brownian noise)",
        "2 Iterative (current agent + exploration noise)",
        "3 Recovery (scripted driver, pushed off its line)",
        "4 Aggressive (scripted driver, too fast for the corners)",
        "5 On-policy (current agent without noise)",
        "0 Exit",
    ]
    for nonsense in ("7", "x"):
        assert f"'{nonsense}' is not on the menu" in done.stdout
    assert "Episodes [200]" in done.stdout
    for nonsense in ("many", "0"):
        assert f"'{nonsense}' is not a number of episodes" in done.stdout
    assert [path.name for path in tmp_path.glob("data/rollouts/random/*")] == ["0.npz"]


def ask(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))


def test_0_exits_the_menu(monkeypatch: pytest.MonkeyPatch) -> None:
    ask(monkeypatch, "0\n")
    with pytest.raises(SystemExit) as caught:
        SCRIPTS["collect_data"].main(parse("collect_data"))
    assert caught.value.code == 0


def test_each_number_is_its_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    modes = ["random", "iterative", "recovery", "aggressive", "on-policy"]
    for number, mode in enumerate(modes, 1):
        ask(monkeypatch, f"{number}\n")
        assert SCRIPTS["collect_data"].ask_mode() == mode


def test_an_empty_answer_takes_the_episodes_of_the_preset(monkeypatch: pytest.MonkeyPatch) -> None:
    ask(monkeypatch, "\n12\n")
    assert SCRIPTS["collect_data"].ask_episodes(24) == 24
    assert SCRIPTS["collect_data"].ask_episodes(24) == 12


@pytest.mark.parametrize(
    ("text", "named"), [("", "--mode"), ("nonsense\n", "--mode"), ("1\n", "--episodes")]
)
def test_end_of_input_exits_2_and_names_the_flag(
    text: str, named: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ask(monkeypatch, text)
    with pytest.raises(SystemExit) as caught:
        SCRIPTS["collect_data"].main(parse("collect_data"))
    assert caught.value.code == 2
    assert f"use {named}" in capsys.readouterr().err


def test_modes_that_need_an_agent_name_the_missing_step(tmp_path: Path, workshop: Workshop) -> None:
    done = shell("collect_data.py", "--mode", "on-policy", folder=tmp_path)
    assert "run_vae_training.py" in one_line(done, "collect_data.py")
    main = SCRIPTS["collect_data"].main
    settings = parse("collect_data", "--mode", "iterative", "--run-dir", str(tmp_path / "run"))
    for missing, script in (("rnn", "train_rnn"), ("controller", "train_dream")):
        parts = {"rnn": ["run/vae.eqx"], "controller": ["run/vae.eqx", "run/rnn.eqx"]}[missing]
        workshop.copy(tmp_path, *parts)
        with pytest.raises(UserError, match=rf"{missing}\.eqx is missing: run {script}\.py"):
            main(settings)


def test_each_step_names_the_one_before_it(tmp_path: Path, workshop: Workshop) -> None:
    folders = ["--data-dir", str(tmp_path / "data"), "--run-dir", str(tmp_path / "run")]
    expected = {
        "run_vae_training": r"no episodes in .*: run collect_data\.py",
        "process_data": r"vae\.eqx is missing",
        "train_rnn": r"vae\.eqx is missing",
        "train_dream": r"rnn\.eqx is missing",
        "test_agent": r"vae\.eqx is missing: run run_vae_training\.py",
        "tools.analysis.__main__": r"tools.analysis needs an agent, but .*vae\.eqx is missing",
    }
    for name, said in expected.items():
        with pytest.raises(UserError, match=said):
            SCRIPTS[name].main(parse(name, *folders))
    workshop.copy(tmp_path, "run/vae.eqx")
    with pytest.raises(UserError, match=r"no latents in .*: run process_data\.py"):
        SCRIPTS["train_rnn"].main(parse("train_rnn", *folders))


def test_a_failure_is_one_plain_line_and_a_traceback_only_with_debug(tmp_path: Path) -> None:
    done = shell("test_agent.py", folder=tmp_path)
    assert "vae.eqx" in one_line(done, "test_agent.py")
    done = shell("test_agent.py", "--debug", folder=tmp_path)
    assert done.returncode == 1 and "Traceback" in done.stderr


def test_a_folder_in_use_is_refused_naming_the_other_process(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            textwrap.dedent(
                """
                import pathlib, sys
                from utils.io.files import locked
                with locked(pathlib.Path(sys.argv[1])):
                    print("ready", flush=True)
                    sys.stdin.read()
                """
            ),
            str(tmp_path / "data"),
        ],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None and holder.stdout.readline() == "ready\n"
    done = shell("collect_data.py", "--mode", "random", "--episodes", "1", folder=tmp_path)
    said = one_line(done, "collect_data.py")
    assert str(tmp_path / "data") in said and str(holder.pid) in said
    holder.communicate()


# --- Ctrl-C ---------------------------------------------------------------------------------------


def interrupted(done: subprocess.CompletedProcess[str], script: str) -> None:
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    last = re.split(r"[\r\n]", done.stderr.strip())[-1]
    assert last.startswith(f"{script}: interrupted")


def test_ctrl_c_while_driving(workshop: Workshop, tmp_path: Path) -> None:
    again, pattern = Workshop(tmp_path, workshop.environment), "data/rollouts/random/*.npz"
    flags = ["--mode", "random", "--episodes", "400"]
    groups: list[int] = []
    done = again.stop_at_work(
        "collect_data.py",
        *flags,
        signal_number=signal.SIGINT,
        is_at_work=lambda: len(list(tmp_path.glob(pattern))) > 1,
        is_done=lambda: len(list(tmp_path.glob(pattern))) == 400,
        started=groups.append,
    )
    interrupted(done, "collect_data.py")
    wait_until_empty(groups[0])
    count = len(list(tmp_path.glob(pattern)))
    assert f"{count} of {count} episodes" in again.succeed(
        "collect_data.py", "--mode", "random", "--episodes", str(count)
    )
    assert again.leftovers() == []


def test_ctrl_c_while_training(workshop: Workshop, tmp_path: Path) -> None:
    again = workshop.copy(tmp_path, "data/latents", "run/vae.eqx")
    final, state = again.run_dir / "rnn.eqx", again.run_dir / "rnn.training.eqx"
    groups: list[int] = []
    done = again.stop_at_work(
        "train_rnn.py",
        *("--save-seconds", "0"),
        signal_number=signal.SIGINT,
        is_at_work=state.exists,
        is_done=final.exists,
        started=groups.append,
    )
    interrupted(done, "train_rnn.py")
    wait_until_empty(groups[0])
    assert read_header(state).progress["step"] >= 1
    assert list(tmp_path.rglob("*.partial")) == []


def test_sigterm_ends_a_script_and_its_workers(workshop: Workshop, tmp_path: Path) -> None:
    """What a queue or a shut-down sends, to the script alone; its workers follow it."""
    again = Workshop(tmp_path, workshop.environment)
    process = again.start("collect_data.py", "--mode", "random", "--episodes", "400")
    while not list(tmp_path.glob("data/rollouts/random/*.npz")):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143, errors
    wait_until_empty(process.pid)
