"""A temporary server in the background of this process, and a temporary repository with one model."""

from __future__ import annotations

import os
import shutil
import socket
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

from tnn_serving.formats.candidates import versions
from tnn_serving.network.formats import format_at
from tnn_serving.private_folder import PrivateFolder
from tnn_serving.triton.index import ServedModel
from tnn_serving.triton.launch import build_launch
from tnn_serving.triton.overlay import Overlay
from tnn_serving.triton.supervise import Callbacks, Restarts, Supervisor


class BackgroundServer:
    """A supervised server on free ports of 127.0.0.1. It stops at the end of the context.

    Args:
        repository: folder of model folders.
        flags: further flags of tritonserver.
        on_log: called with each line of the server's log.

    Raises:
        ServerError: the server does not start, or no model can be loaded.
    """

    def __init__(
        self, repository: Path, flags: Sequence[str] = (), on_log: Callable[[str], None] = lambda line: None
    ) -> None:
        http_port, grpc_port, metrics_port = free_ports(3)
        self.http_url, self.grpc_url = f"http://127.0.0.1:{http_port}", f"grpc://127.0.0.1:{grpc_port}"
        self._failure: BaseException | None = None
        self._settled = threading.Event()
        self._overlay = Overlay([str(repository)])
        try:
            launch = build_launch(
                self._overlay.locations,
                http_port=http_port,
                grpc_port=grpc_port,
                metrics_port=metrics_port,
                exit_timeout_s=1,
                flags=flags,
            )
            callbacks = Callbacks(on_log=on_log, on_ready=self._ready)
            self._supervisor = Supervisor(launch, self._overlay, callbacks, Restarts(limit=0))
            self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)
            self._thread.start()
        except BaseException:
            self._overlay.close()
            raise
        try:
            self._settled.wait()
        except KeyboardInterrupt:
            self.close()
            raise
        if self._failure is not None:
            self.close()
            raise self._failure

    def _run(self) -> None:
        try:
            self._supervisor.run()
        except BaseException as error:
            self._failure = error
        finally:
            self._settled.set()

    def _ready(self, models: Sequence[ServedModel]) -> None:
        self._settled.set()

    @property
    def pid(self) -> int | None:
        """Process id of the server."""
        return self._supervisor.pid

    def sync(self) -> None:
        """Shows the server what has changed in the repository."""
        self._overlay.sync()

    def close(self) -> None:
        """Stops the server and waits until it has ended."""
        self._supervisor.stop()
        self._thread.join()
        self._overlay.close()

    def __enter__(self) -> BackgroundServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class SingleModelRepository:
    """A temporary repository with links to one model. It is removed at the end of the context.

    Args:
        model: a model folder with its versions, a version folder, or the first file of a model.

    Raises:
        FormatError: it is none of these.

    Attributes:
        repository: the folder to serve.
        name: under which the model is served.
    """

    def __init__(self, model: Path) -> None:
        source = model.resolve()
        self._private = PrivateFolder()
        self.repository = self._private.path / "repository"
        self.repository.mkdir()
        try:
            self.name = self._link(source)
        except BaseException:
            self.close()
            raise

    def _link(self, source: Path) -> str:
        if source.is_file():
            one, _ = format_at(source)
            usual = source.name.lower() in one.usual
            holder = source.parent.parent if usual and source.parent.name.isdecimal() else source.parent
            name = holder.name if usual else source.stem
            folder = self.repository / name / "1"
            folder.mkdir(parents=True)
            files = one.files(source)
            for file, link in zip(files, one.usual, strict=False):
                (folder / link).symlink_to(file)
            for file in files[len(one.usual) :]:  # the model names them by their places beside it
                link_to = folder / file.relative_to(source.parent)
                link_to.parent.mkdir(parents=True, exist_ok=True)
                link_to.symlink_to(file)
            return name
        if versions(source):
            (self.repository / source.name).symlink_to(source)
            return source.name
        if not source.name.isdecimal():
            (self.repository / source.name).mkdir()
            (self.repository / source.name / "1").symlink_to(source)
            return source.name
        folder = self.repository / source.parent.name
        folder.mkdir()
        others = versions(source.parent)
        for entry in source.parent.iterdir():
            if entry == source or (entry not in others and entry.is_dir()):
                (folder / entry.name).symlink_to(entry)
            elif entry not in others:
                _keep_inside(entry, folder / entry.name)
        return folder.name

    def close(self) -> None:
        """Removes the links."""
        self._private.close()

    def __enter__(self) -> SingleModelRepository:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _keep_inside(file: Path, to: Path) -> None:
    """Keeps a file of a model folder by another name, or a copy of it on another file system: a label file must not be
    a link out of the folder. What is such a link already remains one."""
    if not file.resolve().is_relative_to(file.parent) or not file.is_file():
        to.symlink_to(file)
        return
    try:
        os.link(file.resolve(), to)
    except OSError:
        shutil.copyfile(file, to)


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nothing listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(server.getsockname()[1]) for server in sockets]
    for server in sockets:
        server.close()
    return ports
