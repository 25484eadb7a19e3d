"""Finds tritonserver and libpython, and builds the command line and environment of a server.

This module starts nothing; :mod:`tnn_serving.triton.supervise` does. tritonserver comes from the wheel
``nvidia-pytriton``, of which only the binary is used, or from a separate installation. libpython is the shared library
of the Python that runs this code: the backend loads it into the server.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import platform
import shutil
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tnn_serving.errors import ServerError, located
from tnn_serving.triton.flags import CLOSED, check_flags, flag_values, flags_of, is_true

SERVER_REQUIREMENT = "nvidia-pytriton==0.7.0"
"""The wheel with tritonserver 2.51.0. It is installed with ``--no-deps``: only unused parts of it need numpy < 2."""

WHEEL_GLIBC = (2, 35)
"""The oldest glibc that the wheel supports (its tag is manylinux_2_35)."""

BACKENDS = Path(__file__).parent / "backends"
BACKEND_LIBRARY = BACKENDS / "tnn" / "libtriton_tnn.so"
LOAD_GUARD = Path(__file__).parent / "guard" / "load_guard.so"
"""Loaded into tritonserver before its own libraries: refuses load requests that bring a configuration or files, and
names that lead out of the repository. tritonserver has no option for either."""

REMOTE = ("s3://", "gs://", "as://")
"""Repositories that Triton fetches by itself."""

TOKEN_VARIABLE = "TNN_ADMIN_TOKEN"
NOT_INHERITED = (TOKEN_VARIABLE, "AIP_")
"""Beginnings of the names of variables that tritonserver does not get. Those of Vertex AI make it serve that endpoint
in place of its own."""
CLOUD_VARIABLES = ("AWS_", "AZURE_", "GOOGLE_", "TRITON_AWS_", "TRITON_CLOUD_CREDENTIAL_PATH")
"""Beginnings of the names of variables with secrets for :data:`REMOTE` repositories."""

log = logging.getLogger(__name__)


def install_command(python: str = sys.executable) -> list[str]:
    """The command that installs tritonserver into the environment of ``python``."""
    return [python, "-m", "pip", "install", "--no-deps", SERVER_REQUIREMENT]


# ---- tritonserver ----


def find_tritonserver(path: Path | None = None) -> Path:
    """The tritonserver executable: ``path``, or from the wheel in this environment, or on PATH.

    Raises:
        ServerError: there is none, it is not executable, or the wheel does not support this system.
    """
    if path is not None:
        if not os.access(path, os.X_OK) or path.is_dir():
            raise ServerError("no executable tritonserver at this path", expected="an executable file", found=path)
        return path.absolute()
    in_wheel = _wheel_tritonserver()
    if in_wheel is not None:
        check_wheel_platform()
        return in_wheel
    for candidate in (shutil.which("tritonserver"), "/opt/tritonserver/bin/tritonserver"):
        if candidate is not None and os.access(candidate, os.X_OK):
            return Path(candidate)
    raise ServerError(
        "tritonserver is not installed in this environment",
        hint=f"run: tnn-serving install-server, which runs: python {' '.join(install_command()[1:])}",
    )


def _wheel_tritonserver() -> Path | None:
    spec = importlib.util.find_spec("pytriton")  # without an import, which needs the package's dependencies
    for folder in (spec.submodule_search_locations or []) if spec else []:
        candidate = Path(folder) / "tritonserver" / "bin" / "tritonserver"
        if os.access(candidate, os.X_OK):
            return candidate
    return None


def check_wheel_platform() -> None:
    """Checks that the wheel supports this system.

    Raises:
        ServerError: another machine type, another C library, or a glibc that is too old.
    """
    expected = f"Linux on x86-64 with glibc {'.'.join(map(str, WHEEL_GLIBC))} or later"
    hint = (
        "use a newer system (Ubuntu 22.04, Debian 12, RHEL 10 or later), or a Triton container with the path of its "
        "tritonserver in --tritonserver"
    )
    library, version = platform.libc_ver()
    found = f"{platform.system()} on {platform.machine()} with {library or 'an unknown C library'} {version}".strip()
    suits = platform.system() == "Linux" and platform.machine() == "x86_64" and library == "glibc"
    if not suits or _numbers(version) < WHEEL_GLIBC:
        raise ServerError(
            f"the tritonserver of {SERVER_REQUIREMENT} cannot run here", expected=expected, found=found, hint=hint
        )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


# ---- libpython ----


def find_libpython() -> Path:
    """The shared library of the running Python.

    A library of another installation of the same X.Y is used only if there is no other choice, since its built-in
    modules may differ from this Python's standard library.

    Raises:
        ServerError: there is none; the hint states what to install.
    """
    wanted = ".".join(map(str, sys.version_info[:3]))
    other: Path | None = None
    for path, ours in _libpython_candidates():
        if not path.is_file():
            continue
        if ours or _libpython_version(path) == wanted:
            return path
        other = other or path
    if other is not None:
        log.warning("%s is of Python %s, not %s; it will probably work", other, _libpython_version(other), wanted)
        return other
    short = ".".join(map(str, sys.version_info[:2]))
    raise ServerError(
        "this Python has no shared library, which tritonserver needs to run Python",
        expected=_libpython_name(),
        found=f"none in {sys.base_prefix} or in the system's library folders",
        hint=f"Debian, Ubuntu: apt install libpython{short}; "
        f"pyenv: PYTHON_CONFIGURE_OPTS=--enable-shared pyenv install {wanted}",
    )


def _libpython_name() -> str:
    return f"libpython{sysconfig.get_config_var('LDVERSION')}.so.1.0"


def _libpython_candidates() -> Iterator[tuple[Path, bool]]:
    """Possible paths (sysconfig names files that may not exist), and whether each is certainly of this installation."""
    name = _libpython_name()
    folder, file = sysconfig.get_config_var("LIBDIR"), str(sysconfig.get_config_var("INSTSONAME"))
    prefix = Path(sys.base_prefix)
    if folder and ".so" in file:
        yield Path(folder) / file, Path(folder).is_relative_to(prefix)
    yield prefix / "lib" / name, True
    multiarch = sysconfig.get_config_var("MULTIARCH") or f"{platform.machine()}-linux-gnu"
    for system in (f"/usr/lib/{multiarch}", f"/lib/{multiarch}", "/usr/local/lib", "/usr/lib64", "/usr/lib"):
        yield Path(system) / name, False
    server = _wheel_tritonserver()
    if server is not None and sys.version_info[:2] == (3, 13):
        bundled = server.parents[3] / "nvidia_pytriton.libs"
        for path in sorted(bundled.glob("libpython3-*.13.so.1.0")):
            yield path, False


def _libpython_version(path: Path) -> str:
    """Like "3.11.7". The library is loaded in a separate process: one process must not load two libpythons."""
    code = (
        "import ctypes, sys; f = ctypes.CDLL(sys.argv[1]).Py_GetVersion; f.restype = ctypes.c_char_p;"
        "print(f().decode().split()[0])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


# ---- command line ----


@dataclass(frozen=True, slots=True)
class Launch:
    """Command line and environment of a server.

    Attributes:
        command: tritonserver and its flags, ours first, so that the user's override them.
        environment: the whole environment of the process.
        exit_timeout_s: how long tritonserver waits for running requests when it stops.
    """

    command: tuple[str, ...]
    environment: Mapping[str, str] = field(repr=False)

    def flag(self, name: str, default: str = "") -> str:
        """The value that tritonserver uses for ``--name``: the last one on the command line."""
        values = flag_values(self.command[1:], name)
        return values[-1] if values else default

    @property
    def exit_timeout_s(self) -> float:
        return float(self.flag("exit-timeout-secs", "30"))

    @property
    def control_mode(self) -> str:
        """How models are loaded and unloaded: "none", "poll" or "explicit"."""
        return self.flag("model-control-mode", "none")

    def endpoint(self, protocol: str) -> tuple[str, int] | None:
        """Address and port of "http", "grpc" or "metrics"; None if it is disabled.

        Raises:
            ServerError: the port is not a valid number.
        """
        if not is_true(self.flag(f"allow-{protocol}", "true")):
            return None
        host = self.flag(f"{protocol}-address")
        port = self.flag(f"{protocol}-port")
        if not port.isdecimal() or not 0 < int(port) < 65536:
            raise ServerError(f"--{protocol}-port is not a port", expected="a number from 1 to 65535", found=port)
        return host, int(port)

    @property
    def url(self) -> str | None:
        """URL of the HTTP endpoint on this machine, e.g. ``http://127.0.0.1:8000``."""
        return self.url_of("http")

    def url_of(self, protocol: str) -> str | None:
        """URL of "http" or "metrics" on this machine; None if it is disabled."""
        endpoint = self.endpoint(protocol)
        return None if endpoint is None else local_url(*endpoint)


def build_launch(
    repositories: Sequence[str],
    *,
    host: str = "127.0.0.1",
    http_port: int = 8000,
    grpc_port: int = 8001,
    metrics_port: int = 8002,
    exit_timeout_s: int = 10,
    cache_dir: Path | None = None,
    flags: Sequence[str] = (),
    tritonserver: Path | None = None,
    allow_load_overrides: bool = False,
) -> Launch:
    """Builds command line and environment of a server.

    Args:
        repositories: values of ``--model-repository``: folders or remote locations.
        host: address of all endpoints, including metrics.
        exit_timeout_s: short by default: if a client keeps an idle connection open, a stop takes all of it.
        cache_dir: folder for measurements and compiled models; ``None`` for no cache.
        flags: further flags of tritonserver, with full names and as ``--name=value``; they override ours.
        allow_load_overrides: a load request may carry a configuration and files of its own, and with them code.

    Raises:
        ServerError: tritonserver, libpython or the backend is missing, or a flag opens an endpoint that stays closed.
    """
    check_flags(flags)
    server = find_tritonserver(tritonserver)
    if not BACKEND_LIBRARY.is_file() or not LOAD_GUARD.is_file():
        raise ServerError(
            "the Triton backend has not been built",
            expected=BACKEND_LIBRARY,
            hint="install the package again; in a checkout: python -m pip install -e .",
        )
    command = [str(server)]
    command += [f"--model-repository={repository}" for repository in repositories]
    command.append(f"--backend-directory={BACKENDS}")
    caches = server.parent.parent / "caches"
    if caches.is_dir():
        command.append(f"--cache-directory={caches}")
    for protocol, port in (("http", http_port), ("grpc", grpc_port), ("metrics", metrics_port)):
        command += [f"--{protocol}-address={host}", f"--{protocol}-port={port}"]
    command += [
        "--exit-on-error=false",  # a model that cannot be loaded does not prevent the others from being served
        f"--exit-timeout-secs={exit_timeout_s}",
        "--allow-gpu-metrics=false",
        "--pinned-memory-pool-byte-size=0",
        f"--backend-config=tnn,cache_dir={cache_dir or 'none'}",
        *(f"--allow-{endpoint}=false" for endpoint in CLOSED if f"allow-{endpoint}" in flags_of(server)),
        *flags,
    ]
    environment = {
        **_inherited(remote=any(map(is_remote, repositories))),
        "TNN_LIBPYTHON": str(find_libpython()),
        "TNN_PYTHON": sys.executable,
    }
    if not allow_load_overrides:
        environment["LD_PRELOAD"] = " ".join(filter(None, (str(LOAD_GUARD), os.environ.get("LD_PRELOAD"))))
    return Launch(tuple(command), environment)


def is_remote(repository: str) -> bool:
    """Whether a repository is one that Triton fetches by itself."""
    return repository.startswith(REMOTE)


def _inherited(*, remote: bool) -> dict[str, str]:
    """This process' environment without secrets that the server has no use for, and without what opens endpoints."""
    dropped = (*NOT_INHERITED, *(() if remote else CLOUD_VARIABLES))
    return {name: text for name, text in os.environ.items() if not name.startswith(dropped)}


def local_url(host: str, port: int) -> str:
    """URL on this machine of a server that listens on an address."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def check_ports(launch: Launch, health: tuple[str, int] | None = None) -> None:
    """Checks that the ports are available. tritonserver reports this late and unclearly.

    Args:
        health: address and port of the supervisor's endpoint.

    Raises:
        ServerError: with the port and the flag that changes it.
    """
    used: dict[int, str] = {}
    for protocol in ("http", "grpc", "metrics", "health"):
        endpoint = health if protocol == "health" else launch.endpoint(protocol)
        if endpoint is None or is_true(launch.flag(f"reuse-{protocol}-port", "false")):
            continue
        host, port = endpoint
        flag = f"--{protocol}-port"
        if port in used:
            raise ServerError(
                f"{flag} and {used[port]} are the same port: {port}", hint=f"give another one with {flag}"
            )
        used[port] = flag
        with located(f"{protocol} endpoint {host}:{port}"):
            _check_port(host, port, flag, "--host" if protocol == "health" else f"--{protocol}-address")


def _check_port(host: str, port: int, flag: str, address_flag: str) -> None:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        # Sets SO_REUSEADDR as tritonserver does: connections of a server that has just ended do not block the port.
        socket.create_server((host, port), family=family).close()
    except socket.gaierror as error:
        raise ServerError("no such address", found=host, hint=f"give another one with {address_flag}") from error
    except PermissionError as error:
        raise ServerError("the port may not be used", hint=f"give one above 1023 with {flag}") from error
    except OSError as error:
        raise ServerError(
            f"the port cannot be used: {error.strerror or error}",
            hint=f"stop the program that uses it, or give another port with {flag}",
        ) from error
