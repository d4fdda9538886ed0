"""Names from outside: whatever a folder is called, nothing is written anywhere else."""

import contextlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from faults.inject import Inject, note
from faults.references import Files, assert_same, chain_of, files_in, prepare, reference, scratch
from faults.stages import SCRIPTS, SIX, Ended, finish
from faults.trials import NotTried, Suite, Trial
from utils.io.records import read_records

LONG = "n" * 200  # a name may have 255 bytes
# What follows --data-dir, --run-dir and --output-dir, below and beside the folder of the trial.
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


SOME = ("../", "a link", "non-ASCII", "very long", "a link to itself")


def trials(suite: Suite) -> Iterator[Trial]:
    """Every name for every flag of every stage; some of them where a script takes long."""
    for stage in SIX:
        for name in NAMES:
            yield Trial("paths", stage, name, path, (stage, name))
        yield Trial("paths: links inside", stage, "a link for each file", links, (stage,))
    for name in SOME:
        yield Trial("paths", "round", name, path, ("round", name))
    for name in NAMES:
        yield Trial("paths", "drive", f"--log {name}", log, (name,))
    for script, (flag, _) in OUTPUTS.items():
        for name in NAMES if script == "ship" else SOME:
            how = (script, name)
            yield Trial("paths", "other", f"{SCRIPTS[script]}.py {flag} {name}", output, how)


@dataclass(frozen=True)
class Sandbox:
    """A folder `here` to start a script in, and what a name means there."""

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
        """Where the script is started."""
        return self.folder / "here"

    @property
    def base(self) -> str:
        """What its flags say."""
        return NAMES[self.name].format(here=self.here)

    @property
    def root(self) -> Path:
        """The folder that this names; nothing may be written elsewhere."""
        if self.name in IMPOSSIBLE:
            return self.here / "x"
        return Path(os.path.realpath(self.here / self.base))

    @contextlib.contextmanager
    def watched(self, *allowed: Path) -> Iterator[Inject]:
        """What a script is to be started with: nothing but root and `allowed` is written to."""
        record, before = self.folder.parent / "outside", self.elsewhere(*allowed)
        cache = Path(os.environ["JAX_COMPILATION_CACHE_DIR"])
        yield watch(record, self.root, cache, Path("/dev"), *allowed)
        assert_same(self.elsewhere(*allowed), before)
        assert not record.exists(), record.read_text()[:1000]

    def elsewhere(self, *allowed: Path) -> Files:
        """All files that a script may not touch."""
        inside = [str(path.relative_to(self.folder)) + "/" for path in (self.root, *allowed)]
        found = files_in(self.folder).items()
        return {name: sha for name, sha in found if not name.startswith(tuple(inside))}

    def assert_as_expected(self, ended: Ended) -> bool:
        """Assert that it succeeded, or that it said in one line why it could not; which."""
        if self.name not in IMPOSSIBLE:
            ended.succeeded()
            return True
        said = ended.failed(IMPOSSIBLE[self.name])
        assert len(said) < 8000 and len(ended.lines) == 1, ended.lines
        return False


def path(suite: Suite, rng: np.random.Generator, stage: str, name: str) -> None:
    """The stage works in folders of that name, or says in one line why it cannot."""
    done = reference(suite, stage)
    with scratch(suite) as folder:
        sandbox = Sandbox(folder, name)
        base, root = sandbox.base, sandbox.root
        if name not in IMPOSSIBLE:
            root.mkdir(parents=True, exist_ok=True)
            prepare(suite, root, done.before, chain_of(stage))
        folders = {part: f"{base}/{part}" if base else part for part in ("data", "run")}
        flags = ("--output-dir", folders["run"]) if stage == "drive" else ()
        with sandbox.watched() as inject:
            ended = finish(stage, sandbox.here, *flags, **folders, inject=inject)
        if sandbox.assert_as_expected(ended):
            assert_same(files_in(root), {**files_in(root), **done.after})


def log(suite: Suite, rng: np.random.Generator, name: str) -> None:
    """The line about an evaluation goes into a file in the folder of that name."""
    done = reference(suite, "drive")
    with scratch(suite) as folder:
        sandbox = Sandbox(folder, name)
        prepare(suite, sandbox.here, done.before)
        if name not in IMPOSSIBLE:
            sandbox.root.mkdir(parents=True, exist_ok=True)
        target = f"{sandbox.base}/log.jsonl" if sandbox.base else "log.jsonl"
        with sandbox.watched(sandbox.here / "run") as inject:
            ended = finish("drive", sandbox.here, "--log", target, inject=inject)
        if sandbox.assert_as_expected(ended):
            assert len(read_records(sandbox.root / "log.jsonl")) == 1


# Scripts that are no stages: the flag that says where they write, and a file that they make there.
OUTPUTS = {
    "ship": ("--output-dir", "controller.eqx"),
    "report": ("--output", ""),
    "page": ("--output-dir", "index.html"),
    "study": ("--output-dir", "study.json"),
    "minari": ("--datasets-dir", "car-racing/collected-v0/data/main_data.hdf5"),
}
OTHERS = {
    **dict.fromkeys(OUTPUTS, ""),
    "page": "--steps 100",
    "study": "--episodes 1 --max-steps 300 --baseline none --moments 1 --dreams 1 --horizon 2 "
    "--film-from 0 --film-seconds 0.2 --workers 1",
}


def output(suite: Suite, rng: np.random.Generator, script: str, name: str) -> None:
    """A script that is no stage writes to the folder, or the page, of that name."""
    if script == "minari" and importlib.util.find_spec("minari") is None:
        raise NotTried("Minari is not installed: requirements/faults.txt")
    flag, made = OUTPUTS[script]
    with scratch(suite) as folder:
        sandbox = Sandbox(folder, name)
        prepare(suite, sandbox.here, reference(suite, "drive").after)
        if name == "a link to nothing":
            sandbox.root.mkdir()
        target = sandbox.base or "."
        if script == "report":
            target, made = f"{target}/page.html", "page.html"
        # Minari's is the lock of the data; matplotlib and the like have no business here.
        with sandbox.watched(sandbox.here / "data" / ".lock") as inject:
            ended = finish(script, sandbox.here, flag, target, base=OTHERS, inject=inject)
        if sandbox.assert_as_expected(ended):
            assert (sandbox.root / made).is_file(), sorted(files_in(sandbox.root))


def links(suite: Suite, rng: np.random.Generator, stage: str) -> None:
    """Links lie where the stage will write: they are replaced, what they lead to is not touched."""
    done = reference(suite, stage)
    with scratch(suite) as sandbox:
        here, precious = sandbox / "here", sandbox / "precious"
        prepare(suite, here, done.before)
        precious.mkdir()
        made = [n for n in done.after if n not in done.before and not n.startswith("data/")]
        for number, name in enumerate([*made, *(f"{d}/.lock" for d in ("data", "run"))]):
            (precious / str(number)).write_bytes(b"precious")
            (here / name).parent.mkdir(parents=True, exist_ok=True)
            if not name.endswith(".eqx"):  # a final model is read before it is written
                (here / name).symlink_to(precious / str(number))
        before = files_in(precious)
        ended = finish(stage, here)
        ended.failed(".lock")  # it is the one file that is written to in place
        assert_same(files_in(precious), before)
        for folder in ("data", "run"):
            (here / folder / ".lock").unlink()
        finish(stage, here).succeeded()
        assert_same(files_in(precious), before)
        assert_same(files_in(here), done.after)
        assert not any((here / name).is_symlink() for name in done.after)


WRITING = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate"}


def watch(record: Path, *allowed: Path) -> Inject:
    """Note in `record` every path outside of `allowed` that the script writes to."""
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

    return lambda script: sys.addaudithook(hook)
