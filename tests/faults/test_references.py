"""The numbers of renames, writes and files in pipeline.py are those of the runs without a fault."""

import pytest

from faults.pipeline import FILE_SIZES, FLAGS, ITERATE, RENAMES, ROUND_RENAMES, SIX, WRITES
from faults.references import Suite, reference
from utils.io.files import TEMPORARY_SUFFIX
from utils.io.records import TIMES_NAME

pytestmark = pytest.mark.faults


@pytest.mark.parametrize("script", FLAGS)
def test_faults_are_tried_at_every_rename(suite: Suite, script: str) -> None:
    done = reference(suite, script)
    if script == ITERATE:
        own = [
            (process, number)
            for process, paths in (("script", done.renames), ("worker", done.worker_renames))
            for number, path in enumerate(paths, 1)
            if "/rounds/" in path
        ]
        assert own == [(process, number) for process, number, _ in ROUND_RENAMES]
        return
    counts = {process: count for name, process, count in RENAMES if name == script}
    assert counts.get("script", 0) == len(done.renames)
    assert counts.get("worker", 0) == len(done.worker_renames)


@pytest.mark.parametrize("script", SIX)
def test_faults_are_tried_at_every_write_and_size(suite: Suite, script: str) -> None:
    done = reference(suite, script)
    needed = [
        number
        for number, path in enumerate(done.writes, 1)
        if TIMES_NAME not in path
        and not ("metrics" in path and path.endswith(TEMPORARY_SUFFIX))  # empty
    ]
    assert needed == list(WRITES.get(script, ()))
    assert len(set(done.sizes.values())) == FILE_SIZES[script]
