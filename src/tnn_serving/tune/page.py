"""The report as one self-contained HTML page, without scripts."""

from __future__ import annotations

from html import escape
from pathlib import Path

from tnn_serving.errors import ConfigError, UsageError
from tnn_serving.tune.plot import latency_plot
from tnn_serving.tune.report import CandidateResult, Report

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 62rem; margin: 2rem auto;
  padding: 0 1rem }
svg { max-width: 100%; height: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid #e4e4e4 }
th:first-child, td:first-child, td.words { text-align: left }
tr.marked td { font-weight: bold }
pre { background: #f5f5f5; padding: .8rem; overflow-x: auto }
"""


def tuning_page(report: Report, settings: str) -> str:
    """The report as HTML.

    Args:
        settings: the new lines of ``config.pbtxt``; empty if there are none.
    """
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(report.model)}, tuned for {escape(str(report.aim))}</title>",
            f"<style>{_STYLE}</style>\n</head>\n<body>",
            f"<h1>{escape(report.model)}</h1>",
            *(f"<p>{escape(line)}</p>" for line in report.evidence()),
            f"<p>Chosen: <strong>{escape(report.chosen.label)}</strong>.{_caveat(report)}</p>",
            latency_plot(report),
            _table(report),
            f"<h2>config.pbtxt</h2>\n<pre>{escape(settings)}</pre>" if settings else "",
            "</body>\n</html>\n",
        ]
    )


def _caveat(report: Report) -> str:
    if not report.met and report.p99_ms is not None:
        return f" It exceeds the p99 limit of {report.p99_ms:g} ms."
    if report.interrupted and not report.confirmed:
        return " The search was interrupted before this candidate and the default were measured alternately."
    return "" if report.confirmed else " This candidate and the default were not measured alternately often enough."


def _table(report: Report) -> str:
    heads = ("candidate", "concurrency", "inferences/s", "p50 ms", "p99 ms", "rows", "server µs", "error", "trials")
    rows = [f"<tr>{''.join(f'<th>{head}</th>' for head in heads)}</tr>"]
    for result in report.candidates:
        rows += _rows(report, result)
    return f"<h2>All candidates</h2>\n<table>\n{chr(10).join(rows)}\n</table>"


def _rows(report: Report, result: CandidateResult) -> list[str]:
    name = escape(result.label) + (" (chosen)" if result == report.chosen else "")
    if result.problem:
        return [f'<tr><td>{name}</td><td class="words" colspan="8">{escape(result.problem)}</td></tr>']
    marked = ' class="marked"' if result in (report.chosen, report.default) else ""
    made = []
    for k, point in enumerate(result.points):
        cells = [
            "" if k else name,
            str(point.concurrency),
            f"{point.inferences_per_s:.1f}{'' if point.stable else ' ~'}",
            f"{point.p50_ms:.2f}",
            f"{point.p99_ms:.2f}",
            "" if point.rows is None else f"{point.rows:.1f}",
            "" if point.server_cpu_us is None else f"{point.server_cpu_us:.0f}",
            f"{result.error:.2%}",
            "" if k else str(result.trials),
        ]
        made.append(f"<tr{marked}>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    return made


def check_suffix(path: Path) -> None:
    """Raises UsageError for a report that is neither a page nor a plot by its name."""
    if path.suffix not in (".html", ".svg"):
        raise UsageError(f"--report {path}: expected a name that ends in .html or .svg")


def save_report(path: Path, report: Report, settings: str) -> None:
    """Writes a page, or the plot alone, as the suffix says. Raises ConfigError: it cannot be written."""
    text = tuning_page(report, settings) if path.suffix == ".html" else latency_plot(report)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error
