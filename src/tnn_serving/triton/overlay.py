"""Overlays of repositories in which models lack the line ``backend: "tnn"``.

Triton finds the backend of a model in its ``config.pbtxt``. A TNN model without that file, or whose file has neither
backend nor platform, is served from an overlay: a temporary folder in which each such model has a ``config.pbtxt`` with
the line, and links to its other files. All other folders are linked unchanged. Repositories without such models, and
remote ones, are passed to Triton unchanged.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from tnn_serving.config.model_config import CONFIG_FILE
from tnn_serving.config.prototext import top_level_fields
from tnn_serving.config.text import config_text
from tnn_serving.errors import ConfigError
from tnn_serving.repository import BACKEND_LINE, Skipped, check_repository, is_ours, model_folders

REMOTE = ("s3://", "gs://", "as://")
DEPTH = 2
"""Levels of folders in a repository: models, versions."""


def config_of(model: Path) -> bytes | None:
    """The content of ``config.pbtxt`` in the overlay; None if the model folder can be used unchanged.

    Raises ConfigError for a configuration that cannot be read, or that Triton must not read: it is too large.
    """
    text = config_text(model)
    if top_level_fields(text.decode("latin-1")) & {"backend", "platform"} or not is_ours(model):
        return None
    return text + b"\n" + BACKEND_LINE if text else BACKEND_LINE


def _is_unchanged(model: Path) -> bool:
    """Triton can be given the folder itself."""
    try:
        return config_of(model) is None
    except ConfigError:
        return False


class Overlay:
    """The repositories of one server with their overlays, synchronised with the sources.

    Args:
        repositories: folders and remote locations.
        changing: models may be added and removed while the server runs (its control mode is poll or explicit). Every
            local repository then gets an overlay, since a model that needs one may be added later.

    Raises:
        ServerError: a folder is missing, or is a model instead of a repository.

    Attributes:
        locations: what to pass to Triton, in the order of ``repositories``.
        skipped: folders that are not models, as of the last :meth:`sync`.
    """

    def __init__(self, repositories: Sequence[str], *, changing: bool = False) -> None:
        self.skipped: list[Skipped] = []
        self._root: Path | None = None
        self._plain: list[Path] = []
        self._overlays: list[tuple[Path, Path]] = []
        self._synced_times: dict[str, int] = {}
        self.locations: list[str] = []
        try:
            self.locations += [self._location(repository, changing) for repository in repositories]
            self.sync()
        except BaseException:
            self.close()
            raise

    def _location(self, repository: str, changing: bool) -> str:
        if repository.startswith(REMOTE):
            return repository
        source = Path(repository).absolute()
        check_repository(source)
        if not changing and all(map(_is_unchanged, model_folders(source)[0])):
            self._plain.append(source)
            return str(source)
        if self._root is None:
            self._root = Path(tempfile.mkdtemp(prefix="tnn-serving-"))
            (self._root / "staging").mkdir()
            (self._root / "trash").mkdir()
        target = self._root / f"repository{len(self._overlays)}"
        target.mkdir()
        self._overlays.append((source, target))
        return str(target)

    def sync(self) -> None:
        """Applies new, changed and removed models of the sources to the overlays. Unchanged models are not touched, so
        Triton's polling sees no change either."""
        self._synced_times = self._times()
        self.skipped = [item for source in self._plain for item in model_folders(source)[1]]
        for source, target in self._overlays:
            models, skipped = model_folders(source)
            self.skipped += skipped
            names = {model.name for model in models}
            for entry in list(target.iterdir()):
                if entry.name not in names:
                    self._remove(entry)
            for model in models:
                try:
                    self._sync_model(model, target / model.name)
                except ConfigError as error:
                    if (target / model.name).is_symlink():
                        self._remove(target / model.name)
                    self.skipped.append(Skipped(model, f"{CONFIG_FILE}: {error}"))
                except FileNotFoundError:
                    continue  # it is being removed; the next sync completes that
                except OSError as error:
                    self.skipped.append(Skipped(model, f"it cannot be read: {error.strerror}"))

    def changed(self) -> bool:
        """Whether models, versions or configurations have changed since the last :meth:`sync`.

        Cheap; does not see a second change within the same tick of the file system's clock.
        """
        return self._times() != self._synced_times

    def _times(self) -> dict[str, int]:
        """Modification times by path of the folders and configurations that the overlays depend on."""
        found: dict[str, int] = {}
        waiting = [(str(source), 0) for source, _ in self._overlays]
        while waiting:
            folder, depth = waiting.pop()
            with suppress(OSError):
                found[folder] = os.stat(folder).st_mtime_ns
                for entry in os.scandir(folder) if depth < DEPTH else ():
                    if entry.name == CONFIG_FILE:
                        found[entry.path] = entry.stat().st_mtime_ns
                    elif entry.is_dir():
                        waiting.append((entry.path, depth + 1))
        return found

    def _sync_model(self, model: Path, entry: Path) -> None:
        config = config_of(model)
        if config is None:
            if not (entry.is_symlink() and entry.readlink() == model):
                self._remove(entry)
                entry.symlink_to(model)
            return
        if entry.is_symlink() or not entry.exists():
            self._create(model, entry, config)
            return
        if config_text(entry) != config:
            self._replace(entry / CONFIG_FILE, config)
        _sync_links(model, entry)

    def _create(self, model: Path, entry: Path, config: bytes) -> None:
        # Created elsewhere and moved: Triton must not see an incomplete model.
        fresh = self._scratch_path("staging", entry.name)
        fresh.mkdir()
        (fresh / CONFIG_FILE).write_bytes(config)
        _sync_links(model, fresh)
        self._remove(entry)
        fresh.rename(entry)

    def _replace(self, file: Path, content: bytes) -> None:
        fresh = self._scratch_path("staging", CONFIG_FILE)
        fresh.write_bytes(content)
        fresh.replace(file)

    def _remove(self, entry: Path) -> None:
        if not entry.is_symlink() and not entry.exists():
            return
        gone = self._scratch_path("trash", entry.name)
        entry.rename(gone)
        self._delete(gone)

    def _scratch_path(self, folder: str, name: str) -> Path:
        """An unused path on the same file system, outside the repositories."""
        assert self._root is not None  # called only with an overlay
        path = self._root / folder / name
        self._delete(path)
        return path

    @staticmethod
    def _delete(path: Path) -> None:
        if path.is_symlink() or path.is_file():
            path.unlink()
        elif path.exists():
            shutil.rmtree(path)  # removes links, not their targets

    def with_source_paths(self, text: str) -> str:
        """``text`` with the paths of overlays replaced by those of the user's repositories."""
        for source, target in self._overlays:
            text = text.replace(str(target), str(source))
        return text

    def close(self) -> None:
        """Removes the temporary folder. Call it after the server has ended."""
        if self._root is not None:
            shutil.rmtree(self._root, ignore_errors=True)
            self._root = None
            self._overlays = []

    def __enter__(self) -> Overlay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, frames: TracebackType | None
    ) -> None:
        self.close()


def _sync_links(model: Path, entry: Path) -> None:
    """Synchronises the links in ``entry`` with the files and folders of ``model``, except config.pbtxt."""
    wanted = {path.name: path for path in model.iterdir() if path.name != CONFIG_FILE}
    for link in list(entry.iterdir()):
        if link.name != CONFIG_FILE and (link.name not in wanted or link.readlink() != wanted[link.name]):
            link.unlink()
    for name, path in wanted.items():
        if not (entry / name).is_symlink():
            (entry / name).symlink_to(path)
