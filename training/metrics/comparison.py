"""Methods side by side on the same test part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def comparison(reports: Mapping[str, Mapping[str, float]], metrics: Sequence[str], decimals: int = 4) -> str:
    """One row per method and one column per metric with its 95 % interval, as a Markdown table.

    Args:
        reports: method -> `test_<metric>`, `test_<metric>_lo` and `test_<metric>_hi` for each of `metrics`.
    """
    lines = [f"| test part | {' | '.join(metrics)} |", f"|---|{'---|' * len(metrics)}"]
    for method, report in reports.items():
        ends = [[report[f"test_{metric}{end}"] for end in ("", "_lo", "_hi")] for metric in metrics]
        cells = [f"{value:.{decimals}f} [{low:.{decimals}f}, {high:.{decimals}f}]" for value, low, high in ends]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines)
