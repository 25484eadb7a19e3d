"""What Triton is shown of repositories: folders in which only the models' own files are.

Each model gets a folder with its ``config.pbtxt``, to which the line ``backend: "tnn"`` is added where it is missing,
with copies of its label files, and with links to its other files. A folder that contains code, or is of another
backend, is not shown (:mod:`tnn_serving.own_files`). Models of allowed backends are linked as they are.

Triton gives up a whole repository, and unloads all of its models, when an entry vanishes between its listing and its
look at it. So the entry of a model is a link, and the link of a model that is gone is replaced, in one step, by an
empty file, which Triton ignores.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import TracebackType

from tnn_serving.config.model_config import CONFIG_FILE
from tnn_serving.config.text import config_text
from tnn_serving.errors import TnnError
from tnn_serving.formats.reading import read_file
from tnn_serving.own_files import LABEL_FILE, check_own_files, declaration_of, entries, foreign_backend
from tnn_serving.private_folder import PrivateFolder
from tnn_serving.repository import BACKEND_LINE, Skipped, check_repository, model_folders
from tnn_serving.triton.launch import is_remote

SCRATCH = ("files", "folders", "models", "trash")
"""Folders for what is made, and then moved into its place, and for what is removed."""

DEPTH = 2
"""Levels of folders in a repository: models, versions."""


def config_of(model: Path) -> bytes:
    """The content of ``config.pbtxt`` that Triton is shown of a model of ours, or of an ensemble.

    Raises ConfigError for a configuration that cannot be read, or that Triton must not read: it is too large.
    """
    text, config = config_text(model), declaration_of(model)
    if config.backend or config.is_ensemble:
        return text
    return text + b"\n" + BACKEND_LINE if text else BACKEND_LINE


@dataclass(frozen=True, slots=True)
class _Shown:
    """A repository that Triton is shown.

    Attributes:
        source: the user's folder.
        location: what Triton is given: a link for each model.
        folders: where the links lead.
    """

    source: Path
    location: Path
    folders: Path


@dataclass(frozen=True, slots=True)
class _Content:
    """The content of a folder by the paths in it.

    Attributes:
        folders: all of them.
        links: and where they lead.
        written: files that Triton itself reads, which are those that have been looked at: their contents, or what they
            are copies of.
    """

    folders: set[str]
    links: dict[str, Path]
    written: dict[str, Path | bytes]

    @property
    def files(self) -> set[str]:
        return {*self.links, *self.written}

    def below(self, folder: str) -> _Content:
        """The part inside a folder."""
        start = f"{folder}/"
        return _Content(
            {name.removeprefix(start) for name in self.folders if name.startswith(start)},
            {name.removeprefix(start): target for name, target in self.links.items() if name.startswith(start)},
            {name.removeprefix(start): data for name, data in self.written.items() if name.startswith(start)},
        )

    def without(self, folders: Collection[str]) -> _Content:
        """The part outside of some folders at the top."""

        def stays(name: str) -> bool:
            return name.partition("/")[0] not in folders

        return _Content(
            set(filter(stays, self.folders)),
            {name: target for name, target in self.links.items() if stays(name)},
            {name: data for name, data in self.written.items() if stays(name)},
        )


class Overlay:
    """The repositories of one server as Triton is shown them, synchronised with the sources.

    Args:
        repositories: folders and remote locations; Triton fetches the latter by itself, and nothing is kept from it.
        allowed: further backends, whose models may bring code.

    Raises:
        ServerError: a folder is missing, or is a model instead of a repository.

    Attributes:
        locations: what to pass to Triton, in the order of ``repositories``.
        skipped: folders that are not models, as of the last :meth:`sync`.
        refused: model folders that are not shown, likewise.
    """

    def __init__(self, repositories: Sequence[str], *, allowed: Collection[str] = ()) -> None:
        self.skipped: list[Skipped] = []
        self.refused: list[Skipped] = []
        self._allowed = frozenset(allowed)
        self._syncing = threading.Lock()
        self._shown: list[_Shown] = []
        self._synced_times: dict[str, int] = {}
        self.locations: list[str] = []
        self._private = PrivateFolder()
        self._root = self._private.path
        try:
            for name in SCRATCH:
                (self._root / name).mkdir()
            self.locations += map(self._location, repositories)
            self.sync()
        except BaseException:
            self.close()
            raise

    def _location(self, repository: str) -> str:
        if is_remote(repository):
            return repository
        source = Path(repository).absolute()
        check_repository(source)
        number = len(self._shown)
        shown = _Shown(source, self._root / f"repository{number}", self._root / f"shown{number}")
        shown.location.mkdir()
        shown.folders.mkdir()
        self._shown.append(shown)
        return str(shown.location)

    def sync(self, *, withdraws: bool = False) -> None:
        """Applies new, changed and removed models of the sources. Unchanged models are not touched, so Triton's polling
        sees no change either. May be called from several threads.

        Args:
            withdraws: a model that is shown is not shown any more when its folder is refused, so that a request to load
                it is refused. Otherwise it stays as it was: Triton's polling would unload it.
        """
        with self._syncing:
            self._sync(withdraws)

    def _sync(self, withdraws: bool) -> None:
        self._synced_times = self._times()
        self.skipped, self.refused = [], []
        for shown in self._shown:
            models, skipped = model_folders(shown.source)
            self.skipped += skipped
            names = {model.name for model in models}
            for entry in list(shown.location.iterdir()):
                if entry.is_symlink() and entry.name not in names:
                    self._remove(shown, entry.name)
            for model in models:
                try:
                    self._sync_model(model, shown)
                except FileNotFoundError:
                    continue  # it is being removed; the next sync completes that
                except (TnnError, OSError) as error:
                    reason = str(error) if isinstance(error, TnnError) else f"it cannot be read: {error.strerror}"
                    self.refused.append(Skipped(model, reason))
                    if withdraws and (shown.location / model.name).is_symlink():
                        self._remove(shown, model.name)

    def changed(self) -> bool:
        """Whether models, versions or configurations have changed since the last :meth:`sync`.

        Cheap; does not see a second change within the same tick of the file system's clock.
        """
        return self._times() != self._synced_times

    def _times(self) -> dict[str, int]:
        """Modification times by path of the folders and configurations that the overlays depend on."""
        found: dict[str, int] = {}
        waiting = [(str(shown.source), 0) for shown in self._shown]
        while waiting:
            folder, depth = waiting.pop()
            with suppress(OSError):
                found[folder] = os.stat(folder).st_mtime_ns
                for entry in os.scandir(folder) if depth < DEPTH else ():
                    if entry.name == CONFIG_FILE:
                        found[entry.path] = entry.stat().st_mtime_ns
                    elif os.path.isdir(entry.path):
                        waiting.append((entry.path, depth + 1))
        return found

    def _sync_model(self, model: Path, shown: _Shown) -> None:
        check_own_files(model, allowed=self._allowed)
        wanted = _content_of(model)
        folder, entry = shown.folders / model.name, shown.location / model.name
        if entry.is_symlink():
            self._update(folder, wanted)
            _set_times(folder, model, wanted)
            return
        fresh = self._scratch_path("models", model.name)
        fresh.mkdir()
        self._fill(fresh, wanted)
        _set_times(fresh, model, wanted)
        self._delete(folder)
        fresh.rename(folder)
        self._link(folder, entry)

    def _update(self, folder: Path, wanted: _Content) -> None:
        """Makes a folder hold this, and nothing else. A folder in it that is new appears in one step."""
        for place in list(folder.rglob("*")):
            name = place.relative_to(folder).as_posix()
            is_real = place.is_dir() and not place.is_symlink()
            if os.path.lexists(place) and name not in (wanted.folders if is_real else wanted.files):
                gone = self._scratch_path("trash", place.name)
                place.rename(gone)
                self._delete(gone)
        new = {name for name in wanted.folders if "/" not in name and not (folder / name).is_dir()}
        for name in new:
            fresh = self._scratch_path("folders", name)
            fresh.mkdir()
            self._fill(fresh, wanted.below(name))
            fresh.rename(folder / name)
        self._fill(folder, wanted.without(new))

    def _fill(self, folder: Path, wanted: _Content) -> None:
        for name in sorted(wanted.folders):
            (folder / name).mkdir(exist_ok=True)
        for name, target in wanted.links.items():
            if not ((folder / name).is_symlink() and (folder / name).readlink() == target):
                self._link(target, folder / name)
        for name, content in wanted.written.items():
            self._write(folder / name, content)

    def _write(self, file: Path, content: Path | bytes) -> None:
        """Writes a file in one step unless it is the same already. A copy has the time of what it was made of."""
        if isinstance(content, Path):
            facts = content.stat()
            if file.exists():
                known = file.stat()
                if (known.st_size, known.st_mtime_ns) == (facts.st_size, facts.st_mtime_ns):
                    return
            data, time_ns = read_file(content, LABEL_FILE), facts.st_mtime_ns
        elif file.exists() and file.read_bytes() == content:
            return
        else:
            data, time_ns = content, None
        fresh = self._scratch_path("files", file.name)
        fresh.write_bytes(data)
        if time_ns is not None:
            os.utime(fresh, ns=(time_ns, time_ns))
        fresh.replace(file)

    def _link(self, target: Path, link: Path) -> None:
        """Makes a link, in one step also where something else is."""
        fresh = self._scratch_path("files", link.name)
        fresh.symlink_to(target)
        fresh.replace(link)

    def _remove(self, shown: _Shown, name: str) -> None:
        fresh = self._scratch_path("files", name)
        fresh.touch()
        fresh.replace(shown.location / name)
        self._delete(shown.folders / name)

    def _scratch_path(self, folder: str, name: str) -> Path:
        """An unused path on the same file system, outside the repositories."""
        path = self._root / folder / name
        self._delete(path)
        return path

    @staticmethod
    def _delete(path: Path) -> None:
        if path.is_symlink() or path.is_file():
            path.unlink()
        elif path.exists():
            shutil.rmtree(path)  # removes links, not their targets

    @property
    def folders(self) -> list[str]:
        """Where the repositories are: the user's, and what Triton is shown."""
        return [str(place) for shown in self._shown for place in (shown.location, shown.folders, shown.source)]

    def with_source_paths(self, text: str) -> str:
        """``text`` with the user's paths instead of those that the server has."""
        for shown in self._shown:
            for ours in (shown.location, shown.folders):
                text = text.replace(str(ours), str(shown.source))
        return text

    def close(self) -> None:
        """Removes the temporary folder. Call it after the server has ended."""
        self._private.close()
        self._shown = []

    def __enter__(self) -> Overlay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, frames: TracebackType | None
    ) -> None:
        self.close()


def _set_times(folder: Path, model: Path, content: _Content) -> None:
    """Gives folders the times of those that they show: a file may have been replaced by an older one, and nothing else
    of that is seen through a link."""
    for name in ("", *content.folders):
        wanted = (model / name).stat().st_mtime_ns
        if (folder / name).stat().st_mtime_ns != wanted:
            os.utime(folder / name, ns=(wanted, wanted))


def _content_of(model: Path) -> _Content:
    """What Triton is shown of a model."""
    config = declaration_of(model)
    if foreign_backend(model, config) is not None:
        return _Content(set(), {path.name: path for path in model.iterdir()}, {})
    labels = {str(PurePosixPath(label)) for label in config.labels if (model / label).is_file()}
    everything = list(entries(model))
    return _Content(
        folders={name for name, _, is_folder in everything if is_folder},
        links={
            name: place
            for name, place, is_folder in everything
            if not is_folder and name != CONFIG_FILE and name not in labels
        },
        written={CONFIG_FILE: config_of(model), **{label: model / label for label in sorted(labels)}},
    )
