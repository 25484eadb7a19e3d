"""SHA-256 sums of a model folder, in the format of ``sha256sum``: made once, compared at each load.

The file ``SHA256SUMS`` in the model folder names every other file of it: configuration, labels, and all versions.
``sha256sum --check SHA256SUMS`` says the same without us.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from tnn_serving.config.model_config import CONFIG_FILE
from tnn_serving.config.text import config_text
from tnn_serving.errors import FormatError, located
from tnn_serving.formats.reading import FileKind, chunks, read_file
from tnn_serving.own_files import folder_refusals
from tnn_serving.repository import BACKEND_LINE

MANIFEST = "SHA256SUMS"
MAX_FILES = 10_000
MANIFEST_MAX_BYTES = 4 << 20
SUMS = FileKind("a manifest", most_bytes=MANIFEST_MAX_BYTES, advice="`tnn-serving sign` makes one")

_LINE = re.compile(r"([0-9a-f]{64}) [ *]([^\0\\]+)")


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, as hex. Raises FormatError for what is no regular file or cannot be read."""
    digest = hashlib.sha256()
    with located(path.name):
        for piece in chunks(path):
            digest.update(piece)
    return digest.hexdigest()


def files_of(folder: Path) -> dict[str, Path]:
    """Every file of a model folder but the manifest, by its path in it, in order.

    Links are followed, as the server follows them. Raises FormatError for names that a manifest cannot hold, and for
    folders without end.
    """
    found: dict[str, Path] = {}
    for path in _walk(folder, depth=4):
        name = path.relative_to(folder).as_posix()
        if not _LINE.fullmatch(f"{'0' * 64}  {name}") or any(not c.isprintable() for c in name):
            raise FormatError(f"a manifest cannot hold the name {name!r}", expected="printable, without a backslash")
        if name != MANIFEST:
            found[name] = path
        if len(found) > MAX_FILES:
            raise FormatError("too many files in a model folder", expected=f"at most {MAX_FILES}")
    return dict(sorted(found.items()))


def _walk(folder: Path, depth: int) -> Iterator[Path]:
    if not depth:
        raise FormatError(f"folders are nested too deeply at {folder}", hint="is there a link to a folder above?")
    for entry in sorted(folder.iterdir()):
        if entry.is_dir():
            yield from _walk(entry, depth - 1)
        else:
            yield entry


def sign(folder: Path) -> Path:
    """Writes the manifest of a model folder; returns its path.

    Raises:
        FormatError: a file cannot be read or named, or the manifest cannot be written.
        ConfigError: the folder contains code, or a label file that is not its own; no server takes it.
    """
    with located(os.fspath(folder)):
        if not folder.is_dir():
            raise FormatError("no such folder", expected="a model folder, REPOSITORY/NAME")
        for problem in folder_refusals(folder):
            raise problem
        lines = [f"{sha256_of(path)}  {name}\n" for name, path in files_of(folder).items()]
        if not lines:
            raise FormatError("the folder is empty")
        scratch = folder / f".{MANIFEST}.{os.getpid()}"
        try:
            scratch.write_text("".join(lines), encoding="utf-8")
            scratch.replace(folder / MANIFEST)
        except OSError as error:
            raise FormatError(f"the manifest cannot be written: {error.strerror}") from error
        finally:
            scratch.unlink(missing_ok=True)
    return folder / MANIFEST


def has_manifest(folder: Path) -> bool:
    """Whether there is anything of that name: a link to nothing is a manifest that cannot be read."""
    return os.path.lexists(folder / MANIFEST)


def read_manifest(path: Path) -> dict[str, str]:
    """The sums of a manifest by file name. Raises FormatError if it cannot be read."""
    with located(path.name):
        return parse_manifest(read_file(path, SUMS))


def parse_manifest(data: bytes) -> dict[str, str]:
    """Sums by file name. Raises FormatError for a line that is none, a name outside the folder, or one that comes
    twice."""
    sums: dict[str, str] = {}
    try:
        lines = data.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise FormatError("the manifest cannot be read", found=str(error)) from None
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        if line.endswith("\r"):
            raise FormatError(
                f"line {number} ends with a carriage return", hint="write it with line feeds only, as `sign` does"
            )
        parts = _LINE.fullmatch(line)
        if parts is None or parts[2].startswith("/") or ".." in parts[2].split("/"):
            raise FormatError(f"line {number} is no sum of a file", expected="64 hex digits, two spaces, a name")
        name = parts[2].removeprefix("./")
        if name in sums:
            raise FormatError(f"line {number} is a second sum of file `{name}`")
        sums[name] = parts[1]
    return sums


def verify(folder: Path, *, version: int | None = None) -> list[FormatError]:
    """What differs between a model folder and its manifest; nothing if it has none.

    Args:
        version: compare the files of this version and those outside of all version folders; all of them if left out.

    Raises:
        FormatError: the manifest, or the folder, cannot be read.
    """
    if not has_manifest(folder):
        return []
    sums = {name: digest for name, digest in read_manifest(folder / MANIFEST).items() if _concerns(name, version)}
    files = {name: path for name, path in files_of(folder).items() if _concerns(name, version)}
    problems = []
    for name in sorted({*sums, *files}):
        if name not in files:
            problems.append(FormatError(f"file `{name}` is missing", expected=f"as {MANIFEST} lists it"))
        elif name == CONFIG_FILE and sums.get(name) in _sums_before_serve(folder):
            continue
        elif name not in sums:
            problems.append(FormatError(f"file `{name}` is not in {MANIFEST}", hint="remove it, or sign the folder"))
        elif (found := sha256_of(files[name])) != sums[name]:
            problems.append(FormatError(f"file `{name}` has changed", expected=f"SHA-256 {sums[name]}", found=found))
    return problems


def check_manifest(folder: Path, *, version: int, required: bool) -> None:
    """Compares a version with the manifest of its model folder before it is loaded.

    Raises:
        FormatError: a file is missing, changed or not listed, or there is no manifest and there must be.
    """
    if required and not has_manifest(folder):
        raise FormatError(
            f"no {MANIFEST} in the model folder", expected="a manifest, as `require_manifest` demands",
            hint="tnn-serving sign MODEL_FOLDER makes one",
        )  # fmt: skip
    problems = verify(folder, version=version)
    if problems:
        raise problems[0]


def _concerns(name: str, version: int | None) -> bool:
    """The file belongs to this version, or to all."""
    top, slash, _ = name.partition("/")
    return version is None or not slash or not top.isdecimal() or int(top) == version


def _sums_before_serve(folder: Path) -> tuple[str | None, ...]:
    """Sums of a configuration as it may be in the repository: as it is, or without the line that ``serve`` adds;
    ``None`` where all of it is that line."""
    data = config_text(folder)
    bare = data.removesuffix(b"\n" + BACKEND_LINE)
    return tuple(
        None if content == BACKEND_LINE else hashlib.sha256(content).hexdigest()
        for content in dict.fromkeys((data, bare))
    )
