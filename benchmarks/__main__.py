"""All benchmarks, one after another, each in a process of its own.

    python -m benchmarks                      # wall time on all cores: for a quiet machine
    python -m benchmarks --one-core           # processor time of one core: for a busy one
    python -m benchmarks --json FILE          # the figures, too
    python -m benchmarks vae rnn --turns 9

Ratios are of one run: contestants take turns (benchmarks/measuring.py).
"""

import argparse
import subprocess
import sys
from pathlib import Path

from utils.output import protect_output

STAGES = ("environment", "vae", "encoding", "rnn", "dream", "agent")


def command(stage: str, arguments: argparse.Namespace) -> list[str]:
    """The command of one stage; the environment's has flags of its own."""
    flags = ["--json", str(arguments.json)] if arguments.json else []
    if stage == "environment":
        if arguments.json:
            flags[1] = str(arguments.json.with_stem(arguments.json.stem + "-environment"))
        flags += ["--cpu-time"] if arguments.one_core else []
    else:
        flags += ["--turns", str(arguments.turns)]
        flags += ["--one-core"] if arguments.one_core else []
    return [sys.executable, "-m", f"benchmarks.{stage}", *flags]


def main() -> int:
    """Run the stages; 1 if one of them failed."""
    protect_output()
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=f"of {', '.join(STAGES)}")
    parser.add_argument("--turns", type=int, default=5, help="turns of each contestant")
    parser.add_argument("--one-core", action="store_true", help="one core, processor time")
    parser.add_argument("--json", type=Path, help="add the figures to this file, too")
    arguments = parser.parse_args()
    if unknown := set(arguments.stages) - set(STAGES):
        parser.error(f"no such stage: {', '.join(sorted(unknown))}")
    failed = []
    for stage in arguments.stages or STAGES:
        print(f"\n=== {stage}", flush=True)
        if subprocess.run(command(stage, arguments)).returncode:
            failed.append(stage)
    print(f"failed: {', '.join(failed)}" if failed else "\nall stages ran")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
