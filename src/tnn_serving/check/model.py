"""Everything that is wrong with one model folder.

A model is read as the server reads it, but to the end: every contradiction, layer and file at fault is named.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from tnn_serving.check.config import contradictions, logged, served_versions, settings_of
from tnn_serving.check.report import (
    CheckedFile,
    CheckedModel,
    CheckedTensor,
    CheckedVersion,
    Finding,
    Memory,
    of_error,
)
from tnn_serving.config.completion import SCALAR
from tnn_serving.config.datatypes import triton_type
from tnn_serving.config.model_config import BACKEND, CONFIG_FILE, ModelConfig
from tnn_serving.config.reading import CommandLine
from tnn_serving.config.settings import ModelSettings
from tnn_serving.config.text import config_text, read_config
from tnn_serving.engines import TensorSpec
from tnn_serving.errors import FormatError, TnnError
from tnn_serving.formats.candidates import versions
from tnn_serving.network.analyse import analyse
from tnn_serving.network.formats import model_files, open_network
from tnn_serving.own_files import ENSEMBLE, folder_refusals, foreign
from tnn_serving.prepare import manifest
from tnn_serving.repository import is_ours


def check_in_worker(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The task of a worker: :func:`check_model` with its arguments and its result in JSON's types."""
    model, config = check_model(Path(arguments["folder"]), arguments["options"], arguments["allowed"])
    return {"model": msgspec.to_builtins(model), "config": config.to_json()}


def check_model(folder: Path, options: CommandLine, allowed: Collection[str] = ()) -> tuple[CheckedModel, ModelConfig]:
    """Checks a model folder.

    Args:
        options: parameters of the server's command line.
        allowed: further backends of the server, whose models are left to them.

    Returns:
        What was found, and the configuration as it was read.
    """
    model = CheckedModel(folder.name, os.fspath(folder.parent), BACKEND)
    config = _config(folder, model.findings)
    stated = config.backend or config.platform
    if stated != BACKEND and (stated or not is_ours(folder)):
        model.kind = stated or "unknown"
        if model.kind == "unknown" and not model.findings:
            model.findings.append(
                Finding("error", CONFIG_FILE, "no backend, no platform, and no model files: nothing can serve it")
            )
        elif model.kind == ENSEMBLE:
            model.findings += _refusals(folder)
        elif model.kind in allowed:
            model.findings.append(Finding("note", CONFIG_FILE, f"left to `{stated}`, not checked here"))
        else:
            model.findings.append(of_error(foreign(stated), CONFIG_FILE).softened())
        return model, config
    model.findings += _refusals(folder)
    if config.name and config.name != folder.name:
        model.findings.append(
            Finding("error", CONFIG_FILE, "name differs from the folder's", expected=folder.name, found=config.name)
        )
    config = replace(config, name=folder.name, backend=BACKEND)
    served = served_versions(config, folder, model.findings)
    settings = settings_of(config, options, model.findings)
    model.findings += _sums(folder, settings)
    for path in versions(folder):
        version = CheckedVersion(int(path.name), int(path.name) in served)
        model.versions.append(version)
        with logged() as warnings:
            _version(version, folder, path, config, settings)
        known = [finding.problem for finding in (*model.findings, *version.findings)]
        version.findings += [Finding("warning", "", t) for t in warnings if not any(problem in t for problem in known)]
        if not version.served:
            version.findings = [finding.softened() for finding in version.findings]
            version.findings.append(Finding("note", CONFIG_FILE, "not served: version_policy leaves it out"))
    return model, config


def _refusals(folder: Path) -> list[Finding]:
    """What a server refuses the folder for."""
    try:
        return [of_error(problem, CONFIG_FILE) for problem in folder_refusals(folder)]
    except (TnnError, OSError) as error:
        return [of_error(error)]


def _config(folder: Path, findings: list[Finding]) -> ModelConfig:
    """The configuration of a model folder, the empty one if it has none or cannot be read."""
    try:
        return read_config(config_text(folder))
    except TnnError as error:
        findings.append(of_error(error, CONFIG_FILE))
    return ModelConfig()


def _sums(folder: Path, settings: ModelSettings) -> list[Finding]:
    if not manifest.has_manifest(folder):
        if settings.require_manifest:
            return [Finding("error", manifest.MANIFEST, "missing, and `require_manifest` demands one")]
        return []
    try:
        return [of_error(problem, manifest.MANIFEST) for problem in manifest.verify(folder)]
    except FormatError as error:
        return [of_error(error, manifest.MANIFEST)]


def _version(
    report: CheckedVersion,
    folder: Path,
    path: Path,
    config: ModelConfig,
    settings: ModelSettings,
) -> None:
    try:
        network = open_network(path, settings.limits())
        report.files = _files(path)
        report.layers = len(network.layers())
        report.findings += [of_error(problem) for problem in network.refusals()]
        if report.findings:
            return
        asked = config.max_batch_size > 1
        batched, dependence = network.batched(network.outputs, asked=asked)
        shown = batched if asked and dependence is None else network
        pictures = settings.conversions
        outputs = list(dict.fromkeys([*network.outputs, *(tensor.name for tensor in config.output)]))
        analysis, _ = analyse(
            shown, outputs=outputs, pictures=pictures, raw_int8=settings.raw_int8, obstacle=dependence
        )
        inputs = {blob.name: TensorSpec(blob.name, blob.dtype, blob.known) for blob in analysis.inputs}
        blobs = {blob.name: TensorSpec(blob.name, blob.dtype, blob.known) for blob in analysis.blobs}
        report.inputs = [_tensor(spec) for spec in inputs.values()]
        report.outputs = [_tensor(blobs[name]) for name in network.outputs if name in blobs]
    except (TnnError, OSError) as error:
        report.findings.append(of_error(error))
        return
    stored = sum(file.bytes for file in report.files)
    report.memory = Memory(stored, analysis.compiled_bytes, analysis.activation_bytes)
    report.batch = dependence or "rows are independent"
    report.findings += _batch(dependence, report.inputs, config.max_batch_size)
    report.findings += contradictions(config, folder, inputs, blobs, network.optional, settings)


def _tensor(spec: TensorSpec) -> CheckedTensor:
    dims = [-1 if dim is None else dim for dim in spec.shape]
    return CheckedTensor(spec.name, triton_type(spec.dtype), dims or [*SCALAR])


def _files(version: Path) -> list[CheckedFile]:
    """The files that make the model, which has been opened: their sizes are within its limits."""
    return [CheckedFile(f.name, f.stat().st_size, manifest.sha256_of(f)) for f in model_files(version)]


def _batch(dependence: str | None, inputs: Sequence[CheckedTensor], max_batch_size: int) -> Iterator[Finding]:
    """What prevents batches, if the configuration wants any."""
    if max_batch_size < 2 or dependence is None:
        return
    fixed = [tensor for tensor in inputs if tensor.dims[:1] != [-1]]
    if fixed:
        found = ", ".join(f"`{tensor.name}` {tensor.dims}" for tensor in fixed)
        text = f"max_batch_size is {max_batch_size}, but the network does not take another first dim"
        yield Finding("warning", CONFIG_FILE, text, found=found, hint=dependence)
    else:
        yield Finding("note", CONFIG_FILE, "requests of a batch are run one by one", found=dependence)
