"""Finding tritonserver and libpython, the command line, and the ports."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hatch_build import COMPILE_FLAGS, FLAGS, GUARD, LINKS
from tests.pages import ROOT
from tnn_serving.errors import ServerError
from tnn_serving.triton import launch
from tnn_serving.triton.background_server import free_ports
from tnn_serving.triton.flags import flag_values
from tnn_serving.triton.launch import (
    Launch,
    build_launch,
    check_ports,
    find_libpython,
    find_tritonserver,
)


@pytest.fixture(scope="module")
def tritonserver() -> Path:
    try:
        return find_tritonserver()
    except ServerError as error:
        pytest.skip(f"no tritonserver: {error}")


@pytest.fixture
def built() -> None:
    if not launch.BACKEND_LIBRARY.is_file():
        pytest.skip("the backend library has not been built")


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def with_flags(*flags: str) -> Launch:
    return Launch(("tritonserver", *flags), {})


def test_defaults_are_local_and_complete(tritonserver: Path, built: None) -> None:
    made = build_launch(["/models", "s3://bucket"])
    assert made.command[0] == str(tritonserver)
    assert flag_values(made.command, "model-repository") == ["/models", "s3://bucket"]
    for protocol, port in (("http", 8000), ("grpc", 8001), ("metrics", 8002)):
        assert made.endpoint(protocol) == ("127.0.0.1", port)
    assert made.flag("exit-on-error") == "false"
    assert Path(made.flag("backend-directory"), "tnn", "libtriton_tnn.so").is_file()
    assert Path(made.flag("cache-directory"), "local").is_dir()
    assert made.environment["TNN_PYTHON"] == sys.executable
    assert Path(made.environment["TNN_LIBPYTHON"]).is_file()


def test_flags_of_the_user_win(tritonserver: Path, built: None) -> None:
    flags = ["--http-port=9000", "--exit-timeout-secs=3", "--model-control-mode=poll", "--allow-metrics=false"]
    made = build_launch(["/models"], host="0.0.0.0", http_port=8500, flags=flags)
    assert made.endpoint("http") == ("0.0.0.0", 9000)
    assert made.url == "http://127.0.0.1:9000"
    assert made.endpoint("metrics") is None
    assert made.exit_timeout_s == 3
    assert made.control_mode == "poll"


def test_the_server_gets_no_secret_that_it_does_not_need(
    tritonserver: Path, built: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    variables = ["TNN_ADMIN_TOKEN", "AWS_SECRET_ACCESS_KEY", "AZURE_STORAGE_KEY", "GOOGLE_APPLICATION_CREDENTIALS"]
    for name in (*variables, "AIP_MODE", "OTHER"):
        monkeypatch.setenv(name, "secret")
    local, remote = build_launch(["/models"]).environment, build_launch(["/models", "s3://bucket"]).environment
    assert [name for name in variables if name in local] == []
    assert [name for name in variables if name in remote] == variables[1:]
    for environment in (local, remote):
        assert "AIP_MODE" not in environment
        assert environment["OTHER"] == "secret"


def test_endpoints_without_a_token_are_closed(tritonserver: Path, built: None) -> None:
    made = build_launch(["/models"])
    assert (made.flag("allow-sagemaker"), made.flag("allow-vertex-ai")) == ("false", "false")
    with pytest.raises(ServerError, match="--allow-sagemaker is refused"):
        build_launch(["/models"], flags=["--allow-sagemaker=true"])


def test_load_requests_are_guarded(tritonserver: Path, built: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_PRELOAD", "/lib/own.so")
    assert build_launch(["/models"]).environment["LD_PRELOAD"] == f"{launch.LOAD_GUARD} /lib/own.so"
    assert build_launch(["/models"], allow_load_overrides=True).environment["LD_PRELOAD"] == "/lib/own.so"


def test_the_guard_has_no_warnings_and_exports_only_what_it_guards(built: None, tmp_path: Path) -> None:
    source, flags = ROOT / GUARD.with_suffix(".c"), ROOT / COMPILE_FLAGS
    command = ["cc", f"@{flags}", "-Werror", *FLAGS, "-o", str(tmp_path / "guard.so"), str(source), *LINKS]
    subprocess.run(command, check=True)
    symbols = subprocess.run(["nm", "-D", "--defined-only", tmp_path / "guard.so"], capture_output=True, text=True)
    names = {line.split()[-1] for line in symbols.stdout.splitlines()}
    assert names == {"TRITONSERVER_ServerLoadModel", "TRITONSERVER_ServerLoadModelWithParameters"}


def test_tritonserver_calls_what_is_guarded(tritonserver: Path) -> None:
    """Both are symbols that it takes from a library: where they were its own, no library could come before."""
    symbols = subprocess.run(["nm", "-D", "--undefined-only", tritonserver], capture_output=True, text=True, check=True)
    assert "TRITONSERVER_ServerLoadModelWithParameters" in symbols.stdout
    assert "TRITONSERVER_ServerLoadModel\n" in symbols.stdout


def test_url_of_an_ipv6_address() -> None:
    made = with_flags("--http-address=::", "--http-port=80")
    assert made.url == "http://[::1]:80"


def test_libpython_is_the_library_of_this_python() -> None:
    try:
        path = find_libpython()
    except ServerError as error:
        pytest.skip(f"this Python has none: {error}")
    code = "import ctypes,sys;f=ctypes.CDLL(sys.argv[1]).Py_GetVersion;f.restype=ctypes.c_char_p;print(f().decode())"
    output = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True).stdout
    assert output.startswith(".".join(map(str, sys.version_info[:2])) + ".")


def test_no_libpython_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "_libpython_candidates", lambda: iter([(Path("/nowhere/libpython.so"), True)]))
    with pytest.raises(ServerError, match="no shared library") as raised:
        find_libpython()
    assert f"libpython{sys.version_info[0]}.{sys.version_info[1]}" in (raised.value.hint or "")
    assert "--enable-shared" in (raised.value.hint or "")


def test_no_tritonserver_says_what_to_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if os.path.exists("/opt/tritonserver/bin/tritonserver"):
        pytest.skip("this machine has a separate tritonserver")
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ServerError, match="not installed") as raised:
        find_tritonserver()
    assert "python -m pip install --no-deps nvidia-pytriton==0.7.0" in (raised.value.hint or "")
    assert "tnn-serving install-server" in (raised.value.hint or "")


def test_tritonserver_on_path_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "tritonserver"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_tritonserver() == program


@pytest.mark.parametrize("name", ["missing", "folder", "text"])
def test_given_tritonserver_must_be_a_program(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "text").write_text("not executable")
    with pytest.raises(ServerError, match="no executable tritonserver"):
        find_tritonserver(tmp_path / name)


@pytest.mark.parametrize("protocol", ["http", "grpc", "metrics"])
def test_taken_port_is_named_with_its_flag(taken_port: int, protocol: str) -> None:
    ports = dict(zip(("http", "grpc", "metrics"), free_ports(3), strict=True)) | {protocol: taken_port}
    flags = [f"--{name}-{what}" for name, port in ports.items() for what in (f"port={port}", "address=127.0.0.1")]
    with pytest.raises(ServerError) as raised:
        check_ports(with_flags(*flags))
    assert str(taken_port) in str(raised.value)
    assert f"--{protocol}-port" in (raised.value.hint or "")


def test_free_ports_pass_and_are_left_free() -> None:
    names, ports = ("http", "grpc", "metrics"), free_ports(3)
    flags = [f"--{n}-{w}" for n, p in zip(names, ports, strict=True) for w in (f"port={p}", "address=127.0.0.1")]
    check_ports(with_flags(*flags))
    for port in ports:
        socket.create_server(("127.0.0.1", port)).close()


def test_port_that_is_shared_on_purpose_passes(taken_port: int) -> None:
    flags = [f"--http-port={taken_port}", "--http-address=127.0.0.1", "--reuse-http-port=true"]
    check_ports(with_flags(*flags, "--allow-grpc=false", "--allow-metrics=false"))


def test_one_port_for_two_endpoints() -> None:
    (port,) = free_ports(1)
    flags = [f"--{n}-{w}" for n in ("http", "grpc") for w in (f"port={port}", "address=127.0.0.1")]
    with pytest.raises(ServerError, match="--grpc-port and --http-port are the same port"):
        check_ports(with_flags(*flags, "--allow-metrics=false"))


@pytest.mark.parametrize("text", ["x", "0", "65536", ""])
def test_invalid_port(text: str) -> None:
    with pytest.raises(ServerError, match="--http-port is not a port"):
        check_ports(with_flags(f"--http-port={text}", "--http-address=127.0.0.1"))


def test_unknown_address_names_its_flag() -> None:
    with pytest.raises(ServerError) as raised:
        check_ports(with_flags("--http-port=8000", "--http-address=no-such-host.invalid"))
    assert "--http-address" in (raised.value.hint or "")


def test_backend_library_exports_triton_entry_points_only(built: None) -> None:
    library = launch.BACKEND_LIBRARY
    symbols = subprocess.run(["nm", "-D", "--defined-only", str(library)], capture_output=True, text=True, check=True)
    names = {line.split()[-1] for line in symbols.stdout.splitlines()}
    assert {"TRITONBACKEND_Initialize", "TRITONBACKEND_ModelInstanceExecute"} <= names
    assert all(name.startswith("TRITONBACKEND_") for name in names)


def test_backend_library_links_neither_triton_nor_python(built: None) -> None:
    needed = subprocess.run(["readelf", "-d", str(launch.BACKEND_LIBRARY)], capture_output=True, text=True, check=True)
    linked = [line for line in needed.stdout.splitlines() if "NEEDED" in line]
    assert linked
    assert not [line for line in linked if "python" in line or "triton" in line]
