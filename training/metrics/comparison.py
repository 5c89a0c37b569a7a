"""Methods side by side on the same test part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def comparison(reports: Mapping[str, Mapping[str, float]], metrics: Sequence[str], decimals: int = 4) -> str:
    """One row per method and one column per metric with its 95 % interval, as a Markdown table.

    Args:
        reports: method -> `test_<metric>`, `test_<metric>_lo` and `test_<metric>_hi` for each of `metrics` that is defined.
    """
    lines = [f"| test part | {' | '.join(metrics)} |", f"|---|{'---|' * len(metrics)}"]
    for method, report in reports.items():
        cells = [cell(report, f"test_{metric}", decimals) for metric in metrics]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def signed(mean: float, low: float, high: float) -> str:
    """A difference with its interval, as model cards show it."""
    return f"{mean:+.4f} [{low:+.4f}, {high:+.4f}]"


def cell(values: Mapping[str, float], name: str, decimals: int = 4) -> str:
    """A value with its interval, `<name>`, `<name>_lo` and `<name>_hi` of `values`, as such tables show it; `-` where it is undefined."""
    if name not in values:
        return "-"
    value, low, high = (f"{values[name + end]:.{decimals}f}" for end in ("", "_lo", "_hi"))
    return f"{value} [{low}, {high}]"
