"""The report of a run: what it says is what the files say, and nothing comes from elsewhere."""

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from scripts import COLLECTED, Workshop

from tools.report.driving import CONTROLLER_PANELS
from tools.report.models import RNN_PANELS, VAE_PANELS
from tools.report.page import details, escape, page, show, table, video
from tools.report.run_record import RunRecord
from utils.data.episodes import read_episode
from utils.io.checkpoints import count_parameters, load_rnn, load_vae
from utils.io.files import locked, sha256_of
from utils.io.records import TIMES_NAME, read_metrics, read_records, timed

EMPTY = {"img", "meta", "br", "input", "link", "hr"}


class Page(HTMLParser):
    """What a browser finds: text by section, addresses; fails on tags that do not match."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.sections: dict[str, str] = {}
        self.sources: list[str] = []
        self.links: list[str] = []
        self.tags: set[str] = set()
        self.alternatives: list[str] = []
        self.section = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        self.tags.add(tag)
        self.section = str(found["id"]) if tag == "section" else self.section
        self.sources += [str(found["src"])] if "src" in found else []
        self.links += [str(found["href"])] if "href" in found else []
        self.alternatives += [str(found["alt"])] if tag == "img" else []
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.sections[self.section] = self.sections.get(self.section, "") + data + " "


def decode(source: str) -> tuple[str, bytes]:
    kind, content = re.fullmatch(r"data:([a-z0-9/+]+);base64,(.*)", source).groups()
    return kind, base64.b64decode(content, validate=True)


@pytest.fixture(scope="module")
def written(workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "page.html"
    workshop.succeed("tools.report", "--output", str(path))
    return path


@pytest.fixture(scope="module")
def found(written: Path) -> Page:
    return Page(written.read_text())


def test_nothing_comes_from_elsewhere(written: Path, found: Page) -> None:
    assert all(source.startswith("data:") for source in found.sources)
    assert all(link.removeprefix("#") in found.sections for link in found.links)
    assert found.tags.isdisjoint({"script", "link", "iframe", "object", "form", "a.href"})
    assert "default-src 'none'" in written.read_text()
    assert not re.search(r"url\(|@import", written.read_text())


def test_pictures_charts_and_video_are_complete(workshop: Workshop, found: Page) -> None:
    contents = [decode(source) for source in found.sources]
    kinds = [kind for kind, _ in contents]
    panels = 0  # with something measured: 200 steps of dream are not, in episodes of 60
    for part, titles in (
        ("vae", VAE_PANELS),
        ("rnn", RNN_PANELS),
        ("controller", CONTROLLER_PANELS),
    ):
        records = read_metrics(workshop.run_dir / f"{part}.metrics.jsonl")
        measured = {
            name for record in records for name, value in record.items() if value is not None
        }
        panels += sum(not measured.isdisjoint(names) for names in titles.values())
    assert panels >= len(VAE_PANELS) + len(CONTROLLER_PANELS) + 1
    assert kinds.count("image/svg+xml") == panels + 2  # scores by track, and of the data
    assert kinds.count("video/mp4") == 1
    for kind, content in contents:
        if kind == "image/png":
            Image.open(io.BytesIO(content)).load()
        elif kind == "image/svg+xml":
            assert ElementTree.fromstring(content).tag.endswith("svg")
        else:
            (video_path,) = workshop.run_dir.glob("*.mp4")
            assert content == video_path.read_bytes()
    # Whoever cannot see a picture is told what it shows.
    assert all(len(text) > 10 for text in found.alternatives)


def test_figures_are_those_of_the_files(workshop: Workshop, found: Page) -> None:
    evaluation = json.loads((workshop.run_dir / "evaluation.json").read_text())
    minus = f"{evaluation['mean']:.0f}".replace("-", "−")
    assert f"{minus} ± {evaluation['std']:.0f}" in found.sections["glance"]
    for track, score in zip(evaluation["tracks"], evaluation["scores"], strict=True):
        assert str(track) in found.sections["scores"]
        assert show(score) in found.sections["scores"]
    steps = 60 * sum(COLLECTED.values())
    assert f"{steps} steps" in found.sections["glance"]
    for mode, episodes in COLLECTED.items():
        row = rf"{mode}\s+{episodes}\s+1\s+{60 * episodes}\s"
        assert re.search(row, found.sections["data"])
    assert "exactly these episodes" in found.sections["data"]
    for name, load in (("vae", load_vae), ("rnn", load_rnn)):
        path = workshop.run_dir / f"{name}.eqx"
        assert f"{count_parameters(load(path)[1]):,} parameters" in found.sections["settings"]
        assert sha256_of(path) in found.sections["settings"]
    last = read_metrics(workshop.run_dir / "rnn.metrics.jsonl")[-1]
    assert show(last["nll_50"]) in found.sections["dreams"]
    for stage in ("collect_data", "run_vae_training", "train_dream", "test_agent"):
        row = rf"{stage}\.py .*? MB\s+[\d.]+ (s|min|h)\s+\d"
        assert re.search(row, found.sections["stages"]), stage


def test_the_real_frames_are_shown_as_they_were(workshop: Workshop, found: Page) -> None:
    (path,) = (workshop.run_dir / "episodes").glob("*.npz")
    frames = read_episode(path).frames
    (strip,) = (
        np.asarray(Image.open(io.BytesIO(decode(source)[1])))
        for source, text in zip(
            [s for s in found.sources if "video" not in s[:12]], found.alternatives, strict=True
        )
        if text.startswith("Real: Track ")
    )
    shown = strip.reshape(68, -1, 68, 3).swapaxes(0, 1)[:, 2:-2, 2:-2]
    assert len(shown) >= 4
    for frame in shown:
        assert (frames == frame).all(axis=(1, 2, 3)).any()


def test_what_is_missing_is_named(workshop: Workshop, tmp_path: Path) -> None:
    early = workshop.copy(tmp_path, "data/rollouts", "run/vae.eqx", "run/vae.metrics.jsonl")
    early.succeed("tools.report")
    sections = Page((early.run_dir / "report.html").read_text()).sections
    for section, script in (
        ("drive", "test_agent.py"), ("scores", "test_agent.py"), ("dreams", "train_rnn.py"),
        ("evolution", "train_dream.py"), ("memory", "train_rnn.py"),
    ):  # fmt: skip
        assert f"run {script}" in sections[section]
    assert "No times were recorded" in sections["stages"]
    done = early.run("tools.report", "--run-dir", str(tmp_path / "nowhere"))
    assert done.returncode == 1 and "nowhere is missing" in done.stderr


def test_a_video_that_is_too_large_is_not_embedded(workshop: Workshop, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    workshop.succeed("tools.report", "--output", str(path), "--video-mb", "0.001")
    small = Page(path.read_text())
    assert "video" not in small.tags
    assert re.search(r"track_\d+\.mp4 has \d+ MB and is not embedded", small.sections["drive"])


def test_text_from_files_is_never_markup() -> None:
    evil = '<script>alert("1")</script>'
    text = page(evil, evil, [("a", evil, evil, [table([evil], [[evil]]), details(evil)])])
    assert "script" not in Page(text).tags
    assert Page(text).sections["a"].count(evil) == 5
    assert escape(escape("<b>")) == "&lt;b&gt;"


def test_numbers_are_shown_as_a_reader_wants_them() -> None:
    values = {1234567: "1,234,567", -12: "−12", 0.00123456: "0.001235", -123.456: "−123.5"}
    assert {value: show(value) for value in values} == values
    assert [show(value) for value in (True, None, "text")] == ["yes", "–", "text"]


def test_videos_are_embedded(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"video")
    assert decode(Page(video(tmp_path / "a.mp4", "caption")).sources[0]) == ("video/mp4", b"video")


def test_times_tell_what_was_done_stopped_and_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["/some/where/train_rnn.py", "--steps", "3"])
    monkeypatch.setattr("utils.io.records.program_name", lambda: "train_rnn.py")
    with locked(tmp_path), timed(tmp_path, "train_rnn"):
        pass
    with pytest.raises(KeyboardInterrupt), timed(tmp_path, "train_rnn"):
        raise KeyboardInterrupt
    first, second, _, fourth = records = read_records(tmp_path / TIMES_NAME)
    assert first["command"] == ["train_rnn.py", "--steps", "3"]
    assert (second["ended"], fourth["ended"]) == ("done", "KeyboardInterrupt")
    with open(tmp_path / TIMES_NAME, "w") as file:  # two that ended, after one that was killed
        for record in (first, first, second | {"seconds": 2.5}, first, fourth | {"seconds": 4.0}):
            file.write(json.dumps(record) + "\n")
    assert len(records) == 4
    run = RunRecord(tmp_path, tmp_path / "data", {}, [], None, 1.0)
    time = run.stage_times()["train_rnn"]
    assert (time.seconds, time.runs, time.killed) == (6.5, 2, 1)
    assert time.last_command == "train_rnn.py --steps 3"
