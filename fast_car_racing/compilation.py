"""`compiled` and `inner`: numba's compiler with this package's options and cache.

Compiled code is kept in a folder whose name is a hash of the compiled modules' sources, the
versions of numba and Python, and the processor, so it is never stale. The folder lies in

1. `NUMBA_CACHE_DIR`, if that is set, and nowhere else;
2. else `__pycache__` beside this file;
3. else, where that cannot be written, the user's cache folder (`~/.cache/fast_car_racing`).

A folder that already holds compiled code serves even if it is read-only. Where none can be
written, each process compiles in memory. A line on stderr says when code is compiled.
"""

import contextlib
import hashlib
import multiprocessing
import os
import pickle
import sys
import tempfile
from functools import lru_cache
from pathlib import Path

import numba
from numba import config, njit
from numba.core.caching import CompileResultCacheImpl, FunctionCache, NullCache, _CacheLocator
from numba.core.registry import cpu_target
from numba.misc.appdirs import AppDirs

try:
    from fcntl import LOCK_EX, LOCK_UN, flock
except ImportError:  # Windows: processes that start together each compile
    flock = None

PACKAGE = Path(__file__).resolve().parent
# The modules with compiled functions: a change in one of them may change the code of another.
COMPILED_MODULES = ("compilation", "downscale", "lines", "painting", "polygons", "scene", "spans")

# Division by zero needs no check. Without the runtime (NRT) numba does not count references to
# arrays, which it would do even in inner loops.
_OPTIONS = {"error_model": "numpy", "boundscheck": False, "nogil": True, "_nrt": False}


def fingerprint() -> str:
    """Hash of all that decides what the compiler makes of this package."""
    digest = hashlib.sha256()
    for name in COMPILED_MODULES:
        digest.update((PACKAGE / f"{name}.py").read_bytes())
    processor = cpu_target.target_context.codegen().magic_tuple()
    digest.update(repr((numba.__version__, sys.version_info, processor)).encode())
    return digest.hexdigest()[:16]


def cache_parents() -> list[Path]:
    """The folders that may hold compiled code, in the order in which they are tried."""
    if config.CACHE_DIR:
        return [Path(config.CACHE_DIR) / "fast_car_racing"]
    user_folder = AppDirs(appname="fast_car_racing", appauthor=False).user_cache_dir
    return [PACKAGE / "__pycache__", Path(user_folder)]


@lru_cache(maxsize=1)
def cache_folder() -> Path | None:
    """The folder of this process's compiled code, None if there is none to read or write."""
    name = fingerprint()
    folders = [parent / name for parent in cache_parents()]
    for folder in folders:
        with contextlib.suppress(OSError):
            if any(folder.glob("*.nbc")):
                return folder
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
            return folder
    return None


@lru_cache(maxsize=4)  # each line once in a process
def _report(line: str) -> None:
    # The process that started this one may show a progress bar: do not write at its end.
    start = "\n" if multiprocessing.parent_process() else ""
    if sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):  # closed
            print(f"{start}fast_car_racing: {line}", file=sys.stderr, flush=True)


def _report_no_cache() -> None:
    # Every worker compiles; the first one says so. Workers' names end with their number.
    number = multiprocessing.current_process().name.rpartition("-")[2]
    if multiprocessing.parent_process() and number.isdecimal() and int(number) > 1:
        return
    tried = " or ".join(str(parent) for parent in cache_parents())
    _report(
        f"compiling in memory, 10 to 20 s in each process: cannot write to {tried}. "
        "Set NUMBA_CACHE_DIR to a folder that can be written."
    )


class _Locator(_CacheLocator):
    """Tells numba the folder; the folder's name already stands for the state of the sources."""

    def __init__(self, py_func, py_file):
        self._py_file = py_file
        self._line = py_func.__code__.co_firstlineno

    def get_cache_path(self):
        return str(cache_folder())

    def get_source_stamp(self):
        return cache_folder().name

    def get_disambiguator(self):
        return str(self._line)

    @classmethod
    def from_function(cls, py_func, py_file):
        return cls(py_func, py_file)


class _CacheFiles(CompileResultCacheImpl):
    _locator_classes = (_Locator,)


class _Cache(FunctionCache):
    """numba's cache on disk. Of processes that start together, one compiles and the others wait."""

    _impl_class = _CacheFiles

    def load_overload(self, sig, target_context):
        """The compiled function, or None if it has to be compiled: then holds the lock."""
        found = self._load(sig, target_context)
        if found is None:
            self._lock = contextlib.ExitStack()
            with contextlib.suppress(OSError):  # a read-only folder, or a file system without locks
                file = self._lock.enter_context((Path(self.cache_path) / "lock").open("a"))
                if flock is not None:
                    flock(file, LOCK_EX)
                    # Closing is not enough: a child forked meanwhile has the open file, too.
                    self._lock.callback(flock, file, LOCK_UN)
            found = self._load(sig, target_context)
            if found is None and not os.access(self.cache_path, os.W_OK):
                _report_no_cache()
            elif found is None:
                _report(f"compiling, 10 to 20 s once on this machine; kept in {self.cache_path}")
            else:
                self._lock.close()
        return found

    def _load(self, sig, target_context):
        try:
            return super().load_overload(sig, target_context)
        except (EOFError, pickle.UnpicklingError, OSError):  # a damaged or unreadable file
            with contextlib.suppress(OSError):
                self.flush()
            return None

    def save_overload(self, sig, data):
        """Keep what was compiled, and release the lock."""
        with self._lock:
            try:
                super().save_overload(sig, data)
            except OSError:
                _report_no_cache()


class _NoCache(NullCache):
    def load_overload(self, sig, target_context):
        _report_no_cache()


def compiled(function):
    """Compile a function that Python calls; its machine code is kept on disk."""
    dispatcher = njit(**_OPTIONS)(function)
    if not config.DISABLE_JIT:
        dispatcher._cache = _NoCache() if cache_folder() is None else _Cache(function)
    return dispatcher


# For functions that only compiled code calls: no entry point for Python halves the compile time.
inner = njit(no_cpython_wrapper=True, no_cfunc_wrapper=True, **_OPTIONS)
# For functions as short as a call.
inlined = njit(forceinline=True, no_cpython_wrapper=True, no_cfunc_wrapper=True, **_OPTIONS)
