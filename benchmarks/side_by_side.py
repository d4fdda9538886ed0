"""The figures of two machines beside each other.

    python -m benchmarks.side_by_side docs/benchmarks.json runs/device/benchmarks.json

Reads what `python -m benchmarks --json FILE` wrote on each, and prints a Markdown table: rates, the
share of each machine's own floor, and how many times faster the second is.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from utils.output import protect_output


def cell(row: dict[str, Any] | None) -> str:
    """A rate and the share of the floor, or what stands for a row that is not there."""
    if row is None:
        return "– | –"
    share = f"{row['floor'] / row['seconds']:.0%}" if row["floor"] else "–"
    return f"{row['amount'] / row['seconds']:,.4g} {row['unit']}/s | {share}"


def rows_of(benchmarks: dict[str, Any], stage: str) -> dict[str, dict[str, Any]]:
    """The rows of one benchmark by their names; none if it was not run."""
    return {row["name"]: row for row in benchmarks.get(stage, {}).get("rows", [])}


def main() -> None:
    """Print the table."""
    protect_output()
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("files", nargs=2, type=Path, metavar="FILE")
    first, second = (json.loads(path.read_text()) for path in parser.parse_args().files)
    devices = [next(iter(found.values()))["device"] for found in (first, second)]
    print(f"| | {devices[0]} | of floor | {devices[1]} | of floor | times faster |")
    print("|---|---|---|---|---|---|")
    for stage in [*first, *(stage for stage in second if stage not in first)]:
        print(f"| **{stage}** | | | | | |")
        ours, theirs = rows_of(first, stage), rows_of(second, stage)
        for name in [*ours, *(name for name in theirs if name not in ours)]:
            a, b = ours.get(name), theirs.get(name)
            faster = ""
            if a and b and a["unit"] == b["unit"]:
                faster = f"{b['amount'] / b['seconds'] * a['seconds'] / a['amount']:.1f}"
            print(f"| {name.strip()} | {cell(a)} | {cell(b)} | {faster} |")


if __name__ == "__main__":
    main()
