"""The contents of a model repository: model folders, their versions, and which of them the backend reads."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from tnn_serving.errors import ServerError
from tnn_serving.formats.candidates import versions
from tnn_serving.network.formats import has_model_files

BACKEND_LINE = b'backend: "tnn"\n'
"""What ``serve`` adds to a configuration that names neither backend nor platform."""

MAC_METADATA = "__MACOSX"
"""The folder of metadata in a zip archive that macOS has made: its tree repeats that of the archive."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """A folder of a repository that is not a model, and why."""

    folder: Path
    reason: str


def is_ours(model: Path) -> bool:
    """Whether any version of a model contains files that the backend reads."""
    return any(map(has_model_files, versions(model)))


def model_folders(repository: Path) -> tuple[list[Path], list[Skipped]]:
    """The model folders of a repository, and its other folders.

    Hidden folders, and those that macOS puts into zip archives, are ignored.
    """
    models, skipped = [], []
    for folder in sorted(repository.iterdir()):
        if folder.name.startswith((".", MAC_METADATA)) or not folder.is_dir():
            continue
        try:
            found = bool(versions(folder))
        except OSError as error:
            skipped.append(Skipped(folder, f"it can't be read: {error.strerror}"))
            continue
        if found:
            models.append(folder)
        else:
            skipped.append(Skipped(folder, "it has no version folder (a number, such as 1)"))
    return models, skipped


def check_repository(path: Path) -> None:
    """Checks that a path can be a repository.

    Raises:
        ServerError: it is missing, no folder, unreadable, or a model (version) folder.
    """
    if not path.is_dir() or not os.access(path, os.R_OK | os.X_OK):
        found = "nothing" if not path.exists() else "no folder" if not path.is_dir() else "a folder that can't be read"
        raise ServerError(f"no model repository at {path}", expected="a folder of model folders", found=found)
    layout = "a repository looks like REPOSITORY/NAME/1/ with the model's files in it"
    if has_model_files(path):
        raise ServerError(f"{path} holds a model's files itself", hint=f"give its folder's parent; {layout}")
    if versions(path) and is_ours(path):
        raise ServerError(f"{path} is a model, not a repository", hint=f"give its parent, {path.parent}; {layout}")
