"""A report of a run: one self-contained HTML page to view, print or send.

    python -m tools.report
    python -m tools.report --run-dir runs/quick --data-dir data/quick

Reads what the six scripts wrote to --run-dir and --data-dir. Writes report.html to --run-dir (or
to --output): scores by track, video, open-loop dreams, evolution, losses, reconstructions, data,
settings, sizes and times. Missing parts are named on the page. Takes about half a minute.
"""

import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.report.driving import drive, evolution, glance, scores
from tools.report.models import dreams, memory, vision
from tools.report.page import page
from tools.report.run_details import data, model_settings, stages
from tools.report.run_record import RunRecord
from utils import runtime
from utils.errors import UserError
from utils.io.files import write_atomically
from utils.io.hub import fetch_run_folder, require_local
from utils.settings import ReaderSettings, parse, setting


@dataclass(frozen=True)
class Settings(ReaderSettings):
    """The flags of this script."""

    output: Path | None = setting(None, "file of the page, by default report.html in --run-dir")
    video_mb: float = setting(25.0, "largest video to embed in the page, in megabytes", minimum=0.0)


PRESETS: dict[str, dict[str, Any]] = {}
# In the order of a reader's questions: how does it drive, what does it dream, how was it made?
SECTIONS = (glance, drive, scores, dreams, evolution, memory, vision, data, model_settings, stages)


def main(settings: Settings) -> None:
    """Read the run and write the page."""
    output = settings.output or require_local(settings.run_dir, "--output") / "report.html"
    run_dir = fetch_run_folder(settings.run_dir)
    if not run_dir.is_dir():
        raise UserError(f"{run_dir} is missing: run the six scripts, or set --run-dir")
    run = RunRecord.load(run_dir, settings.data_dir, settings.video_mb)
    day = datetime.date.today().strftime("%-d %B %Y")
    text = page(
        f"World model “{settings.run_dir.resolve().name}”",
        f"A car that learned to drive in its own dream. CarRacing-v3 · {day}",
        [section(run) for section in SECTIONS],
    )
    write_atomically(output, lambda file: file.write(text.encode()))
    print(f"{output}: {output.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    runtime.run(main, parse(Settings, __doc__, PRESETS))
