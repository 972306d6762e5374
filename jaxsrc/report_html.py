"""One self-contained page of a run: figures, tables, pictures, configuration and environment; no server, no script."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

STYLE = """
:root{color-scheme:light dark;--line:#8884;--ink:#1f5f99}
@media(prefers-color-scheme:dark){:root{--ink:#7fbfff}}
body{font:16px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1.2rem}
h1{margin-bottom:0}h2{margin-top:2.4rem;border-bottom:1px solid var(--line)}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;display:block;overflow-x:auto}
th,td{padding:.25rem .8rem;border-bottom:1px solid var(--line);text-align:right;white-space:nowrap}
th:first-child,td:first-child{text-align:left}
figure{margin:1.5rem 0}img{max-width:100%;background:#fff}
pre{background:#8881;padding:1rem;overflow-x:auto;font-size:.85rem}
.curves{display:flex;flex-wrap:wrap;gap:1rem}.curves figure{margin:0}
svg text{fill:currentColor;font-size:11px}
"""
WIDTH, HEIGHT, PAD = 340, 190, 42


def _curve(name: str, points: Sequence[tuple[float, float]], stages: Mapping[str, int]) -> str:
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    low, high = min(ys), max(ys)
    high = high if high > low else low + 1
    first, last = min(xs), max(max(xs), min(xs) + 1)
    x = lambda v: PAD + (v - first) / (last - first) * (WIDTH - PAD - 8)
    y = lambda v: HEIGHT - 24 - (v - low) / (high - low) * (HEIGHT - 46)
    path = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in points)
    marks = "".join(
        f'<line x1="{x(s):.1f}" x2="{x(s):.1f}" y1="20" y2="{HEIGHT - 24}" stroke="currentColor" stroke-dasharray="3 3" '
        f'opacity=".4"><title>{escape(stage)}</title></line>'
        for stage, s in stages.items()
        if first < s < last
    )
    dots = f'<circle cx="{x(xs[-1]):.1f}" cy="{y(ys[-1]):.1f}" r="3" fill="var(--ink)"/>'
    return (
        f'<figure><svg width="{WIDTH}" height="{HEIGHT}" role="img" aria-label="{escape(name)} over steps">'
        f'<text x="{PAD}" y="14">{escape(name)}: {ys[-1]:.4g}</text>'
        f'<text x="{PAD - 4}" y="30" text-anchor="end">{high:.3g}</text>'
        f'<text x="{PAD - 4}" y="{HEIGHT - 24}" text-anchor="end">{low:.3g}</text>'
        f'<text x="{PAD}" y="{HEIGHT - 8}">{first:g}</text>'
        f'<text x="{WIDTH - 8}" y="{HEIGHT - 8}" text-anchor="end">step {last:g}</text>{marks}'
        f'<polyline points="{path}" fill="none" stroke="var(--ink)" stroke-width="1.5"/>{dots}</svg></figure>'
    )


def _curves(records: Sequence[Mapping[str, Any]], stages: Mapping[str, int]) -> str:
    series: dict[str, list[tuple[float, float]]] = {}
    for record in records:
        for name, value in record.items():
            if name not in ("step", "t") and isinstance(value, (int, float)) and value == value:
                series.setdefault(name, []).append((float(record["step"]), float(value)))
    thin = lambda points: points[:: max(len(points) // 400, 1)] + points[-1:]
    return '<div class="curves">' + "".join(_curve(n, thin(p), stages) for n, p in series.items()) + "</div>"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(c)}</th>" for c in columns)
    body = "".join("<tr>" + "".join(f"<td>{escape(v)}</td>" for v in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _picture(run: Path, name: str, file: str) -> str:
    path = run / file
    if not path.is_file():
        return ""
    data = base64.b64encode(path.read_bytes()).decode()
    return (
        f'<figure><img alt="{escape(name)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{escape(name)}</figcaption></figure>"
    )


def write(run: Path, kept: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> Path:
    """RUN/report.html from what the report kept and the metric records."""
    config = run / "config.yaml"
    tables = "".join(f"<h3>{escape(n)}</h3>{_table(t['columns'], t['rows'])}" for n, t in kept["tables"].items())
    pictures = "".join(_picture(run, n, f) for n, f in kept["pictures"].items())
    header = "".join(f"<li>{escape(line)}</li>" for line in kept["header"])
    parts = [
        f"<h1>{escape(run.name)}</h1><p>{escape(kept.get('status', 'running'))}</p><ul>{header}</ul>",
        f"<h2>Results</h2>{tables}" if tables else "",
        f"<h2>Pictures</h2>{pictures}" if pictures else "",
        f"<h2>Curves</h2>{_curves(records, kept['stages'])}" if records else "",
        "<h2>Events</h2><ul>" + "".join(f"<li>{escape(n)}</li>" for n in kept["notes"]) + "</ul>",
        f"<h2>Configuration</h2><pre>{escape(config.read_text())}</pre>" if config.is_file() else "",
        "<h2>Environment</h2>" + _table(["what", "version"], [[k, v] for k, v in kept["environment"].items()]),
    ]
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(run.name)}</title><style>{STYLE}</style></head><body>{''.join(parts)}</body></html>"
    )
    new = run / "report.html.new"  # takes its name once it is whole
    new.write_text(page)
    return new.replace(run / "report.html")
