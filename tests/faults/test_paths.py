"""Folder names from outside: whatever a folder is called, nothing is written anywhere else."""

import contextlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from faults.inject import note
from faults.pipeline import ITERATE, OTHERS, SIX, chain_of
from faults.processes import Ended, Inject, finish
from faults.references import Files, Suite, assert_same, files_in, prepare, reference, scratch
from utils.io.records import read_records

LONG = "n" * 200  # a name may have 255 bytes
# The values of --data-dir, --run-dir and --output-dir, inside and beside the folder of the case.
NAMES = {
    "../": "../beside",
    "dots inside": "a/../../beside",
    "absolute": "{here}/absolute",
    "a link": "link",
    "spaces": " a name  with spaces ",
    "non-ASCII": "дані-データ-é-🚗",
    "quotes and dashes": "'--\"; touch x; $(touch y)",
    "a newline": "two\nlines",
    "long": f"{LONG}/{LONG}/{LONG}",
    "very long": "n" * 300,
    "endless": "/".join([LONG] * 30),
    "a file": "file",
    "below a file": "file/below",
    "a link to nothing": "nowhere",
    "a link to itself": "loop",
    "empty": "",
}
IMPOSSIBLE = {
    "very long": "File name too long",
    "endless": "File name too long",
    "a file": "",
    "below a file": "",
    "a link to itself": "",
}


SOME = ("../", "a link", "non-ASCII", "very long", "a link to itself")  # for what takes long


@dataclass(frozen=True)
class Sandbox:
    """A folder `here` in which a script starts, and what a name means there."""

    folder: Path
    name: str

    def __post_init__(self) -> None:
        (self.here / "a").mkdir(parents=True)
        (self.folder / "allowed" / "real").mkdir(parents=True)
        (self.here / "link").symlink_to(self.folder / "allowed" / "real")
        (self.here / "nowhere").symlink_to(self.folder / "missing")
        (self.here / "loop").symlink_to("loop")
        (self.here / "file").write_bytes(b"a file")

    @property
    def here(self) -> Path:
        """The working directory of the script."""
        return self.folder / "here"

    @property
    def base(self) -> str:
        """The value of its flags."""
        return NAMES[self.name].format(here=self.here)

    @property
    def root(self) -> Path:
        """The folder that the name leads to. Nothing may be written elsewhere."""
        if self.name in IMPOSSIBLE:
            return self.here / "x"
        return Path(os.path.realpath(self.here / self.base))

    @contextlib.contextmanager
    def watched(self, *allowed: Path) -> Iterator[Inject]:
        """An `inject` for a script that may write only to the root and to `allowed`."""
        record, before = self.folder.parent / "outside", self.elsewhere(*allowed)
        cache = Path(os.environ["JAX_COMPILATION_CACHE_DIR"])
        yield watch(record, self.root, cache, Path("/dev"), *allowed)
        assert_same(self.elsewhere(*allowed), before)
        assert not record.exists(), record.read_text()[:1000]

    def elsewhere(self, *allowed: Path) -> Files:
        """All files that the script may not touch."""
        inside = [str(path.relative_to(self.folder)) + "/" for path in (self.root, *allowed)]
        found = files_in(self.folder).items()
        return {name: sha for name, sha in found if not name.startswith(tuple(inside))}

    def assert_as_expected(self, ended: Ended) -> bool:
        """Assert success, or one line of failure if the name is impossible. Returns the success."""
        if self.name not in IMPOSSIBLE:
            ended.assert_succeeded()
            return True
        message = ended.assert_failed(IMPOSSIBLE[self.name])
        assert len(message) < 8000 and len(ended.lines) == 1, ended.lines
        return False


@pytest.mark.faults("paths")
@pytest.mark.parametrize(
    ("script", "name"),
    [
        pytest.param(script, name, id=f"{script}-{name}")
        for script in (*SIX, ITERATE)
        for name in (NAMES if script in SIX else SOME)
    ],
)
def test_folder_names(suite: Suite, script: str, name: str) -> None:
    """The script works in folders of that name, or says in one line why it cannot."""
    done = reference(suite, script)
    with scratch(suite) as folder:
        sandbox = Sandbox(folder, name)
        base, root = sandbox.base, sandbox.root
        if name not in IMPOSSIBLE:
            root.mkdir(parents=True, exist_ok=True)
            prepare(suite, root, done.before, chain_of(script))
        folders = {part: f"{base}/{part}" if base else part for part in ("data", "run")}
        flags = ("--output-dir", folders["run"]) if script == "test_agent" else ()
        with sandbox.watched() as inject:
            ended = finish(script, sandbox.here, *flags, **folders, inject=inject)
        if sandbox.assert_as_expected(ended):
            assert_same(files_in(root), {**files_in(root), **done.after})


@pytest.mark.faults("paths", script="test_agent")
@pytest.mark.parametrize("name", NAMES)
def test_log_names(suite: Suite, name: str) -> None:
    """--log appends the line about an evaluation to a file in the folder of that name."""
    done = reference(suite, "test_agent")
    with scratch(suite) as folder:
        sandbox = Sandbox(folder, name)
        prepare(suite, sandbox.here, done.before)
        if name not in IMPOSSIBLE:
            sandbox.root.mkdir(parents=True, exist_ok=True)
        target = f"{sandbox.base}/log.jsonl" if sandbox.base else "log.jsonl"
        with sandbox.watched(sandbox.here / "run") as inject:
            ended = finish("test_agent", sandbox.here, "--log", target, inject=inject)
        if sandbox.assert_as_expected(ended):
            assert len(read_records(sandbox.root / "log.jsonl")) == 1


# The flag that says where a tool writes, and a file that it writes there.
OUTPUTS = {
    "tools.export_weights": ("--output-dir", "controller.eqx"),
    "tools.report": ("--output", "page.html"),
    "tools.export_web": ("--output-dir", "index.html"),
    "tools.analysis": ("--output-dir", "study.json"),
    "tools.export_minari": ("--datasets-dir", "car-racing/collected-v0/data/main_data.hdf5"),
}
OTHER_FLAGS = {
    **dict.fromkeys(OTHERS, ""),
    "tools.export_web": "--steps 100",
    "tools.analysis": "--episodes 1 --max-steps 300 --baseline none --moments 1 --dreams 1 "
    "--horizon 2 --film-from 0 --film-seconds 0.2 --workers 1",
}


@pytest.mark.faults("paths", script="other tools")
@pytest.mark.parametrize(
    ("tool", "name"),
    [
        pytest.param(tool, name, id=f"{tool} {flag} {name}")
        for tool, (flag, _) in OUTPUTS.items()
        for name in (NAMES if tool == "tools.export_weights" else SOME)
    ],
)
def test_output_names_of_tools(suite: Suite, tool: str, name: str) -> None:
    """A tool writes to the folder, or the file in the folder, of that name."""
    if tool == "tools.export_minari" and importlib.util.find_spec("minari") is None:
        pytest.skip("needs Minari: requirements/faults.txt")
    flag, made = OUTPUTS[tool]
    with scratch(suite) as folder:
        sandbox = Sandbox(folder, name)
        prepare(suite, sandbox.here, reference(suite, "test_agent").after)
        if name == "a link to nothing":
            sandbox.root.mkdir()
        target = sandbox.base or "."
        if flag == "--output":
            target = f"{target}/{made}"
        # Minari locks the data folder.
        with sandbox.watched(sandbox.here / "data" / ".lock") as inject:
            ended = finish(tool, sandbox.here, flag, target, base=OTHER_FLAGS, inject=inject)
        if sandbox.assert_as_expected(ended):
            assert (sandbox.root / made).is_file(), sorted(files_in(sandbox.root))


@pytest.mark.faults("paths: links inside")
@pytest.mark.parametrize("script", SIX)
def test_links_inside(suite: Suite, script: str) -> None:
    """Links at the places of output files are replaced. The files that they lead to stay."""
    done = reference(suite, script)
    with scratch(suite) as sandbox:
        here, elsewhere = sandbox / "here", sandbox / "elsewhere"
        prepare(suite, here, done.before)
        elsewhere.mkdir()
        made = [n for n in done.after if n not in done.before and not n.startswith("data/")]
        for number, name in enumerate([*made, *(f"{d}/.lock" for d in ("data", "run"))]):
            (elsewhere / str(number)).write_bytes(b"elsewhere")
            (here / name).parent.mkdir(parents=True, exist_ok=True)
            if not name.endswith(".eqx"):  # a final model is read before it is written
                (here / name).symlink_to(elsewhere / str(number))
        before = files_in(elsewhere)
        ended = finish(script, here)
        ended.assert_failed(".lock")  # the lock is the one file that is written in place
        assert_same(files_in(elsewhere), before)
        for folder in ("data", "run"):
            (here / folder / ".lock").unlink()
        finish(script, here).assert_succeeded()
        assert_same(files_in(elsewhere), before)
        assert_same(files_in(here), done.after)
        assert not any((here / name).is_symlink() for name in done.after)


WRITING = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate"}


def watch(record: Path, *allowed: Path) -> Inject:
    """Note in `record` every path outside `allowed` that the script writes to."""
    roots = [str(path.resolve()) for path in allowed]

    def is_inside(path: Any) -> bool:
        real = os.path.join(os.path.realpath(os.path.dirname(path) or "."), os.path.basename(path))
        return any(real == root or real.startswith(root + "/") for root in roots)

    def written(event: str, arguments: tuple[Any, ...]) -> Iterator[Any]:
        if event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
            flags = arguments[2] or 0
            if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                yield arguments[0]
        elif event in WRITING:
            yield from arguments[: 2 if event in ("os.rename", "os.link") else 1]

    busy = False

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal busy
        if busy or (event != "open" and event not in WRITING):
            return
        busy = True
        try:
            for path in written(event, arguments):
                if not isinstance(path, int) and not is_inside(os.fspath(path)):
                    note(str(record), f"{event} {path!r}")
        finally:
            busy = False

    return lambda module: sys.addaudithook(hook)
