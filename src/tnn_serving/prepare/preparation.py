"""Loads models that workers prepare: nothing of a stranger's files is read, translated or compiled in this process.

A worker has a time limit, a memory limit, and no more rights than the work needs. What it hands over is kept in a
folder, by its key: the next load of the same model opens it at once.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tnn_serving.analysis import Analysis
from tnn_serving.config.settings import ModelSettings
from tnn_serving.emit.limits import Limits, process_bytes
from tnn_serving.engines import ENGINES, Shapes
from tnn_serving.engines.base import Arrays
from tnn_serving.engines.cpu import available_cores
from tnn_serving.engines.store import FileStore
from tnn_serving.errors import ConfigError, EngineError, FormatError, WorkerError
from tnn_serving.formats.reading import unchanged
from tnn_serving.network.formats import FORMATS
from tnn_serving.network.int8 import processor
from tnn_serving.prepare.configuring import configure
from tnn_serving.prepare.folder import check_folder, leaves_batching_to_us
from tnn_serving.prepare.loaded import Loaded
from tnn_serving.prepare.model_version import ModelVersion
from tnn_serving.prepare.opened import PreparedNetwork, PreparedSession
from tnn_serving.prepare.prepared import EXECUTABLE, FILES, VALUE, Prepared, StoredArray, key_of
from tnn_serving.prepare.shared import SharedModels
from tnn_serving.prepare.warming import warm
from tnn_serving.private_folder import PrivateFolder
from tnn_serving.workers.confinement import MEANS, Confinement, library_paths
from tnn_serving.workers.pool import Workers

log = logging.getLogger(__name__)

TASKS = "tnn_serving.prepare.tasks"

PREPARED_STORE = "prepared"
"""The folder inside a cache folder."""


@dataclass(frozen=True, slots=True)
class _Kept:
    """A prepared model in a store, and the files that it was made from."""

    prepared: Prepared
    key: str
    store: FileStore
    source: _Source

    def executable(self, number: int) -> bytes:
        """An executable by its number. Raises EngineError if it is gone."""
        content = self.store.get(_compiled(self.key, number))
        if content is None:
            raise EngineError("a prepared executable is gone", found=_compiled(self.key, number), hint="load it again")
        return content


class _Source:
    """The files of a version as they are now, for as long as this object: a worker reads them, now and later.

    Args:
        version: the folder of the version.
        shown: the folder that texts name.
        within: the folder to make one in.
        limits: what is larger is no file of a model, and is not copied.

    Attributes:
        shown: as it was given.
        folder: described by :class:`~tnn_serving.prepare.tasks.Question`.
        files: the folder of the copies.
    """

    def __init__(self, version: Path, shown: Path, within: Path, limits: Limits) -> None:
        self.shown = shown
        self.folder = Path(tempfile.mkdtemp(dir=within, prefix="source-"))
        self._remove = weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        self.files = self.folder / FILES
        try:
            _copy(version, self.files, limits)
        except OSError as error:
            raise FormatError(f"the files of {version} cannot be copied: {error.strerror or error}") from error


class Preparation:
    """Loads models with the help of workers. One per process; :meth:`load` may be called from several threads.

    Attributes:
        yields: loads let other processes go first: there are requests to answer meanwhile.
        folder: what is kept for this process only.
        workers: that do the work.

    Args:
        tasks: further modules whose functions workers are going to run.
        python: the interpreter that workers run in; this one by default.
        shares: equal models are one session, which lives as long as one of its users; otherwise, each user closes its
            own.
    """

    def __init__(self, tasks: Sequence[str] = (), *, python: str | None = None, shares: bool = True) -> None:
        self._shares = shares
        self.yields = False
        self._in_force: tuple[str, ...] | None = None
        processor()  # decides what networks are compiled for, here and in workers
        needed = [module for one in FORMATS for module in one.modules]
        needed += [module for engine in ENGINES.usable() for module in engine.modules]
        modules = [TASKS, *tasks, *dict.fromkeys(needed)]
        self.workers = Workers(modules, available_cores().count, python=python)
        self._first_open = threading.Lock()
        self._has_opened = False
        self._shared: SharedModels[PreparedSession] = SharedModels()
        private = PrivateFolder()
        self.folder = private.path
        self._end = weakref.finalize(self, _end, self.workers, private)

    def close(self) -> None:
        """Ends the workers, and removes what was kept for this process only."""
        self._end()

    def load(self, version: ModelVersion) -> Loaded:
        """Loads a version; see :meth:`tnn_serving.serving.servable.Servable.open`.

        Raises LimitError too: the model needs more time or memory than it may.
        """
        kept, fresh = self._kept(version)
        try:
            return self._opened(version, kept)
        except EngineError as error:
            if fresh:
                raise
            log.warning("%s is prepared again: %s", version.name, error)
        kept.store.remove(f"{kept.key}.json")
        kept, _ = self._kept(version)
        return self._opened(version, kept)

    def prepare(self, version: ModelVersion) -> Prepared:
        """Prepares a version, if that has not been done, and opens nothing. Raises as :meth:`load`."""
        return self._kept(version)[0].prepared

    def _opened(self, version: ModelVersion, kept: _Kept) -> Loaded:
        prepared, settings = kept.prepared, version.settings
        analysis = prepared.analysed(kept.source.shown)
        config = prepared.completed(version.config)
        configured = configure(version.name, analysis, config, settings, completes=version.completes)
        opening = partial(self._open, kept, analysis, settings)
        session = self._shared.get(prepared.models_key, opening) if self._shares else opening()
        warm(session, configured)
        return Loaded(session, configured, prepared.joined_rows, prepared.seconds)

    def _kept(self, version: ModelVersion) -> tuple[_Kept, bool]:
        """The prepared model, and whether it has just been prepared."""
        settings, limits = version.settings, version.settings.limits()
        with unchanged(version.files):
            check_folder(version.folder, version.config, settings, version=version.number)
            source = _Source(version.files, version.shown or version.files, self.folder, limits)
        ours = version.completes and leaves_batching_to_us(version.folder, version.config)
        key = key_of(
            source.files, version.config, version.options, completes=version.completes, ours=ours, limits=limits
        )
        store = FileStore((settings.cache_dir or self.folder) / PREPARED_STORE)
        known = self._known(key, store, source)
        if known is not None:
            log.info("%s runs on %s; it was prepared earlier", version.name, known.prepared.choice.engine)
            for text in known.prepared.warnings:
                log.warning("%s", text)
            return known, False
        if settings.prepared_only:
            raise ConfigError(
                "the model has not been prepared for these files and settings, this processor and these versions",
                expected=f"{key}.json in {store.folder}",
                hint="run: tnn-serving prepare REPOSITORY --out FOLDER",
            )
        text = (
            "%s: a worker prepares it; nothing in %s is for its files and settings, this processor and these versions"
        )
        log.info(text, version.name, store.folder)
        order = {
            "name": version.name,
            "files": os.fspath(source.files),
            "config": version.config.to_json(),
            "completes": version.completes,
            "ours": ours,
            "options": dict(version.options),
        }
        return self._prepared(order, source, settings, key, store), True

    def _known(self, key: str, store: FileStore, source: _Source) -> _Kept | None:
        content = store.get(f"{key}.json")
        if content is None:
            return None
        try:
            prepared = Prepared.from_json(content)
        except FormatError as error:
            log.warning("%s", error)
            return None
        names = [_compiled(key, number) for number in range(1 + len(prepared.shapes))]
        return _Kept(prepared.placed(source.shown), key, store, source) if all(map(store.has, names)) else None

    def _prepared(
        self, order: Mapping[str, Any], source: _Source, settings: ModelSettings, key: str, store: FileStore
    ) -> _Kept:
        level = logging.getLogger("tnn_serving").getEffectiveLevel()
        with self.scratch() as out:
            arguments = {**order, "out": os.fspath(out), "log_level": level}
            try:
                self._run("prepare", arguments, source, out, settings)
            except WorkerError as error:
                log.warning("%s is prepared once more: %s", order["name"], error)
                self._run("prepare", arguments, source, out, settings)
            content = (out / VALUE).read_bytes()
            prepared = Prepared.from_json(content)
            files = {f"{EXECUTABLE}{number}": _compiled(key, number) for number in range(1 + len(prepared.shapes))}
            for one in (store, FileStore(self.folder / PREPARED_STORE)):
                # The value comes last: where it is, the executables are.
                stored = all(one.put(name, (out / file).read_bytes()) for file, name in files.items())
                if stored and one.put(f"{key}.json", content):
                    return _Kept(prepared.placed(source.shown), key, one, source)
        raise WorkerError("a prepared model cannot be stored", hint=f"make room in {self.folder}")

    def _open(self, kept: _Kept, analysis: Analysis, settings: ModelSettings) -> PreparedSession:
        (kept.source.folder / VALUE).write_bytes(kept.prepared.to_json())
        network = PreparedNetwork(kept.prepared, analysis, kept.executable, _Asked(self, kept.source, settings))
        with self._first_alone():
            session = PreparedSession(network, settings.shape_limits)
        if any(None in blob.known[1:] for blob in analysis.inputs):  # requests may wait for what a worker says
            self.workers.hold()
            weakref.finalize(session, self.workers.release)
        return session

    def ask(self, task: str, arguments: Mapping[str, Any], source: _Source, out: Path, settings: ModelSettings) -> Any:
        """What a worker answers at once that may read ``source`` and write to ``out``."""
        return self._run(task, arguments, source, out, settings, waits=False)

    def _run(
        self,
        task: str,
        arguments: Mapping[str, Any],
        source: _Source,
        out: Path,
        settings: ModelSettings,
        *,
        waits: bool = True,
    ) -> Any:
        confinement = Confinement(
            reads=(*real_places(source.folder), *library_paths()),
            writes=(out,),
            memory_bytes=process_bytes(settings.memory_limit_bytes),
        )
        timeout_s = settings.load_timeout_s or None
        task = f"{TASKS}:{task}"
        done = self.workers.run(
            task,
            arguments,
            confinement=confinement,
            timeout_s=timeout_s,
            waits=waits,
            yields=waits and self.yields,
            renamed=(os.fspath(source.files), os.fspath(source.shown)),
        )
        self._say_what_confines(done.in_force)
        return done.value

    def _say_what_confines(self, in_force: Sequence[str]) -> None:
        if self._in_force is not None:
            return
        self._in_force = tuple(in_force)
        log.info("workers are confined by: %s", ", ".join(in_force))
        missing = [means for means in MEANS if means not in in_force]
        if missing:
            log.warning("workers are not confined by %s: the kernel does not offer it", " and ".join(missing))

    @contextmanager
    def _first_alone(self) -> Iterator[None]:
        """Lets models be opened side by side only when one has been opened.

        Libraries set things up at their first use, and not all are ready for several threads doing that at once:
        OpenVINO's bindings fill C++ function statics with calls into Python, so that a thread which waits for such a
        static with the GIL and one that fills it and wants the GIL back wait for each other for ever.
        """
        if self._has_opened:
            yield
            return
        with self._first_open:
            yield
            self._has_opened = True  # not after an error: it may have come before the libraries were used

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A folder for what a worker writes."""
        with tempfile.TemporaryDirectory(dir=self.folder, prefix="out-", ignore_cleanup_errors=True) as out:
            yield Path(out)


class _Asked:
    """Asks workers about one prepared model."""

    def __init__(self, preparation: Preparation, source: _Source, settings: ModelSettings) -> None:
        self._preparation = preparation
        self._source = source
        self._settings = settings

    @property
    def memory_bytes(self) -> int:
        """What the network may need at one shape."""
        return self._settings.memory_limit_bytes

    def compiled(self, outputs: Sequence[str], fed: Sequence[str], shapes: Shapes | None, streams: int) -> bytes | None:
        """The network, compiled for more. Raises EngineError, LimitError."""
        with self._preparation.scratch() as out:
            question = {
                "outputs": list(outputs),
                "fed": list(fed),
                "shapes": None if shapes is None else {name: list(shape) for name, shape in shapes.items()},
                "streams": streams,
                "out": os.fspath(out),
            }
            return (out / f"{EXECUTABLE}0").read_bytes() if self._asked("compile_more", question, out) else None

    def memory_at(self, shapes: Mapping[str, Sequence[int]], fed: Sequence[str], values: Arrays) -> int:
        """The memory in bytes that the network needs at other shapes. Raises ShapeError, LimitError."""
        with self._preparation.scratch() as out:
            question = {
                "outputs": [],
                "fed": list(fed),
                "shapes": {name: list(shape) for name, shape in shapes.items()},
                "values": {name: asdict(StoredArray.of(array)) for name, array in values.items()},
            }
            return int(self._asked("answer_shapes", question, out))

    def _asked(self, task: str, question: Mapping[str, Any], out: Path) -> Any:
        facts = {"source": os.fspath(self._source.folder), "memory_bytes": self.memory_bytes}
        return self._preparation.ask(task, {**facts, **question}, self._source, out, self._settings)


def _end(workers: Workers, private: PrivateFolder) -> None:
    workers.close()
    private.close()


def _compiled(key: str, number: int) -> str:
    return f"{key}.{number}"


def real_places(folder: Path) -> list[Path]:
    """A folder, and where the links in it lead."""
    found = {os.path.realpath(folder)}
    for place, folders, files in os.walk(folder, followlinks=True):
        paths = (os.path.join(place, name) for name in (*folders, *files))
        found |= {os.path.realpath(path) for path in paths if os.path.islink(path)}
    return sorted(map(Path, found))


def _copy(version: Path, to: Path, limits: Limits) -> None:
    """Copies the files of a version, links followed. What cannot be read to its end, or is larger than the memory for
    the model, is a link in the copy: the worker says what is wrong with it."""
    for place, _, names in os.walk(version, followlinks=True):
        inside = to / Path(place).relative_to(version)
        inside.mkdir()
        for name in names:
            file = Path(place, name)
            if file.is_file() and (limits.memory_bytes is None or file.stat().st_size <= limits.memory_bytes):
                shutil.copyfile(file, inside / name)
            else:
                (inside / name).symlink_to(file.absolute())
