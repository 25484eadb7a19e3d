"""A command line is read as tritonserver reads it: names, values, order, abbreviations."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tnn_serving.errors import ServerError, UsageError
from tnn_serving.triton.flags import FlagNames, check_flags, flag_values, flags_of, split_arguments
from tnn_serving.triton.launch import find_tritonserver

NAMES = {
    "allow-sagemaker": True,
    "disable-auto-complete-config": False,
    "http-address": True,
    "http-port": True,
    "id": True,
    "log-verbose": True,
    "rate-limit": True,
    "rate-limit-resource": True,
}


@pytest.fixture(scope="module")
def tritonserver() -> Path:
    try:
        return find_tritonserver()
    except ServerError as error:
        pytest.skip(f"no tritonserver: {error}")


@pytest.fixture(scope="module")
def names(tritonserver: Path) -> FlagNames:
    return flags_of(tritonserver)


@pytest.mark.parametrize(
    ("arguments", "words", "flags"),
    [
        (["repo"], ["repo"], []),
        (["repo", "--log-verbose=1"], ["repo"], ["--log-verbose=1"]),
        (["repo", "--log-verbose", "1"], ["repo"], ["--log-verbose=1"]),
        (["--log-verbose", "1", "a", "b"], ["a", "b"], ["--log-verbose=1"]),
        (["--log-verbose", "--http-port", "b"], ["b"], ["--log-verbose=--http-port"]),
        (["--disable-auto-complete-config", "repo"], ["repo"], ["--disable-auto-complete-config"]),
        (["repo", "--disable"], ["repo"], ["--disable-auto-complete-config"]),
        (["--http-a=0.0.0.0"], [], ["--http-address=0.0.0.0"]),
        (["--rate-limit=off"], [], ["--rate-limit=off"]),
        (["s3://host/bucket", "--id="], ["s3://host/bucket"], ["--id="]),
        (["--", "--http-port=1"], ["--http-port=1"], []),
        (["-"], ["-"], []),
    ],
)
def test_command_line_is_split(arguments: list[str], words: list[str], flags: list[str]) -> None:
    assert split_arguments(arguments, NAMES) == (words, flags)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--http=1"], "--http is ambiguous: found --http-address, --http-port"),
        (["--http-addresses=1"], "neither serve nor tritonserver has the flag --http-addresses"),
        (["-http-port=1"], "tritonserver has no flag -http-port=1"),
        (["--http-port"], "--http-port needs a value"),
        (["--disable=1"], "--disable-auto-complete-config takes no value"),
    ],
)
def test_flags_that_tritonserver_does_not_take(arguments: list[str], message: str) -> None:
    with pytest.raises(UsageError) as raised:
        split_arguments(arguments, NAMES)
    assert message in str(raised.value)


def test_a_misspelt_flag_may_mean_one_of_ours_or_of_the_servers() -> None:
    for given, meant in (("--http-adress=1", "--http-address"), ("--sheild", "--shield")):
        with pytest.raises(UsageError) as raised:
            split_arguments([given], NAMES, ["shield", "http-port"])
        assert raised.value.hint == f"did you mean `{meant}`?"


def test_all_values_of_a_flag_in_order() -> None:
    flags = ["--backend-config=tnn,a=1", "--http-port=1", "--backend-config=tnn,b=2", "--http-port-range=9"]
    assert flag_values(flags, "backend-config") == ["tnn,a=1", "tnn,b=2"]
    assert flag_values(flags, "http-port") == ["1"]
    assert flag_values(flags, "grpc-port") == []


def test_tritonserver_lists_its_flags(names: FlagNames) -> None:
    assert not names["help"]
    assert not names["disable-auto-complete-config"]
    assert all(names[name] for name in ("http-address", "grpc-restricted-protocol", "model-store", "trace-rate"))


def test_a_program_that_is_no_tritonserver(tmp_path: Path) -> None:
    program = tmp_path / "tritonserver"
    program.write_text("#!/bin/sh\necho usage\n")
    program.chmod(0o755)
    with pytest.raises(ServerError, match="does not list its flags"):
        flags_of(program)


@pytest.mark.parametrize(
    "flag",
    ["--http-addr=1", "--http-a=1", "--http-p=1", "--http=1", "--allow-sage=1", "--http-portx=1", "-http-port=1"],
)
def test_abbreviations_are_those_of_the_server(tritonserver: Path, names: FlagNames, flag: str) -> None:
    """Behind each flag is one that ends the server, so that it starts nothing."""
    done = subprocess.run([tritonserver, flag, "--help"], capture_output=True, text=True, timeout=60, check=False)
    # getopt prints what it refuses; tritonserver prints its usage in any case.
    refused = any(word in done.stderr + done.stdout[:400] for word in ("ambiguous", "unrecognized", "invalid option"))
    try:
        split_arguments([flag], names)
        ours = False
    except UsageError:
        ours = True
    assert ours == refused


@pytest.mark.parametrize("text", ["true", "1", "on", "TRUE"])
def test_endpoints_without_a_token_stay_closed(text: str) -> None:
    for endpoint in ("sagemaker", "vertex-ai"):
        with pytest.raises(ServerError, match=f"--allow-{endpoint} is refused"):
            check_flags([f"--allow-{endpoint}={text}"])
    check_flags(["--allow-sagemaker=false", "--http-port=1"])


def test_configurations_of_other_names_are_refused() -> None:
    with pytest.raises(ServerError, match=r"only config\.pbtxt is checked"):
        check_flags(["--model-config-name=other"])
