"""The quality page: one HTML file that needs no network, for a browser or a phone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from html import escape

from features.quality.drift import LARGE, MODERATE
from features.quality.models import ModelDrift
from features.quality.overview import Standing
from features.quality.profile import Statistics, bounds_of
from features.quality.report import Check, Report
from features.shop import Shop
from features.tables import Column

_BARS, _WORDS = 24, 5
_FREQUENT = 0.01
"""Share of the rows below which a word is not worth its place."""
_SIGNS = {"passed": "✓", "warned": "!", "failed": "✗", None: "?"}
_STYLE = """
:root{--ink:#1c2330;--soft:#5b6472;--paper:#fff;--panel:#f6f7f9;--line:#dfe3e8;--bar:#4a6fa5;
--passed:#1a7f4b;--warned:#a35c00;--failed:#c22f2f;--none:#5b6472}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ee;--soft:#9aa4b2;--paper:#14181f;--panel:#1c222b;--line:#303844;--bar:#7ea2d6;
--passed:#4cc38a;--warned:#e0a24c;--failed:#ff7b72;--none:#9aa4b2}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:70rem;padding:1rem;background:var(--paper);color:var(--ink);
font:15px/1.45 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans","Noto Sans CJK SC",sans-serif}
h1{font-size:1.4rem;margin:.5rem 0 0}h2{font-size:1.1rem;margin:2rem 0 .5rem}h3{font-size:.95rem;margin:1rem 0 .3rem}
p{margin:.3rem 0}.soft{color:var(--soft)}
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:.35rem .6rem;border-bottom:1px solid var(--line);vertical-align:middle}
th{font-weight:600;color:var(--soft);font-size:.85rem;white-space:nowrap}td.n,th.n{text-align:right;white-space:nowrap}
.status{font-weight:600;white-space:nowrap}.passed{color:var(--passed)}.warned{color:var(--warned)}.failed{color:var(--failed)}
.none{color:var(--none)}
.totals{display:flex;flex-wrap:wrap;gap:.5rem;margin:1rem 0}.totals div{background:var(--panel);border-radius:.5rem;padding:.5rem .9rem}
.totals b{font-size:1.3rem;display:block}
details{border:1px solid var(--line);border-radius:.5rem;margin:.5rem 0;padding:.2rem .8rem}summary{cursor:pointer;padding:.4rem 0}
details[open] summary{border-bottom:1px solid var(--line)}
code{font:.9em ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;overflow-wrap:anywhere}a{color:inherit}
svg{display:block}rect{fill:var(--bar)}.words{font-size:.85rem}
td code{white-space:nowrap}
@media(max-width:40rem){body{padding:.6rem}th,td{padding:.3rem .4rem}.less{display:none}}
"""


def page(shop: Shop, now: datetime, tables: Sequence[Standing], models: Sequence[ModelDrift]) -> str:
    """The whole page: the state of every table, the drift of models, then each table's checks and columns."""
    counts = {status: sum(one.status == status for one in tables) for status in ("failed", "warned", "passed", None)}
    totals = "".join(
        f'<div class="{status or "none"}"><b>{count}</b>{_SIGNS[status]} {status or "not looked at"}</div>'
        for status, count in counts.items()
        if count
    )
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width,initial-scale=1'>"
        f"<title>Quality of {escape(shop.name)}</title><style>{_STYLE}</style>",
        f"<h1>Quality of {escape(shop.name)}</h1>",
        f"<p class=soft>As of {escape(now.isoformat(' ', 'minutes'))}, the shop's clock. Times are UTC, days are those of "
        f"{escape(shop.time_zone)}.</p>",
        f"<div class=totals>{totals}</div>",
        _tables(tables),
        *(_model(one) for one in models),
        "<h2>Checks and columns</h2>",
        *(_details(one) for one in tables if one.report or one.refused),
        "</html>\n",
    ]
    return "\n".join(parts)


def _tables(tables: Sequence[Standing]) -> str:
    rows = []
    for one in tables:
        report = one.report
        told = "not looked at yet" if report is None else _broken(report)
        if report is not None and report.version != one.version:
            told = f"version {one.version} was not looked at yet. {told}"
        if one.refused:
            told = f"refused: {_broken(one.refused)}"
        rows.append(
            f'<tr><td><a href="#{one.table.path}"><code>{one.table.path}</code></a><td>{_status(one.status)}'
            f"<td class='n less'>{'' if report is None else report.version}<td class=n>{'' if report is None else f'{report.rows:,}'}"
            f"<td class='n less'>{'' if report is None or report.newest is None else report.newest[:10]}"
            f"<td>{'' if report is None else _per_day(report.days)}<td>{told}"
        )
    head = (
        "<tr><th>table<th>state<th class='n less'>version<th class=n>rows<th class='n less'>newest event<th>rows by day<th>broken"
    )
    return f"<div class=wide><table>{head}{''.join(rows)}</table></div>"


def _model(one: ModelDrift) -> str:
    trained = one.trained
    rows = "".join(
        f"<tr><td><code>{escape(f.table)}</code><td><code>{escape(f.column)}</code><td class=n>{'' if f.psi is None else f'{f.psi:.3f}'}"
        f'<td class="{_grade(f.psi)}">{f.verdict}<td class=n>{_number(f.mean_then)}<td class=n>{_number(f.mean_now)}'
        f"<td class=n>{f.null_share_then:.1%}<td class=n>{f.null_share_now:.1%}<td class=n>{f.rows_then:,}<td class=n>{f.rows_now:,}"
        for f in one.features
    )
    versions = ", ".join(
        f"<code>{escape(path)}</code> {version} → {one.newest.get(path, '?')}" for path, version in trained.tables.items()
    )
    unknown = "".join(f"<p class=warned>! <code>{escape(path)}</code>: {escape(why)}.</p>" for path, why in one.unknown.items())
    head = (
        "<tr><th>table<th>feature<th class=n>PSI<th>verdict<th class=n>mean then<th class=n>mean now<th class=n>null then"
        "<th class=n>null now<th class=n>rows then<th class=n>rows now"
    )
    return (
        f"<h2>Drift since {escape(trained.model)} version {trained.version} was trained</h2><p class=soft>Table versions {versions}. "
        f"Population stability index: from {MODERATE} on moved, from {LARGE} on another population.</p>{unknown}"
        f"<div class=wide><table>{head}{rows}</table></div>"
    )


def _details(one: Standing) -> str:
    parts = [f'<details id="{one.table.path}"{"" if one.status == "passed" else " open"}><summary>{_status(one.status)} '
             f"<b><code>{one.table.path}</code></b> <span class=soft>{escape(one.table.meaning)}</span></summary>"]  # fmt: skip
    if one.refused:
        parts += ["<h3>Refused since then</h3>", _checks(one.refused)]
    if one.report:
        sample = f" One key of {one.report.sample} was looked at." if one.report.sample > 1 else ""
        parts += [
            f"<h3>Version {one.report.version}</h3><p class=soft>{one.report.new_rows:,} new rows of {one.report.rows:,}, read in "
            f"{one.report.seconds:.2f} s.{sample}</p>",
            _checks(one.report),
            _columns(one, one.report),
        ]
    return "".join(parts) + "</details>"


def _checks(report: Report) -> str:
    order = sorted(report.checks, key=lambda check: (check.passed, check.severity != "fail"))
    rows = "".join(
        f"<tr><td>{_status(_state(check))}<td>{check.name}<td><code>{escape(check.column)}</code><td>{escape(check.expected)}"
        f"<td>{escape(check.got)}"
        for check in order
    )
    return f"<div class=wide><table><tr><th>state<th>check<th>column<th>expected<th>found{rows}</table></div>"


def _columns(one: Standing, report: Report) -> str:
    window = report.window
    rows = "".join(_column(column, window[column.name]) for column in one.table.columns if column.name in window)
    days = "all rows" if report.window_days is None else f"rows of {report.window_days} event days"
    head = "<tr><th>column<th class=n>null<th class=n>least<th class=n>mean<th class=n>greatest<th>values"
    return f"<h3>Columns, {days}</h3><div class=wide><table>{head}{rows}</table></div>"


def _column(column: Column, found: Statistics) -> str:
    shown = _histogram(found) if found.bins else _words(found)
    if column.mark != "none":
        shown = f"<span class=soft>{column.mark}: no values are kept</span>"
    length = " (length)" if column.type == "strings" else ""
    return (
        f'<tr><td title="{escape(column.meaning)}"><code>{escape(column.name)}</code>{length}<td class=n>{found.null_share:.1%}'
        f"<td class=n>{_number(found.low)}<td class=n>{_number(found.mean)}<td class=n>{_number(found.high)}<td>{shown}"
    )


def _words(found: Statistics) -> str:
    total = found.rows - found.nulls
    shown = [(word, count) for word, count in found.values.most_common(_WORDS) if count > _FREQUENT * total]
    said = [f"{escape(word[:40])} {count / total:.0%}" for word, count in shown]
    rest = "…" if len(found.values) > len(shown) else ""
    return f"<span class=words>{', '.join([*said, rest] if rest and said else said) or (rest and 'many')}</span>"


def _histogram(found: Statistics) -> str:
    """Bars by value on a logarithmic scale, neighbouring bins put together."""
    codes = sorted(found.bins)
    step = max(1, -(-(codes[-1] - codes[0] + 1) // _BARS))
    bars: dict[int, tuple[int, int, int]] = {}
    for code in codes:
        place = (code - codes[0]) // step
        first, _, count = bars.get(place, (code, code, 0))
        bars[place] = (first, code, count + found.bins[code])
    named = {
        place: (count, f"{_number(bounds_of(first)[0])} to {_number(bounds_of(last)[1])}: {count:,} rows")
        for place, (first, last, count) in bars.items()
    }
    return _bars(named, max(bars) + 1, "values by size, logarithmic")


def _per_day(days: Mapping[str, int]) -> str:
    """Bars by local day, oldest first."""
    shown = sorted(days.items())
    return _bars({at: (count, f"{day}: {count:,} rows") for at, (day, count) in enumerate(shown)}, len(shown), "rows by day")


def _bars(named: Mapping[int, tuple[int, str]], places: int, label: str) -> str:
    """Bars of (height, what a pointer over it reads) by place."""
    if not any(count for count, _ in named.values()):
        return ""
    top, width = max(count for count, _ in named.values()), 5
    drawn = "".join(
        f'<rect x="{place * width}" y="{28 - height:.1f}" width="{width - 1}" height="{height:.1f}"><title>{escape(told)}</title></rect>'
        for place, (count, told) in sorted(named.items())
        if count and (height := max(1.0, 28 * count / top))
    )
    return f'<svg width="{places * width}" height="28" role="img" aria-label="{label}">{drawn}</svg>'


def _state(check: Check) -> str:
    return "passed" if check.passed else "failed" if check.severity == "fail" else "warned"


def _status(status: str | None) -> str:
    return f'<span class="status {status or "none"}">{_SIGNS[status]} {status or "not looked at"}</span>'


def _broken(report: Report) -> str:
    said = [
        f"{check.name}{f' <code>{escape(check.column)}</code>' if check.column else ''}: {escape(check.got)}"
        for check in (*report.failed, *report.warned)
    ]
    return "; ".join(said)


def _grade(psi: float | None) -> str:
    return "none" if psi is None else "passed" if psi < MODERATE else "warned" if psi < LARGE else "failed"


def number_text(value: float | None) -> str:
    """A number for a reader: whole where it is, else four digits; empty for None."""
    if value is None:
        return ""
    return f"{value:,.0f}" if value == int(value) or abs(value) >= 1000 else f"{value:,.4g}"


def _number(value: float | str | None) -> str:
    return escape(value[:16].replace("T", " ")) if isinstance(value, str) else number_text(value)
