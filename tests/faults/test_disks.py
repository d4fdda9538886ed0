"""Full disks, full output and read-only folders: one plain line, and no half-written file."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from faults import inject
from faults.pipeline import FILE_SIZES, FLAGS, SIX, WRITES
from faults.processes import finish
from faults.references import (
    Suite,
    assert_same,
    files_in,
    finish_and_compare,
    reference,
    workspace,
)


def assert_clean(folder: Path, before: dict[str, str]) -> None:
    """Assert that finished files are unchanged and that no half-written file is left."""
    after = files_in(folder)
    assert not [name for name in after if name.endswith(".partial")], sorted(after)
    finals = {n: s for n, s in before.items() if not n.endswith((".jsonl", ".training.eqx"))}
    assert {name: after.get(name) for name in finals} == finals


@pytest.mark.faults("disk full: /dev/full")
@pytest.mark.parametrize(
    ("script", "number"),
    [
        pytest.param(script, number, id=f"{script}-write {number}")
        for script, numbers in WRITES.items()
        for number in numbers
    ],
)
def test_disk_full_at_a_write(suite: Suite, script: str, number: int) -> None:
    """The disk is full when the script writes one of its files."""
    done = reference(suite, script)
    with workspace(suite, script) as folder:
        ended = finish(script, folder, inject=inject.full_disk_at(number))
        name = Path(done.writes[number - 1]).name.strip(".").split(".partial")[0].rsplit(".", 1)[0]
        ended.assert_failed("No space left", name.split(".")[0])
        assert_clean(folder, done.before)
        finish_and_compare(suite, script, folder)


@pytest.mark.faults("disk full: RLIMIT_FSIZE")
@pytest.mark.parametrize(
    ("script", "number"),
    [
        pytest.param(script, number, id=f"{script}-file {number} by size does not fit")
        for script, count in FILE_SIZES.items()
        for number in range(1, count + 1)
    ],
)
def test_file_does_not_fit(suite: Suite, script: str, number: int) -> None:
    """No process of the script can write a file as large as its `number`-th by size."""
    done = reference(suite, script)
    size = sorted(set(done.sizes.values()))[number - 1]
    with workspace(suite, script) as folder:
        ended = finish(script, folder, inject=inject.largest_file(max(0, size - 1)))
        message = ended.assert_failed()
        assert "cannot write" in message or "File too large" in message, message
        assert_clean(folder, done.before)
        finish_and_compare(suite, script, folder)


@pytest.mark.faults("disk full: file system")
@pytest.mark.parametrize("script", FLAGS)
def test_file_system_full(suite: Suite, script: str) -> None:
    """A file system without a free byte: nothing is changed."""
    if os.geteuid() != 0 or not inject.can_mount():
        pytest.skip("needs permission to mount")
    with workspace(suite, script) as folder:
        needed = sum(path.stat().st_size for path in folder.rglob("*")) + (1 << 22)

        def fill(module: Any) -> None:
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
            except OSError:  # the file system is full
                pass

        ended = finish(script, folder, inject=fill)
        ended.assert_failed("No space left")
        assert_same(files_in(folder), reference(suite, script).before)


@pytest.mark.faults("standard output")
@pytest.mark.parametrize("script", FLAGS)
def test_standard_output_full(suite: Suite, script: str) -> None:
    """Standard output is redirected to a full disk: one line, and all work is done."""

    def redirect(module: Any) -> None:
        os.dup2(os.open("/dev/full", os.O_WRONLY), 1)

    with workspace(suite, script) as folder:
        ended = finish(script, folder, inject=redirect)
        ended.assert_succeeded()
        assert "standard output cannot be written: No space left" in ended.errors
        assert_same(files_in(folder), reference(suite, script).after)


@pytest.mark.faults("read-only folders")
@pytest.mark.parametrize("script", FLAGS)
def test_output_folder_read_only(suite: Suite, script: str) -> None:
    """The folder that the script writes to is read-only: nothing is changed."""
    with workspace(suite, script) as folder:
        written = folder / ("data" if script in ("collect_data", "process_data") else "run")
        written.mkdir(exist_ok=True)
        ended = finish(script, folder, inject=inject.read_only(written))
        ended.assert_failed(f"{written.name}/", "ead-only")
        assert_same(files_in(folder), reference(suite, script).before)
        finish_and_compare(suite, script, folder)


@pytest.mark.faults("read-only folders")
@pytest.mark.parametrize("script", SIX)
def test_input_folders_read_only(suite: Suite, script: str) -> None:
    """The folders that the script only reads are read-only: it succeeds."""
    outputs = {"collect_data": "data", "process_data": "data", "test_agent": "out"}
    with workspace(suite, script) as folder:
        flags = ("--output-dir", "out") if script == "test_agent" else ()
        for name in ("data", "run"):
            (folder / name).mkdir(exist_ok=True)
        inputs = [folder / name for name in ("data", "run") if name != outputs.get(script, "run")]
        finish(script, folder, *flags, inject=inject.read_only(*inputs)).assert_succeeded()
        found = {name.replace("out/", "run/"): sha for name, sha in files_in(folder).items()}
        assert_same(found, reference(suite, script).after)
