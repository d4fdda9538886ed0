"""Run the suite; write docs/reliability.json and docs/reliability.md from what it found."""

import argparse
import os
import platform
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def main() -> None:
    """Parse, prepare the environment, then import and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="trials whose key contains this; no report")
    parser.add_argument("--quick", action="store_true", help="the share that make test runs")
    parser.add_argument("--seed", type=int, default=0, help="of every random choice")
    parser.add_argument("--lanes", type=int, default=2, help="trials at a time, one core each")
    parser.add_argument("--minutes", type=float, default=40.0, help="no trial begins after these")
    parser.add_argument("--fuzz-seconds", type=int, default=40, help="of each fuzzed loader")
    parser.add_argument("--work-dir", type=Path, default=ROOT / "runs" / "faults")
    parser.add_argument("--fresh", action="store_true", help="forget trials already made")
    parser.add_argument("--list", action="store_true", help="only say which trials there are")
    arguments = parser.parse_args()

    work = arguments.work_dir.resolve() / ("quick" if arguments.quick else "")
    os.environ |= {
        "JAX_PLATFORMS": "cpu",
        "SDL_VIDEODRIVER": "dummy",
        # One thread each for XLA and BLAS: results must not depend on the other lane.
        "NPROC": "1",
        "OMP_NUM_THREADS": "1",
        # Compiled once for all children; what is compiled is the same.
        "JAX_COMPILATION_CACHE_DIR": str(work / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "TQDM_DISABLE": "0",
    }
    from faults import suite

    suite.run(arguments, about(arguments.seed), work)


def about(seed: int) -> dict[str, str | int]:
    """What a report says of its run."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next(
        (line.split(":")[1].strip() for line in lines if line.startswith("model name")),
        platform.processor(),
    )
    return {
        "commit": done.stdout.strip() or "unknown",
        "seed": seed,
        "machine": f"{cpu}, {len(os.sched_getaffinity(0))} cores, {platform.system()} "
        f"{platform.release()}, Python {platform.python_version()}",
    }


if __name__ == "__main__":
    main()
