"""Writes the table of config.pbtxt parameters into serving.md, from their declarations.

python docs/generate_parameters.py            write it
python docs/generate_parameters.py --check    exit with 1 if it is not up to date
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tnn_serving.config.settings import SETTINGS

PAGE = Path(__file__).with_name("serving.md")
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


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if the page is stale")
    parser.add_argument("page", nargs="?", type=Path, default=PAGE)
    options = parser.parse_args(arguments)
    page = options.page.read_text(encoding="utf-8")
    fresh = with_table(page)
    if options.check and fresh != page:
        print(f"{options.page} is stale; run: python docs/generate_parameters.py", file=sys.stderr)
        return 1
    if not options.check:
        options.page.write_text(fresh, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
