"""What a configuration says wrongly, all of it: parameters, inputs, outputs, versions, labels, instances, warm-up."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from tnn_serving.config.model_config import BACKEND, CONFIG_FILE, TRITON_TYPE, bind_inputs, check_outputs, complete
from tnn_serving.config.parameters import PARAMETERS, check_operators, read_parameter, with_defaults
from tnn_serving.config.settings import Settings, read_settings
from tnn_serving.engines import TensorSpec, engine_named
from tnn_serving.errors import ConfigError, TnnError
from tnn_serving.network.int8 import Choice
from tnn_serving.repository import versions

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something to know. An error keeps the model from being served; a warning lets it be served otherwise than meant.

    Attributes:
        where: file, layer, input or parameter.
        problem: one sentence.
        expected, found, hint: as in :class:`tnn_serving.errors.TnnError`; empty where there is nothing to say.
    """

    severity: Severity
    where: str
    problem: str
    expected: str = ""
    found: str = ""
    hint: str = ""

    def softened(self) -> Finding:
        """The same where it keeps nothing from being served."""
        return replace(self, severity="warning") if self.severity == "error" else self


def of_error(error: TnnError | OSError, where: str = "") -> Finding:
    """An error that was raised, as a finding."""
    if isinstance(error, OSError):
        return Finding("error", where, f"cannot be read: {error.strerror}", found=str(error.filename))
    expected, found = ("" if fact is None else str(fact) for fact in (error.expected, error.found))
    return Finding("error", ", ".join(error.where) or where, error.problem, expected, found, error.hint or "")


def policy(config: Mapping[str, Any], folder: Path, findings: list[Finding]) -> set[int]:
    """The versions that are served. Names those that the policy wants and that are not there."""
    there: list[int] = []
    for path in versions(folder):
        if path.name != str(int(path.name)):
            findings.append(
                Finding("warning", path.name, "Triton ignores version folders with leading zeros or other digits")
            )
        else:
            there.append(int(path.name))
    chosen = config.get("version_policy", {})
    if "specific" in chosen:
        wanted = [int(number) for number in chosen["specific"].get("versions", [])]
        for number in wanted:
            if number not in there:
                told = ", ".join(map(str, there))
                findings.append(
                    Finding(
                        "warning", CONFIG_FILE, f"version_policy names version {number}, which is not there", found=told
                    )
                )
        served = set(there) & set(wanted)
    elif "all" in chosen:
        served = set(there)
    else:
        count = int(chosen.get("latest", {}).get("num_versions", 0)) or 1
        served = set(sorted(there)[-count:])
    if not served:
        findings.append(Finding("error", CONFIG_FILE, "no version is left to be served"))
    return served


def settings_of(config: Mapping[str, Any], options: Mapping[str, str], findings: list[Finding]) -> Settings:
    """The settings without the parameters that have something wrong, which are named."""
    merged = with_defaults(config, options)
    readable = {}
    try:
        check_operators(config)
    except TnnError as error:
        findings.append(of_error(error, CONFIG_FILE))
    for key, value in merged["parameters"].items():
        try:
            if key.rpartition(".")[2] in PARAMETERS:
                read_parameter(key, str(value.get("string_value", "")))
        except TnnError as error:
            findings.append(of_error(error, CONFIG_FILE))
        else:
            readable[key] = value
    with logged() as told:
        settings = _without_contradictions({**merged, "parameters": readable}, findings)
    findings += [Finding("warning", CONFIG_FILE, text) for text in told]
    try:
        engine_named(settings.engine)
    except TnnError as error:
        findings.append(of_error(error, CONFIG_FILE))
    if settings.int8 not in get_args(Choice):
        known = ", ".join(get_args(Choice))
        findings.append(Finding("error", CONFIG_FILE, "unknown int8 form", expected=known, found=settings.int8))
    if int(config.get("max_batch_size", 0)) < 0:
        text = str(config["max_batch_size"])
        findings.append(Finding("error", CONFIG_FILE, "max_batch_size is negative", found=text))
    if "ensemble_scheduling" in config:
        findings.append(
            Finding(
                "error",
                CONFIG_FILE,
                "ensemble_scheduling is for ensembles",
                expected='platform: "ensemble"',
                found=f'backend: "{BACKEND}"',
                hint="take it out, or move it to a model folder of its own",
            )
        )
    return settings


def _without_contradictions(config: Mapping[str, Any], findings: list[Finding]) -> Settings:
    """The settings; without those of pictures where these do not go together, which is a finding."""
    try:
        return read_settings(config)
    except TnnError as error:
        findings.append(of_error(error, CONFIG_FILE))
    others = {
        key: value
        for key, value in config["parameters"].items()
        if (name := key.rpartition(".")[2]) in PARAMETERS and not PARAMETERS[name].per_input
    }
    return read_settings({**config, "parameters": others})


@contextmanager
def logged() -> Iterator[list[str]]:
    """What the package warns of inside the block, instead of in the log; each sentence once."""
    told: list[str] = []

    class Collecting(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage() not in told:
                told.append(record.getMessage())

    package = logging.getLogger("tnn_serving")
    collecting, before = Collecting(logging.WARNING), package.propagate
    package.addHandler(collecting)
    package.propagate = False
    try:
        yield told
    finally:
        package.propagate = before
        package.removeHandler(collecting)


def contradictions(
    config: Mapping[str, Any],
    folder: Path,
    inputs: Sequence[TensorSpec],
    blobs: Mapping[str, TensorSpec],
    optional: Sequence[str],
    settings: Settings,
) -> Iterator[Finding]:
    """Where the configuration and the network disagree; a type and dims that are both wrong are both named."""
    done = complete(config, inputs=inputs, outputs=list(blobs.values()), optional=optional)
    network = {spec.name: spec for spec in inputs}
    for item in done.get("input", []):
        yield from _of_item(item, network, lambda one: bind_inputs({"input": [one]}, inputs, settings))
    for item in config.get("output", []):
        filled = next(other for other in done["output"] if other["name"] == item["name"])
        yield from _of_item(filled, blobs, lambda one: check_outputs({"output": [one]}, blobs))
        yield from _labels(filled, blobs, folder)
    for section in ("input", "output"):
        names = [item["name"] for item in config.get(section, [])]
        for name in sorted({name for name in names if names.count(name) > 1}):
            yield Finding("warning", CONFIG_FILE, f"{section} `{name}` stands twice")
    yield from _instances(config)
    yield from _warmup(config, network, optional)


def _of_item(
    item: dict[str, Any], network: Mapping[str, TensorSpec], compare: Callable[[dict[str, Any]], object]
) -> Iterator[Finding]:
    told: list[str] = []
    spec = network.get(item["name"])
    tries = [item]
    if spec is not None and item.get("data_type") != "TYPE_STRING":
        tries.append({**item, "data_type": f"TYPE_{TRITON_TYPE[spec.dtype]}"})
    for variant in tries:
        try:
            compare(variant)
        except ConfigError as error:
            if str(error) not in told:
                told.append(str(error))
                yield of_error(error)


def _labels(item: Mapping[str, Any], blobs: Mapping[str, TensorSpec], folder: Path) -> Iterator[Finding]:
    name = str(item.get("label_filename", ""))
    spec = blobs.get(item["name"])
    if not name or spec is None:
        return
    where = f"{CONFIG_FILE}, output `{spec.name}`"
    path = folder / name
    if not path.is_file():
        yield Finding("error", where, f"label file `{name}` is not there", expected="a text file in the model folder")
        return
    try:
        lines = path.read_bytes().count(b"\n")
    except OSError as error:
        yield of_error(error, where)
        return
    classes = max((dim for dim in spec.shape if dim is not None), default=0)
    if lines + 1 < classes:
        yield Finding(
            "warning", where, f"label file `{name}` is short", expected=f"{classes} lines", found=f"{lines} lines"
        )


def _instances(config: Mapping[str, Any]) -> Iterator[Finding]:
    for group in config.get("instance_group", []):
        if group.get("kind") == "KIND_GPU" or group.get("gpus"):
            yield Finding(
                "error",
                f"{CONFIG_FILE}, instance_group",
                "models run on the CPU",
                expected="KIND_CPU",
                found="KIND_GPU",
            )


def _warmup(config: Mapping[str, Any], network: Mapping[str, TensorSpec], optional: Sequence[str]) -> Iterator[Finding]:
    for sample in config.get("model_warmup", []):
        where = f"{CONFIG_FILE}, model_warmup `{sample.get('name', '')}`"
        given = set(sample.get("inputs", {}))
        missing = sorted(set(network) - set(optional) - given)
        if missing:
            yield Finding(
                "error", where, f"input `{missing[0]}` is missing", expected=", ".join(network), found=", ".join(given)
            )


def completions(config: Mapping[str, Any], completed: Mapping[str, Any]) -> list[str]:
    """What was filled in, a line each."""
    lines = []
    if int(completed.get("max_batch_size", 0)) != int(config.get("max_batch_size", 0)):
        lines.append(f"max_batch_size: {completed['max_batch_size']}")
    if "dynamic_batching" in completed and "dynamic_batching" not in config:
        lines.append("dynamic_batching")
    for section in ("input", "output"):
        given = {item["name"]: item for item in config.get(section, [])}
        for item in completed.get(section, []):
            known = given.get(item["name"], {})
            parts = []
            if known.get("data_type", "TYPE_INVALID") == "TYPE_INVALID":
                parts.append(str(item["data_type"]))
            if not known.get("dims"):
                parts.append(f"dims {[int(dim) for dim in item['dims']]}")
            if item.get("optional") and not known.get("optional"):
                parts.append("optional")
            if parts:
                lines.append(f"{section} `{item['name']}`: {', '.join(parts)}")
    return lines
