"""The repository's Markdown pages as CommonMark parses them: blocks, sections, headings, links."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
BUILT = {"build", "demo", "dist"}
"""Top folders that make writes."""

GENERATED = [DOCS / "reference" / name for name in ("benchmarks.md", "cli.md", "layers.md")]
"""Pages that a program writes as a whole."""


def pages() -> list[Path]:
    """Every page of the checkout."""
    folders = [path for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")]
    inside = (page for folder in folders if folder.name not in BUILT for page in folder.rglob("*.md"))
    return sorted([*ROOT.glob("*.md"), *inside])


def relative(page: Path) -> str:
    """Path of a page from the root, for the names of test cases."""
    return str(page.relative_to(ROOT))


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


@cache
def parse(page: Path) -> list[Token]:
    return _parsed(read(page))


def _parsed(text: str) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(text)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page; its language is the word behind the opening fence."""

    language: str
    text: str


def blocks(page: Path) -> list[Block]:
    return blocks_of(read(page))


def blocks_of(text: str) -> list[Block]:
    """The fenced blocks of a page or a section."""
    return [Block(token.info, token.content) for token in _parsed(text) if token.type == "fence"]


def headings(page: Path) -> list[tuple[int, str]]:
    """Level and text of each heading; the text is without marks of emphasis, code or links."""
    tokens = parse(page)
    return [
        (int(opening.tag[1:]), "".join(part.content for part in inline.children or []))
        for opening, inline in pairwise(tokens)
        if opening.type == "heading_open"
    ]


def anchors(page: Path) -> set[str]:
    """The names that GitHub gives to the headings of a page; a repeated one gets a number."""
    found: set[str] = set()
    seen: Counter[str] = Counter()
    for _, title in headings(page):
        anchor = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
        found.add(f"{anchor}-{seen[anchor]}" if seen[anchor] else anchor)
        seen[anchor] += 1
    return found


def links(page: Path) -> set[str]:
    """Targets of the links and images of a page, except those into the web."""
    return {target for target in _targets(page) if not re.match(r"[a-z]+:", target)}


def code_spans(page: Path) -> list[str]:
    """Inline code of a page, that of headings and tables included."""
    return [part.content for token in parse(page) for part in token.children or [] if part.type == "code_inline"]


def _targets(page: Path) -> Iterator[str]:
    for token in parse(page):
        for part in token.children or []:
            if part.type in ("link_open", "image"):
                yield str(part.attrs.get("href") or part.attrs.get("src"))


def section(page: Path, title: str) -> str:
    """The text of a section up to the next heading of its level."""
    text = read(page).split(f"\n## {title}\n", 1)[1]
    return re.split(r"^## ", text, maxsplit=1, flags=re.MULTILINE)[0]


def rows(text: str) -> list[list[str]]:
    """Cells of the tables' rows, without their heads."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return [row for row, following in zip(cells, [*cells[1:], [""]], strict=True) if not _is_rule(row + following)]


def _is_rule(cells: list[str]) -> bool:
    return any(re.fullmatch(r"\|?-+(\|-+)*\|?", cell) for cell in cells)
