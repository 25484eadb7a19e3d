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

from tnn_serving.config.model_config import ModelConfig
from tnn_serving.config.reading import CommandLine, read_settings
from tnn_serving.config.settings import ModelSettings
from tnn_serving.emit.limits import process_bytes
from tnn_serving.engines import ENGINES, Shapes
from tnn_serving.engines.base import Arrays
from tnn_serving.engines.cpu import available_cores
from tnn_serving.engines.store import FileStore
from tnn_serving.errors import ConfigError, EngineError, FormatError, TnnError, WorkerError
from tnn_serving.network.formats import FORMATS
from tnn_serving.network.int8 import processor
from tnn_serving.prepare.configuring import configure
from tnn_serving.prepare.loaded import Loaded
from tnn_serving.prepare.manifest import check_manifest
from tnn_serving.prepare.opened import PreparedNetwork, PreparedSession
from tnn_serving.prepare.prepared import Prepared, StoredArray, key_of
from tnn_serving.prepare.shared import SharedModels
from tnn_serving.prepare.side_files import check_side_files
from tnn_serving.prepare.warming import warm
from tnn_serving.workers.confinement import MEANS, Confinement, library_paths
from tnn_serving.workers.pool import Workers

log = logging.getLogger(__name__)

TASKS = "tnn_serving.prepare.tasks"

STORE = "prepared"
"""The folder inside a cache folder."""


PREFIX = "tnn-serving-prepared-"
"""What the name of a folder begins with that is one process' own; the number of the process follows."""


@dataclass(frozen=True, slots=True)
class _Kept:
    """A prepared model in a store."""

    prepared: Prepared
    key: str
    store: FileStore

    def executable(self, number: int) -> bytes:
        """An executable by its number. Raises EngineError if it is gone."""
        content = self.store.get(_compiled(self.key, number))
        if content is None:
            raise EngineError("a prepared executable is gone", found=_compiled(self.key, number), hint="load it again")
        return content


class Preparation:
    """Loads models with the help of workers. One per process; :meth:`load` may be called from several threads.

    Attributes:
        yields: loads let other processes go first: there are requests to answer meanwhile.
        folder: what is kept for this process only.
        workers: that do the work.

    Args:
        tasks: further modules whose functions workers are going to run.
        python: the interpreter that workers run in; this one by default.
    """

    def __init__(self, tasks: Sequence[str] = (), *, python: str | None = None) -> None:
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
        _remove_those_of_the_dead()
        self.folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))
        self._remove = weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)

    def close(self) -> None:
        """Ends the workers, and removes what was kept for this process only."""
        self.workers.close()
        self._remove()

    def load(
        self,
        name: str,
        folder: Path,
        config: ModelConfig,
        *,
        version: int,
        completes: bool = True,
        options: CommandLine | None = None,
    ) -> Loaded:
        """Loads ``folder/<version>``; see :meth:`tnn_serving.serving.servable.Servable.open`.

        Raises LimitError too: the model needs more time or memory than it may.
        """
        settings = read_settings(config, options or {})
        kept, fresh = self._kept(name, folder, config, settings, version, completes, options or {})
        try:
            return self._opened(name, folder, config, settings, version, completes, kept)
        except EngineError as error:
            if fresh:
                raise
            log.warning("%s is prepared again: %s", name, error)
        kept.store.remove(f"{kept.key}.json")
        kept, _ = self._kept(name, folder, config, settings, version, completes, options or {})
        return self._opened(name, folder, config, settings, version, completes, kept)

    def prepare(
        self,
        name: str,
        folder: Path,
        config: ModelConfig,
        *,
        version: int,
        completes: bool = True,
        options: CommandLine | None = None,
    ) -> Prepared:
        """Prepares ``folder/<version>``, if that has not been done, and opens nothing. Raises as :meth:`load`."""
        settings = read_settings(config, options or {})
        return self._kept(name, folder, config, settings, version, completes, options or {})[0].prepared

    def _opened(
        self,
        name: str,
        folder: Path,
        config: ModelConfig,
        settings: ModelSettings,
        version: int,
        completes: bool,
        kept: _Kept,
    ) -> Loaded:
        prepared = kept.prepared
        configured = configure(name, prepared.analysed(), prepared.completed(config), settings, completes=completes)
        make = partial(self._open, kept, folder / str(version), settings)
        session = self._shared.get(prepared.models_key, make)
        warm(session, configured)
        return Loaded(session, configured, prepared.joined_rows, prepared.seconds)

    def _kept(
        self,
        name: str,
        folder: Path,
        config: ModelConfig,
        settings: ModelSettings,
        version: int,
        completes: bool,
        options: CommandLine,
    ) -> tuple[_Kept, bool]:
        """The prepared model, and whether it has just been prepared."""
        limits = settings.limits()
        check_side_files(folder, config, limits)
        check_manifest(folder, version=version, required=settings.require_manifest)
        key = key_of(folder, version, config, options, completes=completes, limits=limits)
        store = FileStore((settings.cache_dir or self.folder) / STORE)
        known = self._known(key, store)
        if known is not None:
            log.info("%s runs on %s; it was prepared earlier", name, known.prepared.choice.engine)
            for text in known.prepared.warnings:
                log.warning("%s", text)
            return known, False
        if settings.prepared_only:
            raise ConfigError(
                "the model has not been prepared for these files and settings, this processor and these versions",
                expected=f"{key}.json in {store.folder}",
                hint="run: tnn-serving prepare REPOSITORY --out FOLDER",
            )
        order = {
            "name": name,
            "folder": os.fspath(folder.absolute()),
            "version": version,
            "config": config.to_json(),
            "completes": completes,
            "options": dict(options),
        }
        return self._prepared(order, folder, settings, key, store), True

    def _known(self, key: str, store: FileStore) -> _Kept | None:
        content = store.get(f"{key}.json")
        if content is None:
            return None
        try:
            prepared = Prepared.from_json(content)
        except FormatError as error:
            log.warning("%s", error)
            return None
        names = [_compiled(key, number) for number in range(1 + len(prepared.shapes))]
        return _Kept(prepared, key, store) if all(map(store.has, names)) else None

    def _prepared(
        self, order: Mapping[str, Any], folder: Path, settings: ModelSettings, key: str, store: FileStore
    ) -> _Kept:
        level = logging.getLogger("tnn_serving").getEffectiveLevel()
        with self.scratch() as out:
            arguments = {**order, "out": os.fspath(out), "log_level": level}
            try:
                self._run("prepare", arguments, folder, out, settings)
            except WorkerError as error:
                log.warning("%s is prepared once more: %s", order["name"], error)
                self._run("prepare", arguments, folder, out, settings)
            content = (out / "prepared.json").read_bytes()
            prepared = Prepared.from_json(content)
            files = {f"compiled{number}": _compiled(key, number) for number in range(1 + len(prepared.shapes))}
            for one in (store, FileStore(self.folder / STORE)):
                # The value comes last: where it is, the executables are.
                stored = all(one.put(name, (out / file).read_bytes()) for file, name in files.items())
                if stored and one.put(f"{key}.json", content):
                    return _Kept(prepared, key, one)
        raise WorkerError("a prepared model cannot be stored", hint=f"make room in {self.folder}")

    def _open(self, kept: _Kept, version: Path, settings: ModelSettings) -> PreparedSession:
        source = Path(tempfile.mkdtemp(dir=self.folder, prefix="source-"))
        (source / "prepared.json").write_bytes(kept.prepared.to_json())
        _keep(version, source / "files")
        questions = _Asked(self, version, source, settings)
        network = PreparedNetwork(kept.prepared, kept.executable, questions)
        with self._first_alone():
            session = PreparedSession(network, settings.shape_limits)
        if any(None in blob.known[1:] for blob in session.analysis.inputs):  # requests may wait for what a worker says
            self.workers.hold()
            weakref.finalize(session, self.workers.release)
        weakref.finalize(session, shutil.rmtree, source, ignore_errors=True)
        return session

    def ask(self, task: str, arguments: Mapping[str, Any], source: Path, out: Path, settings: ModelSettings) -> Any:
        """What a worker answers at once that may read ``source`` and write to ``out``."""
        return self._run(task, arguments, source, out, settings, waits=False)

    def _run(
        self,
        task: str,
        arguments: Mapping[str, Any],
        source: Path,
        out: Path,
        settings: ModelSettings,
        *,
        waits: bool = True,
    ) -> Any:
        confinement = Confinement(
            reads=(*real_places(source), *library_paths()),
            writes=(out,),
            memory_bytes=process_bytes(settings.memory_limit_bytes),
        )
        timeout_s = settings.load_timeout_s or None
        task = f"{TASKS}:{task}"
        return self.workers.run(
            task, arguments, confinement=confinement, timeout_s=timeout_s, waits=waits, yields=waits and self.yields
        ).value

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
    """Asks workers about one prepared model; ``source`` is the folder that :class:`Question` describes."""

    def __init__(self, preparation: Preparation, version: Path, source: Path, settings: ModelSettings) -> None:
        self._preparation = preparation
        self._version = version
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
            return (out / "compiled0").read_bytes() if self._asked("compile_more", question, out) else None

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
        facts = {"source": os.fspath(self._source), "memory_bytes": self.memory_bytes}
        try:
            return self._preparation.ask(task, {**facts, **question}, self._source, out, self._settings)
        except TnnError as error:
            kept, shown = os.fspath(self._source / "files"), os.fspath(self._version)
            error.where = tuple(step.replace(kept, shown) for step in error.where)
            error.problem = error.problem.replace(kept, shown)
            raise


def _remove_those_of_the_dead() -> None:
    """Removes the folders of processes that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*-*"):
        pid = folder.name.removeprefix(PREFIX).partition("-")[0]
        if pid.isdecimal() and not Path("/proc", pid).exists():
            shutil.rmtree(folder, ignore_errors=True)


def _compiled(key: str, number: int) -> str:
    return f"{key}.{number}"


def real_places(folder: Path) -> list[Path]:
    """A folder, and where the links in it lead."""
    found = {os.path.realpath(folder)}
    for place, folders, files in os.walk(folder, followlinks=True):
        paths = (os.path.join(place, name) for name in (*folders, *files))
        found |= {os.path.realpath(path) for path in paths if os.path.islink(path)}
    return sorted(map(Path, found))


def _keep(version: Path, to: Path) -> None:
    """Keeps the files of a version as they are now: by another name for each, or a copy on another file system."""
    for place, _, names in os.walk(version, followlinks=True):
        inside = to / Path(place).relative_to(version)
        inside.mkdir(exist_ok=True)
        for name in names:
            file = Path(place, name)
            if not file.is_file():
                continue
            try:
                os.link(file.resolve(), inside / name)
            except OSError:
                shutil.copyfile(file, inside / name)
