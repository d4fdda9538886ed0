"""Coverage-guided fuzzing of the loaders with atheris (optional: requirements/faults.txt).

    python -m faults.fuzz episode -max_total_time=60 CORPUS

Two halves: in one the fuzzer writes a file's bytes, in the other what is inside it, and the
checksums are computed for it; else it would never get past them.
"""

import io
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

TARGETS = (
    "episode",
    "latent",
    "checkpoint",
    "episode inside",
    "latent inside",
    "checkpoint inside",
)
LINE = re.compile(r"Done (\d+) runs")


def trials(suite: Any) -> Iterator[Any]:
    """One of each loader, from outside and from inside."""
    from faults.trials import Trial

    for target in TARGETS:
        yield Trial("damage: fuzzing", "loader", target, fuzz, (target,))


def fuzz(suite: Any, rng: np.random.Generator, target: str) -> dict[str, Any]:
    """Run the fuzzer in a process of its own."""
    from faults import corpus
    from faults.references import scratch
    from faults.stages import ROOT
    from faults.trials import NotTried

    try:
        import atheris  # noqa: F401
    except ImportError:
        raise NotTried("atheris is not installed: requirements/faults.txt") from None
    with scratch(suite) as folder:
        seeds = folder / "corpus"
        seeds.mkdir()
        kind = target.split()[0]
        path = folder / "7.npz"
        corpus.write_sound(path, kind)
        sound = path.read_bytes()
        (seeds / "sound").write_bytes(sound if "inside" not in target else inside(path, kind))
        cases = corpus.checkpoint_cases() if kind == "checkpoint" else corpus.npz_cases(kind)
        if "inside" not in target:
            for number, (_, damage) in enumerate(cases):
                path.write_bytes(sound)
                os.chdir(folder)
                damage(path, rng)
                if path.is_file() and not path.is_symlink() and path.stat().st_size < 100_000:
                    (seeds / str(number)).write_bytes(path.read_bytes())
                path.rmdir() if path.is_dir() else path.unlink()
        seconds = os.environ.get("FAULTS_FUZZ_SECONDS", "60")
        command = [sys.executable, "-m", "faults.fuzz", target]
        command += [f"-max_total_time={seconds}", "-timeout=20", "-rss_limit_mb=3000"]
        command += [f"-seed={suite.seed + 1}", "-verbosity=1", "-max_len=20000", str(seeds)]
        done = subprocess.run(
            command,
            cwd=ROOT,
            capture_output=True,
            text=True,
            env={**os.environ, "TMPDIR": str(folder)},
        )
        runs = LINE.search(done.stderr)
        assert done.returncode == 0 and runs, (done.stdout + done.stderr)[-3000:]
        coverage = re.findall(r"cov: (\d+)", done.stderr)
        return {"trials": int(runs[1]), "edges covered": int(coverage[-1]) if coverage else None}


def inside(path: Path, kind: str) -> bytes:
    """What a fuzzer that writes the inside of a file begins with."""
    if kind == "checkpoint":
        return path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        return b"\0" + archive.read("rewards.npy")


def arrays_of(found: Any) -> list[np.ndarray]:
    """The numbers that a loader returned."""
    if isinstance(found, tuple):
        found = dict(enumerate(found[1]))
    values = (found if isinstance(found, dict) else vars(found)).values()
    return [x for x in map(np.asarray, values) if x.dtype.kind in "fiub"]


def shape_of(found: Any) -> list[Any]:
    """Shapes and dtypes."""
    return [(array.shape, array.dtype) for array in arrays_of(found)]


def main() -> None:
    """The fuzzing process."""
    import atheris

    with atheris.instrument_imports(
        include=["utils.data.episodes", "utils.io.checkpoints", "zipfile", "numpy.lib", "json"]
    ):
        pass
    from faults import corpus
    from faults.guard import guarded
    from utils.errors import UserError

    target, arguments = sys.argv[1], [sys.argv[0], *sys.argv[2:]]
    kind = target.split()[0]
    folder = Path(tempfile.mkdtemp())
    path = folder / "7.npz"
    corpus.write_sound(path, kind)
    sound, whole = corpus.read(path, kind), path.read_bytes()
    with io.BytesIO(whole) as file:
        members = {}
        if kind != "checkpoint":
            with zipfile.ZipFile(file) as archive:
                members = {name: archive.read(name) for name in archive.namelist()}

    def build(data: bytes) -> bytes:
        """A file with right checksums around what the fuzzer wrote."""
        if kind == "checkpoint":
            line, _, leaves = data.partition(b"\n")
            try:
                fields = corpus.json.loads(line)
                corpus.write_checkpoint(path, dict(fields), leaves)
            except (ValueError, TypeError, RecursionError, AttributeError):
                return whole
            return path.read_bytes()
        key = list(members)[data[0] % len(members)] if data else "rewards.npy"
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in {**members, key: data[1:]}.items():
                archive.writestr(zipfile.ZipInfo(name), content)
        return buffer.getvalue()

    def attempt(data: bytes) -> None:
        path.write_bytes(build(data) if "inside" in target else data)
        try:
            with guarded():
                found = corpus.read(path, kind)
        except UserError as failure:
            assert str(path) in str(failure) and "\n" not in str(failure)
            return
        # Other numbers than ours, perhaps, where the checksums are right; but of the right kind.
        assert shape_of(found) == shape_of(sound) or kind != "checkpoint"
        assert all(np.isfinite(array).all() for array in arrays_of(found) if kind != "checkpoint")

    atheris.Setup(arguments, attempt)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
