"""Tokens, restrictions, and which servers are open."""

from __future__ import annotations

from pathlib import Path

import pytest

from tnn_serving.errors import ConfigError
from tnn_serving.triton.access import (
    ADMIN_APIS,
    MODEL_API,
    TOKEN_HEADER,
    checked_token,
    http_headers,
    is_loopback,
    is_open,
    new_token,
    protected_apis,
    read_token,
    readable_by_all,
    restrictions,
    with_token,
)
from tnn_serving.triton.launch import Launch

TOKEN = "0123456789abcdef"


def launched(*flags: str, http: str = "127.0.0.1", grpc: str = "127.0.0.1") -> Launch:
    addresses = [f"--http-address={http}", "--http-port=8000", f"--grpc-address={grpc}", "--grpc-port=8001"]
    return Launch(("tritonserver", *addresses, *flags), {})


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        *(("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True)),
        *(("0.0.0.0", False), ("::", False), ("10.1.2.3", False), ("no such host", False)),
    ],
)
def test_loopback_addresses(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


def test_a_server_is_open_when_either_protocol_is() -> None:
    assert not is_open(launched())
    assert is_open(launched(http="0.0.0.0"))
    assert is_open(launched(grpc="0.0.0.0"))
    assert not is_open(launched("--allow-grpc=false", grpc="0.0.0.0"))
    assert is_open(launched("--http-address=0.0.0.0"))  # Triton's own flag, which wins


def test_token_restricts_both_protocols_and_is_sent_by_us() -> None:
    launch = with_token(launched(), TOKEN)
    for protocol in ("http", "grpc"):
        (one,) = restrictions(launch, protocol)
        assert (one.apis, one.header, one.value) == (ADMIN_APIS, TOKEN_HEADER, TOKEN)
    assert http_headers(launch) == {TOKEN_HEADER: TOKEN}


def test_restrictions_of_the_user_stay_and_are_honoured() -> None:
    launch = with_token(launched("--http-restricted-api=trace,statistics:mine=secret"), TOKEN)
    user, ours = restrictions(launch, "http")
    assert user.apis == ("trace", "statistics")
    assert ours.apis == ("model-repository", "shared-memory", "logging")
    assert restrictions(launch, "grpc")[0].apis == ADMIN_APIS
    assert http_headers(launch) == {"mine": "secret", TOKEN_HEADER: TOKEN}


def test_new_tokens_differ_and_are_valid() -> None:
    first, second = new_token(), new_token()
    assert first != second
    assert checked_token(first, "here") == first


@pytest.mark.parametrize(
    "text", ["", "short", "a token with spaces in it", "comma,comma,comma,comma", "ü" * 20, "a" * 257]
)
def test_invalid_tokens_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="in the file") as caught:
        checked_token(text, "the file")
    assert not text.strip() or text not in str(caught.value)


def test_token_is_read_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    assert read_token(file) == TOKEN
    with pytest.raises(ConfigError, match="missing"):
        read_token(tmp_path / "missing")
    file.write_bytes(b"\xff" * 20)
    with pytest.raises(ConfigError, match="token"):
        read_token(file)


EXPLICIT = "--model-control-mode=explicit"


@pytest.mark.parametrize(
    ("flags", "http", "wanted", "apis"),
    [
        ([], "127.0.0.1", None, ()),
        ([], "127.0.0.1", True, ADMIN_APIS),
        ([], "0.0.0.0", None, ADMIN_APIS),
        ([], "0.0.0.0", False, ()),
        ([EXPLICIT], "127.0.0.1", None, (MODEL_API,)),
        ([EXPLICIT], "127.0.0.1", False, (MODEL_API,)),
        ([EXPLICIT], "0.0.0.0", None, ADMIN_APIS),
        (["--model-control-mode=poll"], "127.0.0.1", None, ()),
    ],
)
def test_loading_by_request_always_needs_the_token(
    flags: list[str], http: str, wanted: bool | None, apis: tuple[str, ...]
) -> None:
    launch = launched(*flags, http=http)
    assert protected_apis(launch, wanted) == apis
    for protocol in ("http", "grpc"):
        restricted = restrictions(with_token(launch, TOKEN, apis), protocol)
        assert [one.apis for one in restricted] == ([apis] if apis else [])


@pytest.mark.parametrize(("mode", "all_may"), [(0o600, False), (0o640, False), (0o644, True), (0o604, True)])
def test_token_files_that_every_user_may_read(tmp_path: Path, mode: int, all_may: bool) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN)
    file.chmod(mode)
    assert readable_by_all(file) == all_may
