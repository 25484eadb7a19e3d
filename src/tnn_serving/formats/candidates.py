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

from tnn_serving.errors import FormatError

FILES_SHOWN = 8
"""How many names a message shows."""

_PACKED = ("gz", "bz2", "xz", "zst", "lz4", "zip", "7z", "rar", "tar", "tgz")

# What file managers, browsers and people append to the name of a copy, in front of the suffix; parentheses may be
# full-width ones.
_COPY = re.compile(
    r"""(?: [\s\-_.]+ (?: copy | backup | bak | old )
          | \s* (?: -\s* )? 的? 副本
          | \s* [(\uff08] (?: copy (?: \ \d+ )? | another\ copy | \d+\w*\ copy | 副本 | 复件 | \d+ ) [)\uff09]
        ) (?: \s* [(\uff08]? \d+ [)\uff09]? )? $""",
    re.IGNORECASE | re.VERBOSE,
)
_COPY_OF = re.compile(r"^(?:copy of |复件 )", re.IGNORECASE)


def has_suffix(path: str | os.PathLike[str], *suffixes: str) -> bool:
    """Whether a file's name ends with one of the suffixes, in upper or lower case, and does not begin with a dot."""
    name = os.path.basename(os.fspath(path))
    return not name.startswith(".") and name.lower().endswith(suffixes)


def versions(model: Path) -> list[Path]:
    """The numbered version folders of a model folder, in their order. Raises OSError."""
    found = (path for path in model.iterdir() if path.name.isdecimal() and path.is_dir())
    return sorted(found, key=lambda path: int(path.name))


def candidates(folder: Path, suffix: str) -> list[Path]:
    """What has the suffix in a folder, sorted by name; nothing if there is no such folder.

    Raises:
        FormatError: the folder cannot be read.
    """
    if not folder.is_dir():
        return []
    try:
        return sorted(path for path in folder.iterdir() if has_suffix(path, suffix))
    except OSError as error:
        raise FormatError(f"{folder} cannot be read: {error.strerror}") from error


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


def none_found(folder: Path, *kinds: Sequence[str], reason: str | None = None) -> FormatError:
    """The error for a folder without the files of a model.

    Args:
        kinds: for each format that could be there, the usual name of each file that makes a model.
        reason: why the files that are there are not enough; left out, the hint is what their names show.
    """
    return FormatError(
        f"no model in {folder}",
        expected="; or ".join(map(_wanted, kinds)),
        found=_listed(folder),
        hint=reason or _overlooked(folder, [name for names in kinds for name in names]) or _half(folder, kinds),
    )


def several_found(folder: Path, kinds: Sequence[Sequence[Path]], names: Sequence[str]) -> FormatError:
    """The error for a folder with several files of a kind, none of which has the usual name.

    The hint names copies, and the files of one stem that are taken when they are renamed.

    Args:
        kinds: the candidates for each file that makes a model.
        names: the usual name of each.
    """
    files = [file for kind in kinds for file in kind]
    doubled = copies(files)
    hints = [
        f"`{_shown(copy)}` looks like a copy of `{_shown(first)}`: remove it" for copy, first in doubled[:FILES_SHOWN]
    ]
    kept = [[file for file in kind if file not in dict(doubled)] for kind in kinds]
    stems = [{file.stem.lower(): _shown(file) for file in kind} for kind in kept]
    whole = [stem for stem in stems[0] if all(stem in kind for kind in stems)]
    taken = " and ".join(kind[whole[0]] for kind in stems) if whole else "the files of one model"
    renamed = f"rename {taken} to {' and '.join(names)}, which are taken before others"
    return FormatError(
        f"several models in {folder}",
        expected=_wanted(names),
        found=", ".join(map(_shown, files)),
        hint=", or ".join(["; ".join(hints), renamed] if hints else [renamed]),
    )


def _wanted(names: Sequence[str]) -> str:
    suffixes = " and ".join(f"one *{os.path.splitext(name)[1]}" for name in names)
    return f"{' and '.join(names)}, or {suffixes}"


def _listed(folder: Path) -> str:
    names = [_shown(path) for path in sorted(folder.iterdir())] if folder.is_dir() else []
    more = f" and {len(names) - FILES_SHOWN} more" if len(names) > FILES_SHOWN else ""
    return (", ".join(names[:FILES_SHOWN]) + more) or "nothing"


def _overlooked(folder: Path, names: Sequence[str]) -> str | None:
    """Why files that look like those of a model are none: hidden ones, and those with another suffix behind."""
    suffixes = [os.path.splitext(name)[1] for name in names]
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        name, lower = _shown(path), _shown(path).lower()
        if lower.startswith(".") and lower.endswith(tuple(suffixes)):
            return f"`{name}` is ignored: its name begins with a dot"
        for suffix in suffixes:
            stem, found, rest = lower.rpartition(suffix + ".")
            if found and rest in _PACKED:
                return f"unpack `{name}`"
            if found and stem:
                return f"rename `{name}` to `{name[: len(stem) + len(suffix)]}`"
    return None


def _half(folder: Path, kinds: Sequence[Sequence[str]]) -> str | None:
    """What is not complete: a file of a pair without the other one, or an archive."""
    files = [path for path in sorted(folder.iterdir()) if path.is_file()] if folder.is_dir() else []
    for suffixes in ([os.path.splitext(name)[1] for name in names] for names in kinds):
        there = [file for file in files if has_suffix(file, *suffixes)]
        missing = [suffix for suffix in suffixes if not any(has_suffix(file, suffix) for file in there)]
        if there and missing:
            return f"the {missing[0]} that belongs to `{_shown(there[0])}` is missing: copy both files of the pair"
    packed = [_shown(file) for file in files if file.name.lower().rpartition(".")[2] in _PACKED]
    return f"unpack `{packed[0]}`" if packed else None


def _shown(path: Path) -> str:
    """A name as a message may carry it: printable, and no bytes that are not UTF-8."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in path.name)


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
