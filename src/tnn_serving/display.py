"""How objects show themselves: the words of their ``repr``, and the tables that a notebook shows of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape

MOST_SHOWN = 6
"""Items that a ``repr`` lists; of more, it gives the number."""


def dims_text(dims: Iterable[int | None] | None) -> str:
    """Dims for people: ``[any, 3, any, any]``; empty where there are none to give."""
    return "" if dims is None else f"[{', '.join('any' if dim is None else str(dim) for dim in dims)}]"


def few(items: Sequence[str], most: int = MOST_SHOWN) -> str:
    """Items in one line: the first ones, and how many more there are."""
    shown = ", ".join(items[:most]) or "none"
    return f"{shown} and {len(items) - most} more" if len(items) > most else shown


def several(number: int, thing: str) -> str:
    """A number of things: ``1 layer``, ``2 layers``."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


def tally(kinds: Iterable[str]) -> list[str]:
    """Each kind with its number, the most frequent first."""
    return [f"{count} {kind}" for kind, count in Counter(kinds).most_common()]


def lines(title: str, **facts: str) -> str:
    """A title, and below it each fact with its label."""
    width = max(map(len, facts), default=0) + 1
    return "\n".join([title, *(f"  {label + ':':{width}} {fact}" for label, fact in facts.items())])


def table(titles: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """An HTML table."""
    head = "".join(f"<th>{escape(title)}</th>" for title in titles)
    body = "".join(f"<tr>{''.join(f'<td>{escape(str(cell))}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def page(title: str, *parts: str) -> str:
    """HTML below a title."""
    return f"<div><b>{escape(title)}</b>{''.join(parts)}</div>"


def collapsed(title: str, part: str) -> str:
    """HTML that is shown when its title is clicked."""
    return f"<details><summary>{escape(title)}</summary>{part}</details>"
