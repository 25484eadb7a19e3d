"""Writes chosen settings to a ``config.pbtxt``; the user's text is preserved byte for byte.

The settings and their evidence go into a block at the end, between two comments. A later tuning replaces the block. A
value that the user wrote is changed only with ``force``, and then in place.
"""

from __future__ import annotations

import difflib
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tnn_serving.config.model_config import InstanceGroup, ModelConfig
from tnn_serving.config.prototext import TextValue, locate
from tnn_serving.config.settings import SETTINGS
from tnn_serving.config.text import CONFIG, mean_the_same, read_config
from tnn_serving.errors import ConfigError, located
from tnn_serving.formats.reading import read_file
from tnn_serving.tune.space import PARAMETER, Candidate

BEGIN = "# tnn-serving tune: begin"
END = "# tnn-serving tune: end"

_BLOCK = re.compile(rf"^{re.escape(BEGIN)}\b[^\n]*\n.*?^{re.escape(END)}[^\n]*(?:\n|\Z)", re.MULTILINE | re.DOTALL)


def read(path: Path) -> str:
    """The text of a file with its original line ends; empty if there is no file. Raises ConfigError."""
    with located(str(path)):
        return read_file(path, CONFIG).decode("utf-8", "surrogateescape") if path.exists() else ""


def without_block(text: str) -> str:
    """The text without the block of an earlier tuning."""
    return _BLOCK.sub("", text)


def fixed_fields(text: str) -> frozenset[str]:
    """Fields of a candidate that the user's text sets."""
    config = read_config(without_block(text))
    names = {name for name, key in PARAMETER.items() if key in config.parameters}
    if {"hint", "streams"} & names:  # both set the number of streams
        names |= {"hint", "streams"}
    return frozenset(names | ({"instances"} if config.instance_group else set()))


def cannot_be_changed(text: str) -> frozenset[str]:
    """Fields that even ``force`` does not change: with several instance groups it is ambiguous which one to change."""
    groups = read_config(without_block(text)).instance_group
    return frozenset({"instances"} if len(groups) > 1 else ())


def earlier_candidate(text: str) -> Candidate | None:
    """The settings of an earlier tuning, if they can be read."""
    blocks = "".join(match[0] for match in _BLOCK.finditer(text))
    try:
        config = read_config(blocks)
        values: dict[str, Any] = {
            name: config.parameters[key] for name, key in PARAMETER.items() if key in config.parameters
        }
        for name in values.keys() & {"streams", "threads", "rows"}:
            values[name] = int(values[name])
    except (ConfigError, ValueError):
        return None
    if config.instance_group:
        values["instances"] = config.instance_group[0].count
    return Candidate(**values) if values else None


def with_settings(text: str, chosen: Candidate, evidence: Sequence[str] = (), *, force: bool = False) -> str:
    """A ``config.pbtxt`` with a candidate's settings.

    Args:
        text: the file before; the block of an earlier tuning is replaced.
        chosen: fields that are ``None`` are left out.
        evidence: lines of the comment above the settings.
        force: change values that the user wrote.

    Raises:
        ConfigError: the text cannot be parsed, or contradicts ``chosen`` without ``force``.
    """
    original = without_block(text)
    config = read_config(original)
    wanted = dict(chosen.parameters)
    instances = chosen.instances
    contradicting = _contradictions(config, wanted, instances)
    if contradicting and not force:
        key, here, there = contradicting[0]
        raise ConfigError(
            f"config.pbtxt sets `{key}` to another value",
            expected=there,
            found=here,
            hint="remove that line, or replace it with --force",
        )
    changed = original
    for key, _, there in contradicting:
        changed = _with_count(changed, instances) if key == "instance_group" else _with_value(changed, key, there)
    new = {key: value for key, value in wanted.items() if key not in config.parameters}
    group = instances if not config.instance_group else None
    made = _with_block(changed, new, group, evidence)
    _check(made, config, wanted, instances)
    return made


def with_name(text: str, name: str) -> str:
    """The text for a model of another name."""
    for value in reversed(locate(text).all("name")):
        text = _replaced(text, value, _quoted(name))
    return text


def config_diff(before: str, after: str, path: Path) -> str:
    """Both texts as a unified diff."""
    lines = difflib.unified_diff(
        before.splitlines(keepends=True), after.splitlines(keepends=True), f"{path} (now)", f"{path} (tuned)"
    )
    return "".join(line if line.endswith("\n") else line + "\n\\ No newline at end of file\n" for line in lines)


def save(path: Path, text: str) -> Path | None:
    """Replaces a file atomically, and keeps a backup beside it.

    Returns:
        The path of the backup; ``None`` if there was no file.

    Raises:
        ConfigError: it cannot be written.
    """
    path = path.resolve()  # a link is kept
    backup = path.with_name(path.name + ".before-tune")
    fresh = path.with_name(path.name + ".new")
    try:
        existed = path.exists()
        if existed:
            shutil.copy2(path, backup)
        fresh.write_bytes(text.encode("utf-8", "surrogateescape"))
        if existed:
            shutil.copymode(path, fresh)
        fresh.replace(path)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error
    return backup if existed else None


# ---- the user's values ----


def _contradictions(
    config: ModelConfig, wanted: Mapping[str, str], instances: int | None
) -> list[tuple[str, str, str]]:
    """Values of the user that differ from ours: key, the user's value, our value."""
    found = [
        (key, config.parameters[key], value)
        for key, value in wanted.items()
        if key in config.parameters and not _same(key, config.parameters[key], value)
    ]
    if instances is not None and config.instance_group:
        counts = [group.count or 1 for group in config.instance_group]
        if counts != [instances]:
            found.append(("instance_group", f"count {' and '.join(map(str, counts))}", str(instances)))
    return found


def _same(key: str, left: str, right: str) -> bool:
    try:
        return bool(SETTINGS[key].read(left) == SETTINGS[key].read(right))
    except (ValueError, ConfigError):
        return left == right


# ---- changing a value in place ----


def _with_value(text: str, key: str, value: str) -> str:
    """The text with another value in the last entry of ``key``, which overrides earlier ones."""
    entry = [
        one
        for one in locate(text).all("parameters")
        if key in read_config(_as_field("parameters", text, one)).parameters
    ][-1]
    holders = entry.all("value")
    if not holders:
        return _inserted(text, entry, f"value {{ string_value: {_quoted(value)} }}")
    scalars = holders[-1].all("string_value")
    if not scalars:
        return _inserted(text, holders[-1], f"string_value: {_quoted(value)}")
    return _replaced(text, scalars[-1], _quoted(value))


def _with_count(text: str, count: int | None) -> str:
    (group, *more) = locate(text).all("instance_group")
    if more:
        raise ConfigError(
            "config.pbtxt has several instance groups", hint="it is ambiguous which one to change; edit it by hand"
        )
    counts = group.all("count")
    return _replaced(text, counts[-1], str(count)) if counts else _inserted(text, group, f"count: {count}")


def _as_field(name: str, text: str, value: TextValue) -> str:
    return f"{name} {text[value.start : value.end]}"


def _replaced(text: str, value: TextValue, by: str) -> str:
    """The text with another scalar. A string's further pieces become empty, since comments may be between them."""
    for number, (start, end) in reversed(list(enumerate(value.pieces))):
        text = text[:start] + ('""' if number else by) + text[end:]
    return text


def _inserted(text: str, message: TextValue, field: str) -> str:
    """The text with another field at the beginning of a message."""
    at = message.start + 1
    return f"{text[:at]} {field} {text[at:]}"


def _quoted(value: str) -> str:
    from google.protobuf import text_encoding

    return f'"{text_encoding.CEscape(value, False)}"'


# ---- the block ----


def _with_block(text: str, parameters: Mapping[str, str], instances: int | None, evidence: Sequence[str]) -> str:
    lines = [f"{BEGIN} (`tnn-serving tune` replaces the lines up to the end)"]
    lines += [f"# {' '.join(line.split())}" for line in evidence]
    if parameters:
        entries = [
            f"  {{ key: {_quoted(key)} value: {{ string_value: {_quoted(value)} }} }}"
            for key, value in parameters.items()
        ]
        lines += ["parameters [", ",\n".join(entries), "]"]
    if instances is not None:
        lines.append(f"instance_group [ {{ count: {instances} kind: KIND_CPU }} ]")
    lines.append(END)
    if not (parameters or instances is not None or evidence):
        return text
    newline = "\r\n" if "\r\n" in text else "\n"
    block = "\n".join(lines).replace("\n", newline) + newline
    return text + (newline if text and not text.endswith("\n") else "") + block


def _check(made: str, before: ModelConfig, wanted: Mapping[str, str], instances: int | None) -> None:
    """Checks that the new text is equivalent to the old configuration with the new settings."""
    changed = {
        key: value
        for key, value in wanted.items()
        if not (key in before.parameters and _same(key, before.parameters[key], value))
    }
    expected = replace(before, parameters={**before.parameters, **changed})
    if instances is not None:
        first, *more = before.instance_group or (InstanceGroup(kind="KIND_CPU"),)
        if instances != (first.count or 1) or not before.instance_group:
            expected = replace(expected, instance_group=(replace(first, count=instances), *more))
    if not mean_the_same(read_config(made), expected):
        raise ConfigError("config.pbtxt cannot be changed", hint="add the settings by hand; --dry-run shows them")
