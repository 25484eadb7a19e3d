"""The folder for files that can be created again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path | None:
    """``$XDG_CACHE_HOME/tnn-serving``, by default ``~/.cache/tnn-serving`` (XDG Base Directory Specification).

    ``None`` for a user without a home: a folder that others may have made in its place is no choice, since engines run
    what is in it.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        return (base if base.is_absolute() else Path.home() / ".cache") / "tnn-serving"
    except RuntimeError:  # neither HOME nor an entry for the user id
        return None


def cache_option(text: str) -> Path | None:
    """The folder that ``--cache-dir`` means: none for "none" or a user without a home, the user's if it is empty."""
    folder = None if text == "none" else Path(text) if text else cache_folder()
    return None if folder is None else folder.absolute()
