"""What a name that does not exist may mean: the hint "did you mean ...?" of every error about one."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any, get_args

from tnn_serving.errors import ConfigError

MOST = 3
"""Names that a hint gives."""

ALIKE = 0.6
"""From this ratio of difflib's on a name is like another."""

NEARLY_AS_GOOD = 0.1
"""Names whose ratio is lower than the best one's by more than this are not given."""

LISTED = 8
"""Names that an error lists in full; of more, it says how many there are."""


def nearest(given: str, known: Iterable[str], most: int = MOST) -> list[str]:
    """The known names that are spelled most like ``given``, the best first. Case, ``-`` and ``_`` do not matter.

    A name that begins with ``given`` is like it however long it is.
    """
    # Imported here: names are mostly right, and the command line starts without it.
    from difflib import SequenceMatcher, get_close_matches

    spelled: dict[str, list[str]] = {}
    for name in dict.fromkeys(known):
        spelled.setdefault(_plain(name), []).append(name)
    plain = _plain(given)
    close = get_close_matches(plain, spelled, 1, ALIKE)
    if close:
        least = SequenceMatcher(None, close[0], plain).ratio() - NEARLY_AS_GOOD
        close = get_close_matches(plain, spelled, most, max(ALIKE, least))
    close += [one for one in sorted(spelled, key=len) if len(plain) > 1 and one.startswith(plain) and one not in close]
    return [name for one in close for name in spelled[one]][:most]


def did_you_mean(given: str, known: Iterable[str], prefix: str = "") -> str | None:
    """The hint of an error about a name that does not exist; ``None`` if none of the known ones is like it.

    Args:
        prefix: what the reader writes before each name, such as ``--``.
    """
    near = nearest(given, known)
    return f"did you mean {_one_of([f'`{prefix}{name}`' for name in near])}?" if near else None


def listed(known: Collection[str]) -> str:
    """The known names as what an error expects: all of them, or their number where that is easier to read."""
    if not known:
        return "none"
    return ", ".join(known) if len(known) <= LISTED else f"one of {len(known)} names"


def choice(literal: Any, given: str, what: str) -> Any:
    """A name of a ``Literal``, which ``given`` has to be. Raises ConfigError for another one.

    Args:
        what: the choice, as an error names it.
    """
    names: tuple[str, ...] = get_args(literal)
    if given not in names:
        raise ConfigError(f"unknown {what}", expected=", ".join(names), found=given, hint=did_you_mean(given, names))
    return given


def _one_of(names: Sequence[str]) -> str:
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _plain(name: str) -> str:
    return name.casefold().replace("-", "_")
