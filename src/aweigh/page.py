"""One HTML page that needs nothing else: no script, no font and no image from elsewhere.

It reads well in light and dark, on a narrow screen and on paper.
"""

from __future__ import annotations

import base64
from collections.abc import Collection, Iterable, Mapping, Sequence
from html import escape

LONG = 26  # letters, of a cell that may have several lines


def page(title: str, parts: Iterable[str]) -> str:
    """The whole page. title: as text. parts: HTML; empty ones are left out."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(filter(None, parts))
        + "\n</main>\n</body>\n</html>\n"
    )


def head(kicker: str, title: str, *paragraphs: str) -> str:
    """The top of the page, all as text. kicker: what kind of page it is."""
    said = "".join(f"<p>{text(paragraph)}</p>" for paragraph in paragraphs)
    return f"<p class=kicker>{text(kicker)}</p><h1>{text(title)}</h1>{said}"


def section(title: str, *parts: str) -> str:
    """A part of the page under a title. parts: HTML."""
    return f"<section><h2>{text(title)}</h2>{''.join(parts)}</section>"


def paragraph(words: str) -> str:
    return f"<p>{text(words)}</p>"


def table(titles: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: Collection[int]) -> str:
    """Rows of texts under their titles, the first cell of each naming it. numbers: the columns aligned on the right."""

    def cell(index: int, value: str) -> str:
        if index == 0:
            return f"<th scope=row>{text(value)}</th>"
        kind = " class=number" if index in numbers else " class=long" if len(value) > LONG else ""
        return f"<td{kind}>{text(value)}</td>"

    top = "".join(
        f"<th scope=col{' class=number' if index in numbers else ''}>{text(title)}</th>"
        for index, title in enumerate(titles)
    )
    body = "".join(f"<tr>{''.join(cell(index, value) for index, value in enumerate(row))}</tr>" for row in rows)
    return f"<div class=scroll><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"


def chart(png: bytes, caption: str) -> str:
    """An image in the page. caption: as text, also for who cannot see it."""
    data = base64.b64encode(png).decode()
    return (
        f'<figure class=chart><figcaption>{text(caption)}</figcaption><div class=drawing><img alt="{text(caption)}" '
        f'src="data:image/png;base64,{data}"></div></figure>'
    )


def bars(caption: str, values: Mapping[str, float], marks: Mapping[str, float], *, unit: str, mark: str) -> str:
    """A chart of one bar for each value, which stays readable on a narrow screen.

    values: at least 0, by their names. marks: by the same names, shown as strokes across the bars; names may be left
    out. unit: of both. mark: what the strokes are.
    """
    most = max([*values.values(), *marks.values()], default=0) or 1
    rows = []
    for name, value in values.items():
        stroke = f'<u style="left:{100 * marks[name] / most:.2f}%"></u>' if name in marks else ""
        rows.append(
            f'<span>{text(name)}</span><div><i style="width:{100 * value / most:.2f}%"></i>{stroke}</div>'
            f"<b>{value:.2f} {text(unit)}</b>"
        )
    legend = f"<div class=legend><span><i></i>measured</span><span><i class=mark></i>{text(mark)}</span></div>"
    return (
        f"<figure class=chart><figcaption>{text(caption)}</figcaption><div class=bars>{''.join(rows)}</div>"
        f"{legend if marks else ''}</figure>"
    )


def text(value: object) -> str:
    """Safe to stand in the page, whatever a file or class is called."""
    return escape(str(value).encode("utf-8", "replace").decode("utf-8"))


STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #57606a; --paper: #f6f7f9; --card: #fff; --line: #d9dee4;
  --error: #b3261e; --warning: #8a5a00; --note: #1f6296; --sound: #1a7f37; --bar: #cfe0f2;
  --mark: #c25700; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaed; --soft: #a4abb4; --paper: #14171b; --card: #1d2126;
  --line: #343a42; --error: #ff8a80; --warning: #f0b94d; --note: #7cc0f5; --sound: #66d083; --bar: #2b4767;
  --mark: #ffa657; } .drawing img { filter: invert(.88) hue-rotate(180deg); } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { margin: 0; font-size: 26px; overflow-wrap: anywhere; }
h2 { margin: 40px 0 12px; font-size: 20px; }
h3 { margin: 0 0 6px; font-size: 16px; }
p { margin: 6px 0; max-width: 76ch; }
.kicker { margin: 0; color: var(--soft); letter-spacing: .06em; text-transform: uppercase; font-size: 12px; }
.small, figcaption, .names { color: var(--soft); font-size: 13px; }
.verdict { font-size: 17px; font-weight: 600; }
.verdict.error, .error .tag { color: var(--error); } .verdict.warning, .warning .tag { color: var(--warning); }
.note .tag { color: var(--note); } .verdict.sound { color: var(--sound); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(130px, 1fr)); gap: 12px; margin: 20px 0; }
.tiles div, article, .chart, .scroll { background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
.tiles div { padding: 12px 16px; } .tiles b { display: block; font-size: 24px; font-variant-numeric: tabular-nums; }
.tiles span { color: var(--soft); font-size: 13px; }
article { margin: 0 0 14px; padding: 16px 18px; border-left: 5px solid var(--note); }
article.error { border-left-color: var(--error); } article.warning { border-left-color: var(--warning); }
.tag { font-size: 12px; text-transform: uppercase; letter-spacing: .05em; border: 1px solid currentColor;
  border-radius: 5px; padding: 1px 6px; margin-right: 4px; vertical-align: 1px; }
ul { margin: 6px 0; padding-left: 20px; } .where { list-style: none; padding: 0; color: var(--soft); }
.names { overflow-wrap: anywhere; columns: 20em; }
details { margin-top: 10px; } summary { cursor: pointer; color: var(--soft); }
summary:focus-visible { outline: 2px solid var(--note); outline-offset: 3px; }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(220px, 1fr)); gap: 14px; margin-top: 12px; }
figure { margin: 0; } .gallery figure { display: flex; flex-wrap: wrap; gap: 3px; align-content: start; }
.gallery img { max-width: 100%; height: auto; border-radius: 6px; display: block; }
.gallery figure img:not(:only-of-type) { max-width: calc(50% - 2px); }
figcaption { width: 100%; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; } .scroll + .scroll { margin-top: 12px; } table { border-collapse: collapse; width: 100%; }
th, td { padding: 6px 12px; text-align: left; font-weight: normal; border-top: 1px solid var(--line);
  white-space: nowrap; }
thead th { border-top: 0; color: var(--soft); font-size: 13px; }
tbody th { font-weight: 600; min-width: 8ch; max-width: 40ch; white-space: normal; overflow-wrap: break-word; }
.long { min-width: 26ch; white-space: normal; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.bar { position: relative; min-width: 120px; } .bar i { position: absolute; inset: 4px auto 4px 6px;
  max-width: calc(100% - 12px); background: var(--bar); border-radius: 4px; }
.bar b { position: relative; font-weight: normal; font-variant-numeric: tabular-nums; }
.chart { padding: 16px 18px; margin: 12px 0; }
.chart figcaption { font-size: 14px; color: var(--ink); font-weight: 600; }
svg { width: 100%; height: auto; display: block; } svg text { fill: var(--soft); font-size: 12px; text-anchor: middle; }
svg .value { fill: var(--ink); } svg .base { stroke: var(--line); }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; font-size: 13px; }
.legend i { display: inline-block; width: 11px; height: 11px; border-radius: 3px; margin-right: 6px; }
.drawing { overflow-x: auto; } .drawing img { min-width: 560px; max-width: 100%; height: auto; display: block;
  background: #fff; border-radius: 6px; }
.bars { display: grid; grid-template-columns: max-content 1fr max-content; gap: 7px 12px; align-items: center;
  margin: 10px 0; font-size: 13px; }
.bars div { position: relative; height: 18px; } .bars b { font-weight: normal; font-variant-numeric: tabular-nums;
  text-align: right; }
.bars i { display: block; height: 100%; min-width: 1px; border-radius: 3px; }
.bars i, .legend i { background: var(--note); }
.bars u { position: absolute; top: -2px; bottom: -2px; width: 3px; margin-left: -1px; }
.bars u, .legend .mark { background: var(--mark); }
.chart .scroll { margin-top: 8px; }
@media print { body { background: #fff; } article, .chart { break-inside: avoid; } }
"""
