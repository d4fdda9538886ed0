"""After kill −9 and a rerun each stage ends with the bytes of an uninterrupted run.

The uninterrupted run compiled everything itself, the others read its compilation cache: equal
bytes say that the cache changes nothing either.
"""

from pathlib import Path

import pytest
from scripts import KILL, Workshop

from utils.io.checkpoints import read_header

# Stage, what it reads, its flags, the state it saves, what it makes.
TRAININGS = [
    ("run_vae_training.py", ["data/rollouts"], ["--save-seconds", "0"], "vae"),
    ("train_rnn.py", ["data/latents", "run/vae.eqx"], ["--save-seconds", "0"], "rnn"),
    ("train_rnn.py", ["data/latents", "run/vae.eqx"], ["--save-seconds", "0"], "dream_rnn"),
    (
        "train_dream.py",
        ["data/latents", "run/vae.eqx", "run/rnn.eqx", "run/dream_rnn.eqx"],
        ["--save-every", "1"],
        "controller",
    ),
]


@pytest.mark.parametrize(
    ("script", "inputs", "flags", "model"), TRAININGS, ids=[row[-1] for row in TRAININGS]
)
def test_a_killed_training_ends_with_the_same_bytes(
    workshop: Workshop, tmp_path: Path, script: str, inputs: list[str], flags: list[str], model: str
) -> None:
    again = workshop.copy(tmp_path, *inputs)
    final, state = (again.run_dir / f"{model}{end}.eqx" for end in ("", ".training"))
    again.stop_at_work(
        script, *flags, signal_number=KILL, is_at_work=state.exists, is_done=final.exists
    )
    stopped = read_header(state).progress["step"]
    assert 0 < stopped < read_header(workshop.run_dir / final.name).progress["step"]
    assert f"resuming after step {stopped}" in again.succeed(script, *flags)
    assert again.files(f"run/{model}.eqx") == workshop.files(f"run/{model}.eqx")
    assert again.files(f"run/{model}.metrics.jsonl") == workshop.files(f"run/{model}.metrics.jsonl")
    assert again.leftovers() == []


def test_a_killed_collection_drives_only_what_is_missing(
    workshop: Workshop, tmp_path: Path
) -> None:
    again, pattern = Workshop(tmp_path, workshop.environment), "data/rollouts/recovery/*.npz"
    flags = ["--mode", "recovery", "--episodes", "3", "--workers", "1"]
    again.stop_at_work(
        "collect_data.py",
        *flags,
        signal_number=KILL,
        is_at_work=lambda: len(list(tmp_path.glob(pattern))) > 0,
        is_done=lambda: len(list(tmp_path.glob(pattern))) == 3,
    )
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob(pattern)}
    # A worker that was killed while it wrote leaves such a file.
    orphan = tmp_path / "data" / "rollouts" / "recovery" / ".20000009.npz.1.partial"
    orphan.write_bytes(b"half")
    assert f"{len(kept)} of 3 episodes" in again.succeed("collect_data.py", *flags)
    assert again.files(pattern) == workshop.files(pattern)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert again.leftovers() == []


def test_a_killed_encoding_encodes_only_what_is_missing(workshop: Workshop, tmp_path: Path) -> None:
    again, pattern = workshop.copy(tmp_path, "data/rollouts", "run/vae.eqx"), "data/latents/*/*.npz"
    again.stop_at_work(
        "process_data.py",
        signal_number=KILL,
        is_at_work=lambda: len(list(tmp_path.glob(pattern))) > 0,
        is_done=lambda: len(list(tmp_path.glob(pattern))) == 5,
    )
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob(pattern)}
    assert f"5 episodes, {5 - len(kept)} to encode" in again.succeed("process_data.py")
    assert again.files(pattern) == workshop.files(pattern)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert again.leftovers() == []
