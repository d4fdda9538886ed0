"""Our curves: the scripts of the pipeline, timed over sessions, and an evaluation of each agent."""

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from utils.io.files import write_json
from utils.io.records import append_record, read_metrics, read_records

ROOT = Path(__file__).resolve().parents[2]
TINY_DRIVES = "--max-steps 60 --workers 1"
TINY_SEARCH = (
    "--searches 1 --generations 2 --candidates 4 --dreams 2 --horizon 5 --validation-tracks 1 "
    "--workers 1"
)
COMMANDS = {  # those of tools.reproduce, without its choice among the rounds
    "ours-quick": """
        collect_data.py --preset quick --mode random --episodes 16
        collect_data.py --preset quick --mode recovery --episodes 64
        collect_data.py --preset quick --mode aggressive --episodes 24
        run_vae_training.py --preset quick
        process_data.py --preset quick
        train_rnn.py --preset quick
        train_dream.py --preset quick --record --validation-tracks 20
        -m tools.iterate --on-policy-episodes 0 --iterative-episodes 4 --rounds 1
        -m tools.iterate --on-policy-episodes 0 --iterative-episodes 4 --rounds 2
        -m tools.iterate --on-policy-episodes 0 --iterative-episodes 4 --rounds 3
    """,
    "ours": """
        collect_data.py --mode random --episodes 48
        collect_data.py --mode recovery --episodes 180
        collect_data.py --mode aggressive --episodes 60
        run_vae_training.py
        process_data.py
        train_rnn.py
        train_dream.py --record --validation-tracks 20
        -m tools.iterate --on-policy-episodes 0 --rounds 1
        -m tools.iterate --on-policy-episodes 0 --rounds 2
        -m tools.iterate --on-policy-episodes 0 --rounds 3
        -m tools.iterate --on-policy-episodes 0 --rounds 4
    """,
    "rehearsal": f"""
        collect_data.py --mode recovery --episodes 3 {TINY_DRIVES}
        run_vae_training.py --steps 4 --batch 4
        process_data.py
        train_rnn.py --steps 6 --lanes 2 --window 8
        train_dream.py --record {TINY_SEARCH}
    """,
}


# Runs the script of the other arguments, which ends when its parent is killed. Linux only.
DIE_WITH_PARENT = """
import ctypes, os, signal, sys
if hasattr(ctypes.CDLL(None), "prctl"):
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


class Pipeline:
    """Our scripts, one after another; each resumes by itself.

    `folder` holds data/, run/, progress.json (commands done, seconds of all sessions),
    agents/<number of commands>/ and a record for each agent, scores.jsonl.
    """

    def __init__(self, folder: Path, commands: str, tracks: Sequence[int], minutes: float):
        self.folder, self.tracks, self.limit = folder, tracks, 60 * minutes
        self.commands = [line.split() for line in commands.strip().splitlines()]

    def run(self) -> None:
        """Run the commands that are not done, until the time is over."""
        for number, command in enumerate(self.commands, 1):
            if not self.finish(number, command):
                return
            if "train_dream.py" in command or "tools.iterate" in command:
                self.evaluate(number, final=number == len(self.commands))

    def progress(self) -> dict[str, Any]:
        """Commands done, and seconds so far."""
        path = self.folder / "progress.json"
        return json.loads(path.read_text()) if path.exists() else {"done": 0, "seconds": 0.0}

    def finish(self, number: int, command: list[str]) -> bool:
        """Run a command unless it is done; False if the time is over before its end."""
        progress = self.progress()
        if number <= progress["done"]:
            return True
        if progress["seconds"] >= self.limit:
            return False
        folders = ["--data-dir", str(self.folder / "data"), "--run-dir", str(self.folder / "run")]
        begun, before = time.monotonic(), progress["seconds"]
        with child([*command, *folders]) as process:
            while process.poll() is None and progress["seconds"] < self.limit:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(min(5.0, self.limit - progress["seconds"]))
                progress["seconds"] = before + time.monotonic() - begun
                progress["done"] = number if process.returncode == 0 else number - 1
                progress.setdefault("ended", {})[str(number)] = progress["seconds"]
                write_json(self.folder / "progress.json", progress)
        if process.returncode not in (0, -signal.SIGTERM, 128 + signal.SIGTERM):
            sys.exit(f"{' '.join(command)} failed")
        return process.returncode == 0

    def evaluate(self, number: int, final: bool) -> None:
        """Drive the tracks with the agent that the command has made, unless that is done."""
        records = read_records(self.folder / "scores.jsonl")
        if any(record["number"] == number for record in records):
            return
        agent = self.folder / "agents" / str(number)
        agent.mkdir(parents=True, exist_ok=True)
        for name in ("vae.eqx", "rnn.eqx", "controller.eqx", "starts.eqx"):
            shutil.copy(self.folder / "run" / name, agent / name)
        scores = scores_of(agent, self.tracks)
        seconds, (collected, validated) = self.progress()["seconds"], self.frames()
        record = {
            "number": number,
            "seconds": seconds,
            "frames": collected + validated,
            "collected": collected,
            "final": final,
            "scores": scores,
        }
        append_record(self.folder / "scores.jsonl", record)
        print(f"{seconds / 60:.1f} min: {np.mean(scores):.0f}", flush=True)

    def frames(self) -> tuple[int, int]:
        """Real frames collected so far, and those of drives that validated agents.

        On-policy episodes are counted once: they are drives that validated agents, and were kept.
        """
        collected = 0
        for path in (self.folder / "data" / "rollouts").rglob("*.npz"):
            if path.parent.name != "on-policy":
                with np.load(path, allow_pickle=False) as episode:
                    collected += len(episode["rewards"])
        run = self.folder / "run"
        choices = read_metrics(run / "controller.metrics.jsonl")
        rounds = [json.loads(path.read_text()) for path in run.glob("rounds/*/evaluation.json")]
        return collected, sum(sum(record.get("steps", ())) for record in [*choices, *rounds])

    def first_dream(self) -> tuple[Path, dict[str, Any]] | None:
        """The folder of the first agent, and where a curve in its dream begins; None: no agent."""
        records = read_records(self.folder / "scores.jsonl")
        if not records:
            return None
        number, frames = records[0]["number"], records[0]["collected"]
        begin = {"seconds": self.progress()["ended"][str(number - 1)], "frames": frames}
        return self.folder / "agents" / str(number), begin


def scores_of(agent: Path, tracks: Sequence[int]) -> list[float]:
    """The real scores of an agent, by test_agent.py."""
    flags = f"--first-track {tracks[0]} --episodes {len(tracks)} --videos 0"
    with child(["test_agent.py", "--run-dir", str(agent), *flags.split()]) as process:
        if process.wait():
            sys.exit(f"test_agent.py failed for {agent}")
    return json.loads((agent / "evaluation.json").read_text())["scores"]


@contextlib.contextmanager
def child(command: Sequence[str]) -> Iterator[subprocess.Popen]:
    """A script that runs within this block. It is stopped at the end of the block, if need be."""
    print(" ".join(command), flush=True)
    process = subprocess.Popen([sys.executable, "-c", DIE_WITH_PARENT, *command], cwd=ROOT)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()
