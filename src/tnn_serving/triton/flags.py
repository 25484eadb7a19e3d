"""tritonserver's flags, read as its own parser reads them.

The parser is glibc's ``getopt_long``: a flag may be abbreviated to any beginning that no other flag has, its value is
behind ``=`` or is the next word, words may be anywhere between flags, and ``--`` ends the flags. What decides about
access must not read a command line otherwise than the server does, so flags are completed to their full names first.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path

from tnn_serving.errors import ServerError, UsageError
from tnn_serving.nearest import did_you_mean

_FLAG = re.compile(r"^  --([a-z0-9-]+)( <.*)?$", re.MULTILINE)
"""A flag in the output of ``tritonserver --help``, and its value if it takes one."""

HELP_TIMEOUT_S = 60

CONTROL_MODES = ("none", "poll", "explicit")

CLOSED = ("sagemaker", "vertex-ai")
"""Endpoints that are never opened: they listen on all addresses, ask for no token, and SageMaker's loads models from
any folder. Vertex AI's would open by itself where the environment has ``AIP_MODE=PREDICTION``."""

FlagNames = Mapping[str, bool]
"""Names of flags, and whether each takes a value."""


@cache
def flags_of(tritonserver: Path) -> FlagNames:
    """The flags that a tritonserver takes.

    Raises:
        ServerError: it does not list them.
    """
    try:
        done = subprocess.run(
            [tritonserver, "--help"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=HELP_TIMEOUT_S,
            check=False,
        )
        output = done.stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        output = str(error)
    found = {match[1]: match[2] is not None for match in _FLAG.finditer(output)}
    if "model-repository" not in found:
        raise ServerError(
            f"{tritonserver} does not list its flags", expected="the output of tritonserver --help", found=output[:200]
        )
    return found


def split_arguments(
    arguments: Sequence[str], names: FlagNames, ours: Iterable[str] = ()
) -> tuple[list[str], list[str]]:
    """Splits a command line into words and flags: ``repo --log-verb 1`` -> ``["repo"], ["--log-verbose=1"]``.

    Args:
        ours: names of flags that are not tritonserver's, which a misspelt one may mean.

    Returns:
        The words, and the flags with their full names, each with its value behind ``=`` if it takes one.

    Raises:
        UsageError: a flag that tritonserver does not take, or not so.
    """
    words: list[str] = []
    flags: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if argument == "--":
            words += rest
        elif not argument.startswith("-") or argument == "-":
            words.append(argument)
        elif not argument.startswith("--"):
            raise UsageError(f"tritonserver has no flag {argument}", hint="its flags begin with two dashes")
        else:
            given, equals, value = argument[2:].partition("=")
            name = _completed(given, names, ours)
            if not names[name]:
                if equals:
                    raise UsageError(f"--{name} takes no value", found=argument)
                flags.append(f"--{name}")
                continue
            if not equals:
                following = next(rest, None)
                if following is None:
                    raise UsageError(f"--{name} needs a value")
                value = following
            flags.append(f"--{name}={value}")
    return words, flags


def _completed(given: str, names: FlagNames, ours: Iterable[str]) -> str:
    if given in names:
        return given
    found = [name for name in names if name.startswith(given)]
    if len(found) > 1:
        raise UsageError(f"--{given} is ambiguous", found=", ".join(f"--{name}" for name in found))
    if not found:
        hint = did_you_mean(given, [*ours, *names], "--") or "see tritonserver --help"
        raise UsageError(f"neither serve nor tritonserver has the flag --{given}", hint=hint)
    return found[0]


def flag_values(flags: Iterable[str], name: str) -> list[str]:
    """The values of all ``--name=value`` among flags, in order."""
    return [flag.partition("=")[2] for flag in flags if flag.startswith(f"--{name}=")]


def is_true(text: str) -> bool:
    """Whether tritonserver reads the text of a boolean flag as true."""
    return text.lower() in ("true", "1", "on")


def check_flags(flags: Sequence[str]) -> None:
    """Refuses flags that open an endpoint in :data:`CLOSED`, or name configurations that are not looked at.

    Raises:
        ServerError: with the flag.
        UsageError: an unknown mode of model control, on which access depends.
    """
    for mode in flag_values(flags, "model-control-mode"):
        if mode not in CONTROL_MODES:
            raise UsageError(
                "unknown model control mode",
                expected=", ".join(CONTROL_MODES),
                found=mode,
                hint=did_you_mean(mode, CONTROL_MODES),
            )
    if flag_values(flags, "model-config-name"):
        raise ServerError("--model-config-name is refused: only config.pbtxt is checked for what it makes Triton run")
    for endpoint in CLOSED:
        flag = f"allow-{endpoint}"
        if any(map(is_true, flag_values(flags, flag))):
            raise ServerError(
                f"--{flag} is refused: this endpoint listens on all addresses and asks for no token",
                hint="send requests to the HTTP or gRPC endpoint",
            )
