"""Writes the table of config.pbtxt parameters into guides/serving.md, from their declarations.

python docs/generate_parameters.py            write it
python docs/generate_parameters.py --check    exit with 1 if it is not up to date
"""

from __future__ import annotations

import sys
from pathlib import Path

from generated import run
from tnn_serving.config.settings import SETTINGS

PAGE = Path(__file__).parent / "guides" / "serving.md"
BEGIN = "<!-- parameters: written by docs/generate_parameters.py -->"
END = "<!-- end of parameters -->"


def table() -> str:
    """A row for each parameter, in the order of their declaration."""
    rows = ["| key | default | meaning |", "|---|---|---|"]
    for parameter in SETTINGS.values():
        key = f"`{parameter.key}` *" if parameter.per_input else f"`{parameter.key}`"
        rows.append(f"| {key} | `{parameter.default}` | {parameter.doc} |")
    return "\n".join(rows)


def with_table(page: str) -> str:
    """The page with a fresh table between its marks.

    Raises:
        ValueError: the page lacks a mark.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page needs the lines {BEGIN} and {END}")
    return f"{before}{begin}\n{table()}\n{end}{after}"


if __name__ == "__main__":
    sys.exit(run(__doc__, PAGE, with_table))
