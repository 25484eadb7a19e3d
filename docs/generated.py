"""The command line that all programs share which write a page of the documents from the code."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path


def run(description: str, page: Path, fresh: Callable[[str], str]) -> int:
    """Writes a page, or compares it with what would be written if ``--check`` is given.

    Args:
        description: text of ``--help``.
        page: the default of the page that may be named on the command line.
        fresh: from the page's present text, empty if there is none, to its new one.

    Returns:
        The exit code: 1 if ``--check`` finds the page stale.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if the page is stale")
    parser.add_argument("page", nargs="?", type=Path, default=page)
    options = parser.parse_args()
    present = options.page.read_text(encoding="utf-8") if options.page.is_file() else ""
    text = fresh(present)
    if not options.check:
        options.page.write_text(text, encoding="utf-8")
        return 0
    if text != present:
        print(f"{options.page} is stale; run: python docs/{Path(sys.argv[0]).name}", file=sys.stderr)
        return 1
    return 0
