"""Which files of a folder may be those of a model, by their names alone.

Suffixes count in upper and lower case. Files whose names begin with a dot are ignored: macOS writes ``._net.tnnproto``
beside ``net.tnnproto``, editors and copying programs write hidden scratch files.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

SHOWN = 8
"""How many names a message shows."""

# What file managers and browsers append to the name of a copy, in front of the suffix, and "Copy of " before it.
_COPY = re.compile(
    r"""(?: \s* - \s* (?:copy|副本)              # Windows
          | \s+ copy | \s* 的副本 | \s* 副本     # macOS
          | \s* [(（] (?: copy | another\ copy | \d+\w*\ copy | 副本 | 另一个副本 | 复件 | \d+ ) [)）]
        ) (?: \s* [(（]? \d+ [)）]? )? $""",
    re.IGNORECASE | re.VERBOSE,
)
_COPY_OF = re.compile(r"^(?:copy of |复件 )", re.IGNORECASE)


def has_suffix(path: str | os.PathLike[str], *suffixes: str) -> bool:
    """Whether a file's name ends with one of the suffixes, in upper or lower case, and does not begin with a dot."""
    name = os.path.basename(os.fspath(path))
    return not name.startswith(".") and name.lower().endswith(suffixes)


def candidates(folder: Path, suffix: str) -> list[Path]:
    """The files of a folder that have the suffix, sorted by name; none if there is no such folder."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if has_suffix(path, suffix) and not path.is_dir())


def named(files: Sequence[Path], *names: str) -> Path | None:
    """The file with the first of these names that one of them has.

    The name may differ in upper and lower case where no file has it exactly and one has it so.
    """
    for name in names:
        exact = [file for file in files if file.name == name]
        alike = exact or [file for file in files if file.name.lower() == name.lower()]
        if len(alike) == 1:
            return alike[0]
    return None


def chosen(files: Sequence[Path], name: str) -> Path | None:
    """The file with the usual name, or the only file; ``None`` if there is none or nothing decides between several."""
    return named(files, name) or (files[0] if len(files) == 1 else None)


def listed(folder: Path) -> str:
    """The names in a folder, for a message."""
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return (", ".join(names[:SHOWN]) + more) or "nothing"


def copies(files: Iterable[Path]) -> list[tuple[Path, Path]]:
    """Files whose names say that they are copies, each with the file that it is a copy of.

    That is the file of the plain name, or the first of the copies where no other one is there.
    """
    alike: dict[tuple[str, str], list[Path]] = defaultdict(list)
    for file in files:
        alike[_original(file.stem).lower(), file.suffix.lower()].append(file)
    found = []
    for group in alike.values():
        first, *others = sorted(group, key=lambda file: (_original(file.stem) != file.stem, file.name))
        found += [(other, first) for other in others if _original(other.stem) != other.stem]
    return found


def _original(stem: str) -> str:
    """The stem of the file that a copy was made of: its own, if its name does not say that it is a copy."""
    plain = _COPY.sub("", _COPY_OF.sub("", stem))
    return _original(plain) if plain not in ("", stem) else stem
