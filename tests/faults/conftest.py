"""Options, fixtures and hooks of the fault suite.

Every case runs in a forked process of its own: what it does to JAX, to the working directory or to
the environment ends with it. The scripts that it runs are forked in turn.
"""

import ctypes
import os
import resource
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from faults.ledger import Ledger, sources_sha256
from faults.pipeline import LOADERS, ROOT
from faults.processes import FORK, FaultMissed, import_scripts
from faults.references import Suite, remove_old_references

ATTEMPTS = 5  # of a case whose fault came too late
PR_SET_CHILD_SUBREAPER = 36  # of prctl(2)
LEDGER = pytest.StashKey[Ledger]()
# Also inherited by the workers that scripts start.
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "SDL_VIDEODRIVER": "dummy",
    "NPROC": "1",  # threads of XLA: results must not depend on what else runs
    "OMP_NUM_THREADS": "1",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("faults")
    group.addoption("--fault-dir", type=Path, help="of records and references: runs/faults")
    group.addoption("--fault-report", type=Path, metavar="DIR", help="write reliability.md to it")
    group.addoption("--fault-repeat", action="store_true", help="also run what passed before")
    group.addoption("--fault-seed", type=int, help="of every random choice: 0")
    group.addoption("--fuzz-seconds", type=int, help="for each fuzzed reader: 40")


def option(config: pytest.Config, name: str) -> Any:
    """The value of an option. Without this folder as an argument, pytest does not register them."""
    defaults = {"fault_dir": ROOT / "runs" / "faults", "fault_seed": 0, "fuzz_seconds": 40}
    value = config.getoption(name, None)
    return defaults.get(name) if value is None else value


def pytest_configure(config: pytest.Config) -> None:
    folder = option(config, "fault_dir").resolve()
    ledger = Ledger(folder, option(config, "fault_seed"), option(config, "fault_report"))
    config.stash[LEDGER] = ledger
    if not hasattr(config, "workerinput"):  # with pytest-xdist only the controller writes
        config.pluginmanager.register(ledger)
        remove_old_references(folder)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give each case its place in the table: `faults(fault, script)` of its marker."""
    for item in items:
        marker = item.get_closest_marker("faults")
        if marker is None or not marker.args:
            continue
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        script = marker.kwargs.get("script", parameters.get("script", LOADERS))
        item.user_properties += [
            ("fault", marker.args[0].format(**parameters)),
            ("script", script),
            ("sources", sources_sha256(item.path)),
        ]


def pytest_runtest_setup(item: pytest.Item) -> None:
    ledger = item.config.stash[LEDGER]
    facts = dict(item.user_properties)
    if "sources" not in facts or option(item.config, "fault_repeat"):
        return
    if ledger.holds(item.nodeid, facts["sources"]):
        item.user_properties.append(("recorded", True))
        pytest.skip("passed before, with the same sources")


@pytest.fixture(scope="session")
def suite(request: pytest.FixtureRequest) -> Iterator[Suite]:
    """The scripts imported, an environment for their child processes, a folder for the cases."""
    folder = option(request.config, "fault_dir").resolve()
    cache = {
        # Shared by all child processes, which would compile the same programs.
        "jax_compilation_cache_dir": str(folder / "cache"),
        "jax_persistent_cache_min_compile_time_secs": 0,
    }
    # Cases force hundreds of files to disk. A disk in memory makes that fast.
    in_memory = Path("/dev/shm")
    scratch = Path(
        tempfile.mkdtemp(prefix="faults-", dir=in_memory if in_memory.is_dir() else None)
    )
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        for name, value in cache.items():
            patch.setenv(name.upper(), str(value))
            jax.config.update(name, value)
        import_scripts()
        seed = option(request.config, "fault_seed")
        yield Suite(folder, scratch, seed, option(request.config, "fuzz_seconds"))
    shutil.rmtree(scratch, ignore_errors=True)


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """Random numbers of this case, the same in every run with the same seed."""
    seed = option(request.config, "fault_seed")
    return np.random.default_rng([seed, zlib.crc32(request.node.nodeid.encode())])


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool:
    """Run a case in a forked process; fail or skip here as it did there."""
    receiver, sender = FORK.Pipe(duplex=False)
    process = FORK.Process(target=_run_case, args=(pyfuncitem, sender))
    process.start()
    sender.close()
    try:
        outcome, text, pyfuncitem.user_properties[:] = receiver.recv()
    except EOFError:
        process.join()
        pytest.fail(f"the process of this case ended with {process.exitcode}", pytrace=False)
    finally:
        process.join()
    if outcome == "skipped":
        pytest.skip(text)
    if outcome == "failed":
        pytest.fail(text, pytrace=False)
    return True


def _run_case(item: pytest.Function, sender: Connection) -> None:
    # Adopt the children of killed children, so that their processor time is counted.
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    arguments = {name: item.funcargs[name] for name in item._fixtureinfo.argnames}
    for _ in range(ATTEMPTS):
        call = pytest.CallInfo.from_call(lambda: item.obj(**arguments), "call")
        if call.excinfo is None or not call.excinfo.errisinstance(FaultMissed):
            break
    outcome, text = "passed", ""
    if call.excinfo is not None:
        missed = (FaultMissed, pytest.skip.Exception)
        outcome = "skipped" if call.excinfo.errisinstance(missed) else "failed"
        skipped = outcome == "skipped"
        text = str(call.excinfo.value if skipped else call.excinfo.getrepr(style="short"))
        problem = (text if skipped else call.excinfo.exconly()).partition("\n")[0]
        item.user_properties.append(("problem", problem))
    _reap_children()
    item.user_properties.append(("cpu", _cpu_seconds()))
    sender.send((outcome, text, item.user_properties))


def _reap_children() -> None:
    """Wait for adopted children that have ended."""
    try:
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass
    except ChildProcessError:  # none is left
        return


def _cpu_seconds() -> float:
    """Processor time of this process and of its children that have ended."""
    used = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return round(sum(use.ru_utime + use.ru_stime for use in used), 2)
