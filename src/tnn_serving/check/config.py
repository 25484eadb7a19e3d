"""Everything that is wrong in a configuration: parameters, inputs, outputs, versions, labels, instances, warm-up."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from tnn_serving.check.report import Finding, of_error
from tnn_serving.config.binding import bind_control, bind_input, check_output
from tnn_serving.config.completion import complete_tensor
from tnn_serving.config.datatypes import triton_type
from tnn_serving.config.model_config import BACKEND, CONFIG_FILE, ModelConfig, TensorConfig, config_type
from tnn_serving.config.reading import CommandLine, try_settings
from tnn_serving.config.reshape import has_shape
from tnn_serving.config.settings import ModelSettings
from tnn_serving.engines import ENGINES, TensorSpec
from tnn_serving.errors import TnnError
from tnn_serving.formats.candidates import versions
from tnn_serving.formats.reading import read_file
from tnn_serving.own_files import LABEL_FILE, check_label, label_exists
from tnn_serving.prepare.side_files import check_warmup


def served_versions(config: ModelConfig, folder: Path, findings: list[Finding]) -> set[int]:
    """The versions that are served. Adds findings about those that the policy names and that do not exist."""
    existing: list[int] = []
    for path in versions(folder):
        if path.name != str(int(path.name)):
            findings.append(
                Finding("warning", path.name, "Triton ignores version folders with leading zeros or other digits")
            )
        else:
            existing.append(int(path.name))
    policy = config.version_policy
    if policy is not None and policy.specific is not None:
        served = set(existing) & set(policy.specific.versions)
        for number in policy.specific.versions:
            if number not in served:
                text = f"version_policy names version {number}, which does not exist"
                findings.append(Finding("warning", CONFIG_FILE, text, found=", ".join(map(str, existing))))
    elif policy is not None and policy.all is not None:
        served = set(existing)
    else:
        latest = policy.latest.num_versions if policy is not None and policy.latest is not None else 0
        served = set(sorted(existing)[-(latest or 1) :])
    if not served:
        findings.append(Finding("error", CONFIG_FILE, "no version is left to be served"))
    return served


def settings_of(config: ModelConfig, options: CommandLine, findings: list[Finding]) -> ModelSettings:
    """The settings, with the default in place of each that is wrong. Adds a finding about each of these."""
    with logged() as warnings:
        settings, problems = try_settings(config, options)
    findings += [of_error(problem, CONFIG_FILE) for problem in problems]
    findings += [Finding("warning", CONFIG_FILE, text) for text in warnings]
    try:
        ENGINES.named(settings.engine)
    except TnnError as error:
        findings.append(of_error(error, CONFIG_FILE))
    if config.max_batch_size < 0:
        findings.append(Finding("error", CONFIG_FILE, "max_batch_size is negative", found=str(config.max_batch_size)))
    if config.ensemble_scheduling is not None:
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


@contextmanager
def logged() -> Iterator[list[str]]:
    """The package's warnings inside the block, which do not go to the log; each sentence once."""
    messages: list[str] = []

    class Collecting(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage() not in messages:
                messages.append(record.getMessage())

    package = logging.getLogger("tnn_serving")
    collecting, before = Collecting(logging.WARNING), package.propagate
    package.addHandler(collecting)
    package.propagate = False
    try:
        yield messages
    finally:
        package.propagate = before
        package.removeHandler(collecting)


def contradictions(
    config: ModelConfig,
    folder: Path,
    inputs: Mapping[str, TensorSpec],
    blobs: Mapping[str, TensorSpec],
    optional: Sequence[str],
    settings: ModelSettings,
) -> Iterator[Finding]:
    """Where the configuration and the network disagree; a type and dims that are both wrong are both named."""
    batched = config.batched
    for control in (tensor for tensor in config.controls if tensor.name in inputs):
        yield from _of_tensor(control, inputs, batched, lambda one: bind_control(one, inputs, batched=batched))
    named = {tensor.name for tensor in (*config.input, *config.controls)}
    for tensor in (*config.input, *(TensorConfig(name) for name in inputs if name not in named)):
        yield from _of_tensor(tensor, inputs, batched, lambda one: bind_input(one, inputs, settings, batched=batched))
    for tensor in config.output:
        yield from _of_tensor(tensor, blobs, batched, lambda one: check_output(one, blobs, batched=batched))
        if tensor.label_filename and tensor.name in blobs:
            yield from _labels(tensor, blobs[tensor.name], folder)
    for section, tensors in (("input", config.input), ("output", config.output)):
        for name, count in Counter(tensor.name for tensor in tensors).items():
            if count > 1:
                yield Finding("warning", CONFIG_FILE, f"{section} `{name}` occurs {count} times")
    if any(group.kind == "KIND_GPU" or group.gpus for group in config.instance_group):
        yield Finding(
            "error",
            f"{CONFIG_FILE}, instance_group",
            "models run on the CPU",
            expected="KIND_CPU",
            found="KIND_GPU",
        )
    yield from _warmup(config, inputs, optional)
    try:
        check_warmup(folder, config, settings.limits())
    except TnnError as error:
        yield of_error(error, CONFIG_FILE)


def _of_tensor(
    tensor: TensorConfig, network: Mapping[str, TensorSpec], batched: bool, compare: Callable[[TensorConfig], object]
) -> Iterator[Finding]:
    """What ``compare`` refuses of a tensor, and of the tensor with the network's type."""
    spec = network.get(tensor.name)
    found: list[Finding] = []
    try:
        tries = [complete_tensor(tensor, spec, batched=batched)]
        if spec is not None and tensor.datatype != "BYTES":
            tries.append(replace(tries[0], data_type=config_type(triton_type(spec.dtype))))
    except TnnError as error:
        tries = []
        found.append(of_error(error, f"{CONFIG_FILE}, `{tensor.name}`"))
    for variant in tries:
        try:
            compare(variant)
        except TnnError as error:
            if of_error(error) not in found:
                found.append(of_error(error))
    yield from found


def _labels(tensor: TensorConfig, spec: TensorSpec, folder: Path) -> Iterator[Finding]:
    where = f"{CONFIG_FILE}, output `{spec.name}`"
    name = tensor.label_filename
    if not label_exists(folder, name):
        yield Finding("error", where, f"label file `{name}` does not exist", expected="a text file in the model folder")
        return
    try:
        check_label(folder, name)
        lines = read_file(folder / name, LABEL_FILE).count(b"\n")
    except TnnError:
        return  # the folder is refused for it
    classes = max((dim for dim in spec.shape if dim is not None), default=0)
    if lines + 1 < classes:
        text = f"label file `{name}` is short"
        yield Finding("warning", where, text, expected=f"{classes} lines", found=f"{lines} lines")


def _warmup(config: ModelConfig, network: Mapping[str, TensorSpec], optional: Sequence[str]) -> Iterator[Finding]:
    tensors = {tensor.name: tensor for tensor in config.input}
    for sample in config.model_warmup:
        where = f"{CONFIG_FILE}, model_warmup `{sample.name}`"
        missing = sorted(set(network) - set(optional) - set(sample.inputs))
        if missing:
            yield Finding(
                "error",
                where,
                f"input `{missing[0]}` is missing",
                expected=", ".join(network),
                found=", ".join(sample.inputs),
            )
        for name, value in sample.inputs.items():
            if name in network:
                dims = complete_tensor(
                    tensors.get(name, TensorConfig(name)), network[name], batched=config.batched
                ).dims
                if not has_shape(value.dims, dims):
                    yield Finding(
                        "error",
                        where,
                        f"input `{name}` has other dims",
                        expected=str(list(dims)),
                        found=str(list(value.dims)),
                    )


def completions(config: ModelConfig, completed: ModelConfig) -> list[str]:
    """What was filled in, a line each."""
    lines = []
    if completed.max_batch_size != config.max_batch_size:
        lines.append(f"max_batch_size: {completed.max_batch_size}")
    if completed.dynamic_batching is not None and config.dynamic_batching is None:
        lines.append("dynamic_batching")
    for section, before, after in (
        ("input", config.input, completed.input),
        ("output", config.output, completed.output),
    ):
        written = {tensor.name: tensor for tensor in before}
        for tensor in after:
            known = written.get(tensor.name, TensorConfig(tensor.name))
            parts = []
            if not known.datatype:
                parts.append(tensor.data_type)
            if not known.dims:
                parts.append(f"dims {list(tensor.dims)}")
            if tensor.reshape is not None and known.reshape is None:
                parts.append(f"reshape {list(tensor.reshape)}")
            if tensor.optional and not known.optional:
                parts.append("optional")
            if parts:
                lines.append(f"{section} `{tensor.name}`: {', '.join(parts)}")
    return lines
