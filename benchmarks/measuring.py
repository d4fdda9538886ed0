"""How every benchmark here measures.

Contestants take short turns, one after another, so that a busy machine slows all of them alike;
a contestant's time is the median of its turns, and what is compared are times of one run. With
--one-core the process keeps to one core and counts its own processor time, which other work on
the machine disturbs least. The ceilings, a matrix product and a copy, are contestants too.

    python -m benchmarks --json FILE     # all stages; every module runs alone, too
"""

import argparse
import collections
import contextlib
import glob
import gzip
import itertools
import json
import os
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from utils.cpus import default_workers
from utils.output import protect_output
from utils.runtime import configure_malloc, configure_precision

Work = Callable[[], Any]

PRODUCT = 2048  # rows and columns of the matrix product that is the ceiling of arithmetic
COPIED = 1 << 26  # float32 values of the copy that is the ceiling of moving: 256 MB
COPIES = 8  # in a turn: the first one pays for the kernel's clearing of its pages


@dataclass(frozen=True)
class Measurement:
    """One row of a table."""

    name: str
    seconds: float  # median of the turns
    amount: float = 0.0  # how much of `unit` is done in that time
    unit: str = ""
    operations: float = 0.0  # floating-point operations that cannot be avoided
    moved: float = 0.0  # bytes that must be read or written


def parse(description: str | None, **options: Any) -> argparse.Namespace:
    """The flags that every benchmark has, and `options`: name to default."""
    protect_output()
    parser = argparse.ArgumentParser(description=(description or "").split("\n")[0])
    parser.add_argument("--turns", type=int, default=5, help="turns of each contestant")
    parser.add_argument(
        "--one-core", action="store_true", help="one core, and processor time in place of wall time"
    )
    parser.add_argument("--json", type=Path, help="add the figures to this file, too")
    for name, default in options.items():
        kind = Path if isinstance(default, Path) else type(default)
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, default=default)
    arguments = parser.parse_args()
    if arguments.one_core:  # before JAX and PyTorch look for cores
        os.environ["OMP_NUM_THREADS"] = "1"
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    configure_malloc()
    configure_precision()
    return arguments


def clock(arguments: argparse.Namespace) -> Callable[[], float]:
    """Processor time for one core, else wall time."""
    return time.process_time if arguments.one_core else time.perf_counter


def take_turns(contestants: dict[str, Work], arguments: argparse.Namespace) -> dict[str, float]:
    """Seconds of each contestant: the median of its turns, after one that does not count."""
    now = clock(arguments)
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(arguments.turns + 1):
        for name, work in contestants.items():
            begin = now()
            wait(work())
            if turn:
                seconds[name].append(now() - begin)
    return {name: float(np.median(times)) for name, times in seconds.items()}


def alone(
    name: str,
    batches: Generator[Any, None, None],
    many: int,
    size: int,
    unit: str,
    arguments: argparse.Namespace,
) -> Measurement:
    """How fast batches of `size` are made, `many` a turn; closes the generator.

    Never among other contestants: threads that read ahead go on for a while after their turn.
    """
    with contextlib.closing(batches):
        work = {name: lambda: list(itertools.islice(batches, many))}
        return Measurement(name, take_turns(work, arguments)[name], many * size, unit)


def has(package: str) -> bool:
    """Whether an optional package is installed; says what its rows need if not."""
    found = find_spec(package) is not None
    if not found:
        print(f"no {package}: its rows need `pip install -r requirements/benchmarks.txt`")
    return found


def wait(result: Any) -> None:
    """Until everything in `result` is computed."""
    import jax

    jax.block_until_ready(result)


def ceilings() -> dict[str, Work]:
    """A matrix product and a copy on JAX's device, in float32 as the models use it."""
    import jax

    key = jax.random.key(0)
    matrix = jax.random.normal(key, (PRODUCT, PRODUCT))
    values = jax.random.normal(key, (COPIED,))
    product = jax.jit(lambda a: a @ a)
    # The number is no constant, or they could become one.
    copies = jax.jit(lambda a, number: jax.lax.fori_loop(0, number, lambda _, a: a + 1, a))
    return {"matrix product": lambda: product(matrix), "copy": lambda: copies(values, COPIES)}


@dataclass(frozen=True)
class Ceilings:
    """What the machine gave in this very run."""

    operations: float  # a second, in a matrix product
    moved: float  # bytes a second, read and written, in a copy

    @classmethod
    def of(cls, seconds: dict[str, float]) -> "Ceilings":
        """From the turns of `ceilings()`."""
        moved = COPIES * 2 * 4 * COPIED  # read and written, four bytes a value
        return cls(2 * PRODUCT**3 / seconds["matrix product"], moved / seconds["copy"])

    def floor(self, row: Measurement) -> float:
        """Seconds below which no program does the row's work."""
        return max(row.operations / self.operations, row.moved / self.moved)

    def __str__(self) -> str:
        return (
            f"ceilings: {self.operations / 1e9:.0f} GFLOP/s in a product of {PRODUCT}×{PRODUCT} "
            f"float32 matrices, {self.moved / 1e9:.1f} GB/s in a copy of {COPIED >> 18} MB"
        )


def table(rows: list[Measurement], limits: Ceilings, against: str | None = None) -> str:
    """Rates, floors, shares of the floor, and ratios to the row `against`."""
    head = f"{'':34s}{'ms':>10s}{'rate':>14s} {'':16s}{'floor ms':>10s}{'of floor':>9s}"
    reference = next((row.amount / row.seconds for row in rows if row.name == against), None)
    lines = [head + ("" if reference is None else f"{'x ' + str(against):>22s}")]
    for row in rows:
        floor = limits.floor(row)
        line = f"{row.name:34s}{1e3 * row.seconds:10.1f}{row.amount / row.seconds:14,.1f} "
        line += f"{row.unit + '/s':16s}"
        line += f"{1e3 * floor:10.1f}{floor / row.seconds:9.0%}" if floor else " " * 19
        lines.append(
            line + ("" if reference is None else f"{row.amount / row.seconds / reference:22.2f}")
        )
    return "\n".join(lines)


def report(
    name: str,
    rows: list[Measurement],
    limits: Ceilings,
    arguments: argparse.Namespace,
    against: str | None = None,
) -> None:
    """Print the table, and add it to the file of --json."""
    how = "one core, processor time" if arguments.one_core else "wall time"
    print(f"\n{name} ({machine()}, {how})\n{limits}\n{table(rows, limits, against)}", flush=True)
    if arguments.json:
        known = json.loads(arguments.json.read_text()) if arguments.json.exists() else {}
        known[name] = {
            "device": machine(),
            "clock": how,
            "ceilings": vars(limits),
            "rows": [{**vars(row), "floor": limits.floor(row)} for row in rows],
        }
        arguments.json.write_text(json.dumps(known, indent=2) + "\n")


def machine() -> str:
    """The device and how many cores this process may use."""
    import jax

    return f"{jax.devices()[0].device_kind}, {default_workers()} cores, JAX {jax.__version__}"


@contextlib.contextmanager
def profile(title: str, most: int = 10) -> Iterator[None]:
    """Print which of the device's operations the time of the block went to."""
    import jax

    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            yield
        found = glob.glob(f"{folder}/**/*.trace.json.gz", recursive=True)
        with gzip.open(found[0]) as file:
            times = operation_times(json.load(file)["traceEvents"])
    total = sum(times.values())
    print(f"\nprofile of {title}: {1e3 * total:.0f} ms in operations")
    for name, seconds in times.most_common(most):
        print(f"  {seconds / total:5.0%}  {1e3 * seconds:8.1f} ms  {name}")


def operation_times(events: list[dict[str, Any]]) -> collections.Counter[str]:
    """Seconds in each operation of XLA's, from a trace's complete events.

    Operations of a kind are taken together: XLA names them by what is fused in them and a number.
    What contains others, a loop or a frame of the runtime, is left out.
    """
    times: collections.Counter[str] = collections.Counter()
    for event in events:
        name = event.get("args", {}).get("hlo_op", "").rstrip(".0123456789")
        if event.get("ph") == "X" and name not in ("", "while", "conditional", "call"):
            times[name] += event["dur"] / 1e6
    return times
