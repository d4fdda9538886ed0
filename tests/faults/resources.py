"""What runs out, stops or gets in the way: disks, memory, workers, signals, other runs, clocks."""

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from faults import inject
from faults.references import assert_same, files_in, reference, referenced, workspace
from faults.stages import SAVE_NEVER, TRAININGS, finish, start
from faults.trials import NotTried, Suite, Trial
from utils.io.checkpoints import read_header
from utils.io.files import TEMPORARY_SUFFIX
from utils.io.records import TIMES_NAME

WITH_WORKERS = ("collect", "dream", "drive")
HANG_SECONDS = 45.0  # after which a worker counts as hanging; loading a model takes some three


def trials(suite: Suite) -> Iterator[Trial]:
    """Every resource, at every stage that uses it."""
    for stage in referenced(suite):
        yield Trial("disk full: file system", stage, "no byte left", no_space, (stage,))
        yield Trial("two runs on one folder", stage, "second refused", second_run, (stage,))
        for name in ("SIGINT", "SIGTERM"):
            for number in range(2):
                yield Trial(f"stopped by {name}", stage, f"stop {number}", stopped, (stage, name))
        for hours in (-30, 30):
            yield Trial("clock jumps", stage, f"{hours} hours", clock, (stage, hours))
        yield Trial("standard output", stage, "full", output_full, (stage,))
        yield Trial("read-only folders", stage, "what it writes", not_writable, (stage,))
        if stage == "round":  # it reads and writes what its stages do, and so it was tried
            continue
        yield Trial("read-only folders", stage, "what it reads", only_read, (stage,))
        done = reference(suite, stage)
        for number, name in enumerate(done.writes):
            # A training begins with metrics of no bytes. Times are not worth a stage's end.
            no_bytes = "metrics" in name and name.endswith(TEMPORARY_SUFFIX)
            if not no_bytes and TIMES_NAME not in name:
                title, how = f"write {number + 1}", (stage, number)
                yield Trial("disk full: /dev/full", stage, title, full, how)
        for number, size in enumerate(too_small(done), 1):
            name = f"file {number} by size does not fit"
            yield Trial("disk full: RLIMIT_FSIZE", stage, name, limited, (stage, size))
    for stage in WITH_WORKERS:
        for order in ("die-once", "die", "hang"):
            yield Trial(f"workers: {order}", stage, order, workers, (stage, order))


def finish_and_compare(suite: Suite, stage: str, folder: Path) -> None:
    """The same command again ends as if nothing had happened."""
    finish(stage, folder).succeeded()
    assert_same(files_in(folder), reference(suite, stage).after)


def assert_clean(folder: Path, before: dict[str, str]) -> None:
    """What was there is there, and no half-written file is."""
    after = files_in(folder)
    assert not [name for name in after if name.endswith(".partial")], sorted(after)
    finals = {n: s for n, s in before.items() if not n.endswith((".jsonl", ".training.eqx"))}
    assert {name: after.get(name) for name in finals} == finals


# --- disks ----------------------------------------------------------------------------------------


def full(suite: Suite, rng: np.random.Generator, stage: str, number: int) -> None:
    """The disk is full as one of the script's files is written."""
    done = reference(suite, stage)
    with workspace(suite, stage) as folder:
        ended = finish(stage, folder, inject=inject.full_disk_at(number + 1))
        name = Path(done.writes[number]).name.strip(".").split(".partial")[0].rsplit(".", 1)[0]
        ended.failed("No space left", name.split(".")[0])
        assert_clean(folder, done.before)
        finish_and_compare(suite, stage, folder)


def too_small(done: Any) -> list[int]:
    """Sizes of files at which each in turn of those that the stage makes does not fit."""
    return sorted({max(0, size - 1) for size in done.sizes.values()})


def limited(suite: Suite, rng: np.random.Generator, stage: str, size: int) -> None:
    """No file can grow beyond a size, whichever process of the stage writes it."""
    with workspace(suite, stage) as folder:
        ended = finish(stage, folder, inject=inject.largest_file(size))
        said = ended.failed()
        assert "cannot write" in said or "File too large" in said, said
        assert_clean(folder, reference(suite, stage).before)
        finish_and_compare(suite, stage, folder)


def no_space(suite: Suite, rng: np.random.Generator, stage: str) -> None:
    """A file system without a free byte, then one with room."""
    if os.geteuid() != 0 or not inject.can_mount():
        raise NotTried("may not mount")
    done = reference(suite, stage)
    with workspace(suite, stage) as folder:
        needed = sum(path.stat().st_size for path in folder.rglob("*")) + (1 << 22)

        def fill(script: Any) -> None:
            inject.own_namespace()
            aside = folder.parent / "aside"
            shutil.copytree(folder, aside)
            inject.mount("tmpfs", folder, "tmpfs", 0, f"size={needed}")
            shutil.copytree(aside, folder, dirs_exist_ok=True)
            os.chdir(folder)
            try:
                with open(folder / "ballast", "wb") as ballast:
                    while True:
                        ballast.write(bytes(4096))
                        ballast.flush()
            except OSError:
                pass

        ended = finish(stage, folder, inject=fill)
        ended.failed("No space left")
        assert_same(files_in(folder), done.before)


def not_writable(suite: Suite, rng: np.random.Generator, stage: str) -> None:
    """The folder that a stage writes to is read-only."""
    done = reference(suite, stage)
    with workspace(suite, stage) as folder:
        written = folder / ("data" if stage in ("collect", "encode") else "run")
        written.mkdir(exist_ok=True)
        ended = finish(stage, folder, inject=inject.read_only(written))
        ended.failed(f"{written.name}/", "ead-only")
        assert_same(files_in(folder), done.before)
        finish_and_compare(suite, stage, folder)


def only_read(suite: Suite, rng: np.random.Generator, stage: str) -> None:
    """The folders that a stage only reads from are read-only: it does not mind."""
    with workspace(suite, stage) as folder:
        written = {"collect": ["data"], "encode": ["data"], "drive": ["out"]}.get(stage, ["run"])
        flags = ("--output-dir", "out") if stage == "drive" else ()
        for name in ("data", "run"):
            (folder / name).mkdir(exist_ok=True)
        others = [folder / name for name in ("data", "run") if name not in written]
        finish(stage, folder, *flags, inject=inject.read_only(*others)).succeeded()
        found = files_in(folder)
        if stage == "drive":
            moved = {name.replace("out/", "run/"): sha256 for name, sha256 in found.items()}
            found = moved
        assert_same(found, reference(suite, stage).after)


def output_full(suite: Suite, rng: np.random.Generator, stage: str) -> None:
    """What the script prints goes to a full disk: one line, no traceback."""

    def redirect(script: Any) -> None:
        os.dup2(os.open("/dev/full", os.O_WRONLY), 1)

    with workspace(suite, stage) as folder:
        finish(stage, folder, inject=redirect).failed("No space left")
        finish_and_compare(suite, stage, folder)


# --- processes ------------------------------------------------------------------------------------


def second_run(suite: Suite, rng: np.random.Generator, stage: str) -> None:
    """While a stage is at work, another run of it is refused and does it no harm."""
    with workspace(suite, stage) as folder:
        first = start(stage, folder)
        first.wait_until(lambda: first.beats > 0)
        first.signal(signal.SIGSTOP)
        try:
            ended = finish(stage, folder)
        finally:
            first.signal(signal.SIGCONT)
        first.wait().succeeded()
        ended.failed("is in use by", str(first.group))
        assert_same(files_in(folder), reference(suite, stage).after)


def stopped(suite: Suite, rng: np.random.Generator, stage: str, name: str) -> dict[str, Any]:
    """Ctrl-C goes to all processes, SIGTERM to the script alone: state saved, nobody left."""
    number, flags = getattr(signal, name), SAVE_NEVER.get(stage, ())
    with workspace(suite, stage) as folder:
        running = start(stage, folder, *flags)
        wanted = 1 if stage not in TRAININGS else int(rng.integers(1, 4))
        running.wait_until(lambda: running.beats >= wanted)
        beats = running.beats
        running.signal(number, whole_group=name == "SIGINT")
        ended = running.wait()
        if ended.code == 0:
            raise NotTried("it ended before the signal came")
        expected = 130 if name == "SIGINT" else 143
        assert ended.code == expected, f"exit code {ended.code}: {ended.errors[-500:]}"
        ended.is_plain()
        if stage in TRAININGS:
            final = folder / "run" / f"{TRAININGS[stage]}.eqx"
            saved = folder / "run" / f"{TRAININGS[stage]}.training.eqx"
            if not final.exists():
                step = read_header(saved).progress["step"]
                assert step >= beats, f"step {step} saved, but {beats} were done"
        finish(stage, folder, *flags).succeeded()
        assert_same(files_in(folder), reference(suite, stage).after)
    return {"steps done at the signal": beats}


def workers(suite: Suite, rng: np.random.Generator, stage: str, order: str) -> None:
    """A worker dies once or hangs: its task is redone. It dies always: that is said."""
    with workspace(suite, stage) as folder:
        notes = folder.parent / "notes"
        seconds = HANG_SECONDS if order == "hang" else None
        ended = finish(stage, folder, inject=inject.worker_orders(order, 0, notes, seconds))
        if order == "die":
            ended.failed("episode on track", "died or hung 3 times")
            finish_and_compare(suite, stage, folder)
        else:
            ended.succeeded()
            assert len(notes.read_text().splitlines()) > 1, "no worker was replaced"
            assert_same(files_in(folder), reference(suite, stage).after)


def clock(suite: Suite, rng: np.random.Generator, stage: str, hours: int) -> None:
    """The wall clock is set while the stage is at work."""
    done = reference(suite, stage)
    with workspace(suite, stage) as folder:
        jump = inject.clock_jump(3600.0 * hours, after=float(rng.uniform(0, done.seconds)))
        finish(stage, folder, inject=jump).succeeded()
        assert_same(files_in(folder), done.after)
