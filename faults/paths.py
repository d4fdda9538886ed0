"""Names from outside: whatever a folder is called, nothing is written anywhere else."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from faults.inject import Inject, note
from faults.references import assert_same, files_in, prepare, reference, scratch
from faults.stages import SIX, finish
from faults.trials import Suite, Trial

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


def trials(suite: Suite) -> Iterator[Trial]:
    """Every name for every flag of every stage."""
    for stage in SIX:
        for name in NAMES:
            yield Trial("paths", stage, name, path, (stage, name))
        yield Trial("paths: links inside", stage, "a link for each file", links, (stage,))


def path(suite: Suite, rng: np.random.Generator, stage: str, name: str) -> None:
    """The stage works in folders of that name, or says in one line why it cannot."""
    done = reference(suite, stage)
    with scratch(suite) as sandbox:
        here, allowed = sandbox / "here", sandbox / "allowed"
        here.mkdir()
        (allowed / "real").mkdir(parents=True)
        (here / "link").symlink_to(allowed / "real")
        (here / "nowhere").symlink_to(sandbox / "missing")
        (here / "loop").symlink_to("loop")
        (here / "file").write_bytes(b"a file")
        base = NAMES[name].format(here=here)
        if name not in IMPOSSIBLE:
            target = Path(os.path.normpath(here / base)) if name == "dots inside" else here / base
            (here / "a").mkdir(exist_ok=True)
            os.makedirs(os.path.realpath(target), exist_ok=True)
            prepare(suite, Path(os.path.realpath(target)), done.before)
        before = files_in(sandbox)
        record = sandbox.parent / "outside"
        folders = {part: f"{base}/{part}" if base else part for part in ("data", "run")}
        flags = ("--output-dir", folders["run"]) if stage == "drive" else ()
        root = Path(os.path.realpath(here / base)) if name not in IMPOSSIBLE else here / "x"
        cache = Path(os.environ["JAX_COMPILATION_CACHE_DIR"])
        watch = watched(record, root, cache, Path("/dev"))
        ended = finish(stage, here, *flags, **folders, inject=watch)
        changed = files_in(sandbox)
        if name in IMPOSSIBLE:
            said = ended.failed(IMPOSSIBLE[name])
            assert len(said) < 8000 and len(ended.lines) == 1, ended.lines
            assert_same(changed, before)
            return
        ended.succeeded()
        assert_same(files_in(root), {**files_in(root), **done.after})
        inside = str(root.relative_to(sandbox)) + "/"
        assert_same(
            {n: s for n, s in changed.items() if not n.startswith(inside) and inside != "here/"},
            {n: s for n, s in before.items() if not n.startswith(inside) and inside != "here/"},
        )
        assert not record.exists(), record.read_text()[:1000]


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


def watched(record: Path, *allowed: Path) -> Inject:
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
