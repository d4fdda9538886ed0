"""A self-contained HTML page: text, tables, charts, pictures and videos, without external links.

Each function returns a piece of HTML. Text is escaped here and nowhere else.
"""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, MUTED, GRID = "#1d2b33", "#5b6b74", "#dfe5e8"
# Okabe and Ito's colours, which people with colour blindness can tell apart.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
CHART_STYLE = {
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.prop_cycle": matplotlib.cycler(color=COLORS),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.family": "sans-serif",
    "font.size": 10,
    "grid.color": GRID,
    "svg.fonttype": "path",  # independent of the fonts of the machine
    "svg.hashsalt": "report",  # reproducible bytes
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
}
CHART_SIZE = (4.2, 2.7)  # inches: legible on a phone
PIXELS_PER_INCH = 84  # of a chart at full size: its text is as large as the page's

STYLE = """
:root { color-scheme: light; --ink: #1d2b33; --muted: #5b6b74; --line: #dfe5e8; --road: #f4f6f7;
  --accent: #0072b2; }
* { box-sizing: border-box; }
body { margin: 0; color: var(--ink); background: #fff; line-height: 1.5;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main, header > div { max-width: 1060px; margin: 0 auto; padding: 0 16px; }
header { background: var(--ink); color: #fff; padding: 28px 0 24px; }
header h1 { margin: 0; font-size: 1.6rem; line-height: 1.2; overflow-wrap: anywhere; }
header p { margin: 6px 0 0; color: #c6d2d8; }
nav { position: sticky; top: 0; z-index: 1; background: #fff; border-bottom: 1px solid var(--line);
  overflow-x: auto; white-space: nowrap; }
nav div { max-width: 1060px; margin: 0 auto; padding: 0 8px; }
nav a { display: inline-block; padding: 10px 8px; color: var(--muted); text-decoration: none;
  font-size: .9rem; }
nav a:hover, nav a:focus { color: var(--accent); text-decoration: underline; }
section { padding: 26px 0 6px; border-bottom: 1px solid var(--line); scroll-margin-top: 44px; }
section:last-child { border: 0; }
h2 { margin: 0 0 4px; font-size: 1.3rem; }
h3 { margin: 18px 0 4px; font-size: 1rem; }
section > p { margin: 4px 0 14px; max-width: 70ch; color: var(--muted); }
.cards { display: grid; gap: 10px; margin: 20px 0;
  grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); }
.card { background: var(--road); border-radius: 10px; padding: 12px 14px; }
.card b { display: block; font-size: 1.5rem; line-height: 1.25; }
.card span { display: block; color: var(--muted); font-size: .88rem; }
.charts { display: grid; gap: 14px; margin: 14px 0;
  grid-template-columns: repeat(auto-fill, minmax(min(320px, 100%), 1fr)); }
figure { margin: 0 0 14px; }
figcaption { font-size: .88rem; color: var(--muted); }
.chart figcaption { color: var(--ink); font-weight: 600; }
figure img, figure video { display: block; width: 100%; height: auto; border-radius: 6px; }
.chart img { border-radius: 0; }
.pixels { image-rendering: pixelated; }
.strip { display: grid; grid-template-columns: 7.6em 1fr; column-gap: 8px; align-items: center;
  font-size: .85rem; color: var(--muted); max-width: 900px; }
.strip .ticks { display: flex; grid-column: 2; }
.strip .ticks span { flex: 1; text-align: center; }
@media (max-width: 560px) { .strip { grid-template-columns: 1fr; }
  .strip .ticks { grid-column: 1; } }
.scroll { overflow-x: auto; margin: 8px 0 16px; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { padding: 5px 14px 5px 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); }
th { color: var(--muted); font-weight: 600; }
td.number, th.number { text-align: right; }
td.number, td:first-child { white-space: nowrap; }
details { margin: 6px 0 14px; }
summary { cursor: pointer; color: var(--accent); padding: 4px 0; }
code { font: .85em ui-monospace, Menlo, Consolas, monospace; overflow-wrap: anywhere; }
.missing { border-left: 4px solid #e69f00; background: #fdf6e7; padding: 8px 12px; }
@media print {
  @page { margin: 14mm; }
  body { font-size: 10.5pt; }
  header { background: none; color: var(--ink); padding: 0; } header p { color: var(--muted); }
  nav, .video, summary { display: none; }
  .scroll { overflow: visible; }
  section { padding-top: 12px; } .card { border: 1px solid var(--line); }
  figure, .card, tr, h2, h3, section > p { break-inside: avoid; }
  h2, h3, section > p { break-after: avoid; }
  .charts { grid-template-columns: 1fr 1fr; }
  details::details-content { content-visibility: visible; block-size: auto; }
}
"""


class Raw(str):
    """HTML that is already escaped."""


# Anchor, title, explanation, pieces.
Section = tuple[str, str, str, Sequence[Raw]]


def escape(value: Any) -> Raw:
    """Text as HTML; HTML stays as it is."""
    return value if isinstance(value, Raw) else Raw(html.escape(str(value)))


def page(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """The whole page: sections, with a menu."""
    links = "".join(f'<a href="#{anchor}">{anchor.capitalize()}</a>' for anchor, *_ in sections)
    body = "\n".join(
        f'<section id="{anchor}"><h2>{escape(name)}</h2>\n<p>{escape(text)}</p>\n'
        + "\n".join(pieces)
        + "</section>"
        for anchor, name, text, pieces in sections
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        # The browser refuses external resources, even if a file contains a link to one.
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "img-src data:; media-src data:; style-src 'unsafe-inline'\">\n"
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style></head>\n<body>\n"
        f"<header><div><h1>{escape(title)}</h1><p>{escape(subtitle)}</p></div></header>\n"
        f'<nav aria-label="Sections"><div>{links}</div></nav>\n'
        f"<main>\n{body}\n</main></body></html>\n"
    )


def cards(figures: Mapping[str, tuple[str, str]]) -> Raw:
    """Cards with the main figures: name -> (value, explanation)."""
    return Raw(
        '<div class="cards">'
        + "".join(
            f'<div class="card"><span>{escape(name)}</span><b>{escape(value)}</b>'
            f"<span>{escape(note)}</span></div>"
            for name, (value, note) in figures.items()
        )
        + "</div>"
    )


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> Raw:
    """A table; columns of numbers are aligned to the right."""
    numeric = [any(_is_number(row[i]) for row in rows) for i in range(len(head))]

    def cells(tag: str, values: Sequence[Any]) -> str:
        return "".join(
            f"<{tag}{' class=number' if right else ''}>{escape(show(value))}</{tag}>"
            for value, right in zip(values, numeric, strict=True)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return Raw(
        f'<div class="scroll"><table><thead><tr>{cells("th", head)}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def show(value: Any) -> Any:
    """A value as text: −1,234 · 0.0012 · yes · – (None)."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        whole = isinstance(value, int) or abs(value) >= 1e4
        text = f"{value:,.0f}" if whole else f"{value:.4g}"
        return text.replace("-", "−", 1) if value < 0 else text
    return value


def duration(seconds: float) -> str:
    """A duration as text: 41 s · 12 min · 3.4 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def details(summary: str, *pieces: Raw) -> Raw:
    """Pieces that are hidden until the reader opens them."""
    return Raw(f"<details><summary>{escape(summary)}</summary>{''.join(pieces)}</details>")


def heading(text: str) -> Raw:
    """A heading inside a section."""
    return Raw(f"<h3>{escape(text)}</h3>")


def missing(text: str) -> Raw:
    """A note on a missing part and how to make it."""
    return Raw(f'<p class="missing">{escape(text)}</p>')


def chart(title: str, figure: Figure, description: str) -> Raw:
    """A matplotlib figure as SVG with a title, and a description for screen readers."""
    stream = io.BytesIO()
    with matplotlib.rc_context(CHART_STYLE):
        figure.savefig(stream, format="svg", metadata={"Date": None})
    width = figure.get_figwidth() * PIXELS_PER_INCH
    address = _data("image/svg+xml", stream.getvalue())
    return Raw(
        f'<figure class="chart"><figcaption>{escape(title)}</figcaption>'
        f'<img alt="{escape(description)}" src="{address}" style="max-width: {width:.0f}px">'
        "</figure>"
    )


def axes_of_chart() -> tuple[Figure, Axes]:
    """An empty chart in the style of the page."""
    with matplotlib.rc_context(CHART_STYLE):
        figure = Figure(figsize=CHART_SIZE, layout="constrained")
        axes = figure.subplots()
        axes.grid(axis="y")
        axes.set_axisbelow(True)
    return figure, axes


def legend(axes: Axes) -> None:
    """Add a legend, placed where it hides no line."""
    axes.legend(fontsize=9, framealpha=0.85, edgecolor="none", handlelength=1.4)


def charts(pieces: Sequence[Raw]) -> Raw:
    """Charts in a grid."""
    return Raw(f'<div class="charts">{"".join(pieces)}</div>')


def picture(image: np.ndarray, description: str) -> Raw:
    """An image, uint8 (h, w, 3), scaled without smoothing."""
    from PIL import Image  # comes with matplotlib

    stream = io.BytesIO()
    Image.fromarray(image).save(stream, format="png", optimize=True)
    address = _data("image/png", stream.getvalue())
    return Raw(f'<img class="pixels" alt="{escape(description)}" src="{address}">')


def strips(rows: Mapping[str, np.ndarray], ticks: Sequence[str], caption: str) -> Raw:
    """Rows of frames, uint8 (n, 64, 64, 3), with row names on the left and ticks above."""
    labels = "".join(f"<span>{escape(tick)}</span>" for tick in ticks)
    lines = "".join(
        f"<span>{escape(name)}</span>{picture(_side_by_side(frames), f'{name}: {caption}')}"
        for name, frames in rows.items()
    )
    head = f'<div class="ticks">{labels}</div>' if ticks else ""
    return Raw(
        f'<figure><div class="strip">{head}{lines}</div>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _side_by_side(frames: np.ndarray, gap: int = 2) -> np.ndarray:
    padded = np.pad(frames, ((0, 0), (gap, gap), (gap, gap), (0, 0)), constant_values=255)
    return np.concatenate(list(padded), axis=1)


def video(path: Path, caption: str) -> Raw:
    """An embedded MP4."""
    address = _data("video/mp4", path.read_bytes())
    return Raw(
        '<figure class="video"><video controls muted loop playsinline preload="metadata" '
        f'src="{address}"></video>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
