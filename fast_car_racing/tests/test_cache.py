"""The cache of compiled code: where it lies, that it is never stale, and what users are told."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numba
import pytest

from fast_car_racing import compilation

PACKAGE = compilation.PACKAGE
USE = "from fast_car_racing.compilation import compiled; print(compiled(lambda x: x + 1)(1))"

# Stands in for a file system without flock.
NO_FLOCK = """
#include <errno.h>
int flock(int fd, int operation) { errno = ENOLCK; return -1; }
"""
# Become the user nobody once Python and numba are loaded: their folders may be closed to others.
AS_NOBODY = (
    "import os, tempfile, numba, fast_car_racing.compilation; numba.njit(lambda x: x)(1); "
    "os.setgroups([]); os.setgid(65534); os.setuid(65534); "
)


def start(cache: Path | None, code: str = USE, path: Path = PACKAGE.parent, **variables: str):
    """Start a process that compiles a small function and prints 2."""
    env = os.environ | {"PYTHONPATH": str(path)} | variables
    env.pop("NUMBA_CACHE_DIR", None)
    if cache is not None:
        env["NUMBA_CACHE_DIR"] = str(cache)
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=path,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen) -> str:
    """Wait for a process of `start`; returns what it wrote to stderr."""
    output, errors = process.communicate(timeout=120)
    assert (process.returncode, output) == (0, "2\n"), errors
    return errors


def test_first_process_says_that_it_compiles(tmp_path):
    first = finish(start(tmp_path))
    assert re.fullmatch(
        rf"fast_car_racing: compiling, 10 to 20 s once on this machine; kept in {tmp_path}\S+\n",
        first,
    )
    assert finish(start(tmp_path)) == ""


def test_a_worker_says_it_on_a_line_of_its_own(tmp_path):
    """The process that started the worker has written a line without an end: a progress bar."""
    work = (
        "import multiprocessing, sys; "
        "print('3/10 [00:01, 2 it/s]', end='', file=sys.stderr, flush=True); "
        "process = multiprocessing.get_context('fork').Process(target=exec, args=(sys.argv[1],)); "
        "process.start(); process.join()"
    )
    env = os.environ | {"PYTHONPATH": str(PACKAGE.parent), "NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", work, USE]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    bar, line = done.stderr.splitlines()
    assert bar == "3/10 [00:01, 2 it/s]" and line.startswith("fast_car_racing: compiling")


def test_of_many_workers_one_says_that_nothing_is_kept(tmp_path):
    (tmp_path / "file").touch()
    work = (
        "import multiprocessing, sys; context = multiprocessing.get_context('fork'); "
        "workers = [context.Process(target=exec, args=(sys.argv[1],)) for _ in range(3)]; "
        "[worker.start() for worker in workers]; [worker.join() for worker in workers]"
    )
    env = os.environ | {"PYTHONPATH": str(PACKAGE.parent)}
    env["NUMBA_CACHE_DIR"] = str(tmp_path / "file")
    command = [sys.executable, "-c", work, USE]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert "".join(done.stdout.split()) == "222"  # without order, also of the line ends
    assert done.stderr.count("compiling in memory") == 1


def test_processes_that_start_together_compile_once(tmp_path):
    lines = [finish(process) for process in [start(tmp_path) for _ in range(4)]]
    assert sorted(line != "" for line in lines) == [False, False, False, True]


def test_processes_that_start_together_without_flock_all_work(tmp_path):
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("a C compiler on Linux is needed to simulate a file system without flock")
    (tmp_path / "stub.c").write_text(NO_FLOCK)
    stub = tmp_path / "stub.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", stub, tmp_path / "stub.c"], check=True)
    cache = tmp_path / "cache"
    together = [start(cache, LD_PRELOAD=str(stub)) for _ in range(3)]
    assert any("compiling" in finish(process) for process in together)
    assert finish(start(cache, LD_PRELOAD=str(stub))) == ""


def test_killed_process_leaves_no_lock(tmp_path):
    """It holds the lock while it compiles, forever; its successor compiles all the same."""
    hang = "import time, numba.core.dispatcher as d; d._FunctionCompiler.compile = lambda *_: "
    first = start(tmp_path, hang + "print(1, flush=True) or time.sleep(99); " + USE)
    assert first.stdout.readline() == "1\n"
    second = start(tmp_path)
    with pytest.raises(subprocess.TimeoutExpired):
        second.wait(timeout=6)
    first.kill()
    first.communicate()
    assert "compiling" in finish(second)


def test_no_folder_can_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    line = finish(start(tmp_path / "file"))
    assert line.count("\n") == 1
    assert f"cannot write to {tmp_path / 'file' / 'fast_car_racing'}." in line
    assert "Set NUMBA_CACHE_DIR" in line


def copy_package(folder: Path) -> Path:
    shutil.copytree(PACKAGE, folder / "fast_car_racing", ignore=shutil.ignore_patterns("__pyc*"))
    return folder


def test_user_cache_serves_a_package_that_cannot_be_written(tmp_path):
    """Root may write anywhere, so a file in the place of __pycache__ stands for a refusal."""
    path = copy_package(tmp_path)
    (path / "fast_car_racing" / "__pycache__").write_text("")
    home = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "user")}
    assert f"kept in {tmp_path / 'user' / 'fast_car_racing'}" in finish(
        start(None, path=path, **home)
    )
    assert finish(start(None, path=path, **home)) == ""


def test_compiled_folder_is_read_though_it_cannot_be_written(tmp_path):
    # Root may write anywhere: refuse what a read-only folder would.
    refuse = (
        "import os, pathlib\n"
        "def no(*_): raise PermissionError(13, 'read-only')\n"
        "read = pathlib.Path.open\n"
        "def open(self, mode='r', *a, **k):\n"
        "    return no() if 'a' in mode else read(self, mode, *a, **k)\n"
        "pathlib.Path.open = open\n"
        "os.replace = no\n"
    )
    finish(start(tmp_path, refuse.count("\n") * "\n" + USE))  # on the same line as below
    assert finish(start(tmp_path, refuse + USE)) == ""
    other = refuse + USE.replace("x + 1", "x + 2 - 1")  # a function that the folder does not have
    assert "compiling in memory" in finish(start(tmp_path, other))


@pytest.fixture
def everyones() -> Iterator[Path]:
    """A folder with a copy of the package that root owns and everybody reads."""
    if os.name != "posix" or os.geteuid() != 0:
        pytest.skip("only root can become another user")
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield copy_package(Path(folder))


def test_another_user_compiles_into_a_cache_of_its_own(everyones):
    home = everyones / "home"
    home.mkdir()
    os.chown(home, 65534, 65534)
    variables = {"HOME": str(home), "XDG_CACHE_HOME": str(home)}
    line = finish(start(None, AS_NOBODY + USE, everyones, **variables))
    assert f"kept in {home / 'fast_car_racing'}" in line
    assert finish(start(None, AS_NOBODY + USE, everyones, **variables)) == ""
    assert all(path.stat().st_uid == 65534 for path in home.rglob("*"))


def test_another_user_reads_what_root_compiled(everyones):
    finish(start(None, USE, everyones))
    assert finish(start(None, AS_NOBODY + USE, everyones)) == ""


def test_another_user_without_a_home_compiles_in_memory(everyones):
    variables = {"HOME": str(everyones), "XDG_CACHE_HOME": str(everyones / "none")}
    for _ in range(2):
        line = finish(start(None, AS_NOBODY + USE, everyones, **variables))
        assert "compiling in memory" in line and str(everyones / "none") in line


def test_another_user_ignores_a_cache_that_is_closed_to_it(everyones):
    cache = everyones / "cache"
    finish(start(cache, USE, everyones))
    cache.chmod(0o700)
    assert "compiling in memory" in finish(start(cache, AS_NOBODY + USE, everyones))


@pytest.mark.parametrize(
    ("suffix", "content"), [("nbi", b""), ("nbi", b"damaged"), ("nbc", b""), ("nbc", None)]
)
def test_damaged_file_is_compiled_again(tmp_path, suffix, content):
    finish(start(tmp_path))
    (file,) = tmp_path.rglob(f"*.{suffix}")
    file.write_bytes(file.read_bytes()[:-20] if content is None else content)
    assert "compiling" in finish(start(tmp_path))
    assert finish(start(tmp_path)) == ""


def test_edit_of_any_compiled_module_takes_another_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(compilation, "PACKAGE", copy_package(tmp_path) / "fast_car_racing")
    before = compilation.fingerprint()
    for name in compilation.COMPILED_MODULES:
        file = compilation.PACKAGE / f"{name}.py"
        file.write_text(file.read_text() + "# edited\n")
        assert compilation.fingerprint() != before
        before = compilation.fingerprint()
    (compilation.PACKAGE / "env.py").write_text("")  # nothing in it is compiled
    assert compilation.fingerprint() == before


def test_compiled_modules_are_those_that_use_the_compiler():
    users = {path.stem for path in PACKAGE.glob("*.py") if "compilation import" in path.read_text()}
    assert {"compilation", *users} == set(compilation.COMPILED_MODULES)


def test_other_numba_python_or_processor_takes_another_folder(monkeypatch):
    here = compilation.fingerprint()
    show = "import fast_car_racing.compilation as c, sys; sys.exit(c.fingerprint())"
    process = start(None, show, NUMBA_CPU_NAME="generic")
    assert process.communicate()[1].strip() not in ("", here)
    monkeypatch.setattr(numba, "__version__", "0.0")
    assert compilation.fingerprint() != here


def test_environment_is_compiled_once(tmp_path):
    """The real functions: a second process finds all of them."""
    code = "import gymnasium\nenv = gymnasium.make('fast_car_racing:FastCarRacing-v3')\nprint(2)"
    folder = compilation.cache_folder()
    if folder is None:
        pytest.skip("no folder for the cache can be written")
    finish(start(None, code))
    assert finish(start(None, code)) == ""


def test_works_without_compiling():
    """NUMBA_DISABLE_JIT, which debuggers of numba code set."""
    assert finish(start(None, NUMBA_DISABLE_JIT="1")) == ""
