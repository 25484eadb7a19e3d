"""Everything that is wrong with a model repository, found before anything is served.

Each model is looked at as the server would, but a problem does not end the look: contradictions, layers and files are
all named. What has no error is then opened as the backend opens it, so that what passes here is served.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tnn_serving.analysis import analyse
from tnn_serving.check.config import (
    Finding,
    completions,
    contradictions,
    logged,
    of_error,
    policy,
    settings_of,
)
from tnn_serving.config.model_config import BACKEND, CONFIG_FILE, TRITON_TYPE
from tnn_serving.config.parameters import TRUE, text_of, with_defaults
from tnn_serving.config.settings import Settings, limits_of
from tnn_serving.config.text import read_config
from tnn_serving.emit.limits import spelled_bytes
from tnn_serving.engines import TensorSpec
from tnn_serving.errors import FormatError, TnnError
from tnn_serving.formats.tnn.files import model_files, onnx_file
from tnn_serving.network.tnn import TnnNetwork
from tnn_serving.prepare import manifest
from tnn_serving.prepare.loading import open_network
from tnn_serving.repository import check_repository, is_ours, model_folders, versions
from tnn_serving.serving.servable import Servable
from tnn_serving.translate.graph import refusals

HTTP_NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~")
"""Characters of a model's name that a URL takes as they are: Triton's HTTP endpoint undoes no percent encoding."""


@dataclass(frozen=True, slots=True)
class CheckedFile:
    """A file of a model version."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class CheckedTensor:
    """An input or output as a client sees it, -1 where a dim is free."""

    name: str
    datatype: str
    dims: list[int]


@dataclass(frozen=True, slots=True)
class Memory:
    """An estimate, at the default shapes: weights as stored and as the engine gets them, and the most that is alive of
    activations at one time."""

    stored_bytes: int
    weights_bytes: int
    activations_bytes: int


@dataclass(slots=True)
class CheckedVersion:
    """One version. ``batch`` says whether the rows of a batch are independent, and why not; ``engine`` is empty where
    it was not opened; ``completed`` is what ``config.pbtxt`` leaves out."""

    version: int
    served: bool
    files: list[CheckedFile] = field(default_factory=list)
    layers: int = 0
    inputs: list[CheckedTensor] = field(default_factory=list)
    outputs: list[CheckedTensor] = field(default_factory=list)
    engine: str = ""
    batch: str = ""
    memory: Memory | None = None
    completed: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)


@dataclass(slots=True)
class CheckedModel:
    """A model folder. ``kind`` is "tnn", "ensemble", or the backend or platform that judges it."""

    name: str
    repository: str
    kind: str
    versions: list[CheckedVersion] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def everything(self) -> Iterator[tuple[int | None, Finding]]:
        """Findings of the model and of its versions, with the version's number."""
        yield from ((None, finding) for finding in self.findings)
        yield from ((version.version, finding) for version in self.versions for finding in version.findings)

    def count(self, severity: Literal["error", "warning", "note"]) -> int:
        """How many findings are of this kind."""
        return sum(finding.severity == severity for _, finding in self.everything())


@dataclass(slots=True)
class Checked:
    """All models of all repositories; ``skipped`` are folders that are none."""

    models: list[CheckedModel]
    skipped: list[str]
    errors: int
    warnings: int


def check(repositories: Sequence[Path], options: Mapping[str, str] | None = None) -> Checked:
    """Looks at repositories that one server is to serve together.

    Args:
        options: parameters of the server's command line (``--backend-config=tnn,KEY=VALUE``).

    Raises:
        ServerError: a repository is missing, or is a model and no repository.
    """
    models: list[CheckedModel] = []
    skipped: list[str] = []
    configs: dict[str, Mapping[str, Any]] = {}
    for repository in repositories:
        check_repository(repository)
        folders, others = model_folders(repository)
        skipped += [f"{other.folder}: {other.reason}" for other in others]
        for folder in folders:
            model, config = _model(folder, options or {})
            models.append(model)
            configs[model.name] = config
    _check_names(models)
    for model in models:
        if model.kind == "ensemble":
            model.findings += _steps(configs[model.name], models)
    errors, warnings = (sum(model.count(kind) for model in models) for kind in ("error", "warning"))
    return Checked(models, skipped, errors, warnings)


def _model(folder: Path, options: Mapping[str, str]) -> tuple[CheckedModel, Mapping[str, Any]]:
    model = CheckedModel(folder.name, os.fspath(folder.parent), BACKEND)
    config: dict[str, Any] = read_config(b"")
    try:
        file = folder / CONFIG_FILE
        if file.exists():
            config = read_config(file.read_bytes())
    except OSError as error:
        model.findings.append(Finding("error", CONFIG_FILE, f"cannot be read: {error.strerror}"))
    except TnnError as error:
        model.findings.append(of_error(error, CONFIG_FILE))
    stated = str(config["backend"] or config["platform"])
    if stated != BACKEND and (stated or not is_ours(folder)):
        model.kind = stated or "unknown"
        if model.kind == "unknown" and not model.findings:
            model.findings.append(
                Finding("error", CONFIG_FILE, "neither backend nor platform, and no files of TNN: nothing can serve it")
            )
        elif model.kind != "ensemble":
            model.findings.append(Finding("note", CONFIG_FILE, f"left to `{stated}`, not judged here"))
        return model, config
    if config["name"] and config["name"] != folder.name:
        model.findings.append(
            Finding("error", CONFIG_FILE, "name differs from the folder's", expected=folder.name, found=config["name"])
        )
    config.update(name=folder.name, backend=BACKEND)
    served = policy(config, folder, model.findings)
    settings = settings_of(config, options, model.findings)
    model.findings += _sums(folder, text_of(with_defaults(config, options), "require_manifest"))
    for path in versions(folder):
        version = CheckedVersion(int(path.name), int(path.name) in served)
        model.versions.append(version)
        with logged() as told:
            _version(version, folder, path, config, options, settings, may_open=not model.count("error"))
        known = {finding.problem for finding in model.findings}
        version.findings += [Finding("warning", "", text) for text in told if text not in known]
        if not version.served:
            version.findings = [finding.softened() for finding in version.findings]
            version.findings.append(Finding("note", CONFIG_FILE, "not served: version_policy leaves it out"))
    return model, config


def _sums(folder: Path, required: str) -> list[Finding]:
    if not (folder / manifest.MANIFEST).exists():
        if required.lower() in TRUE:
            return [Finding("error", manifest.MANIFEST, "there is none, and `require_manifest` demands one")]
        return []
    try:
        return [of_error(problem, manifest.MANIFEST) for problem in manifest.verify(folder)]
    except FormatError as error:
        return [of_error(error, manifest.MANIFEST)]


def _version(
    report: CheckedVersion,
    folder: Path,
    path: Path,
    config: Mapping[str, Any],
    options: Mapping[str, str],
    settings: Settings,
    *,
    may_open: bool,
) -> None:
    try:
        report.files = _files(path)
        network = open_network(path, limits_of(with_defaults(config, options)))
        if isinstance(network, TnnNetwork):
            report.layers = len(network.graph.layers)
            report.findings += [of_error(problem) for problem in refusals(network.graph, given=network.optional)]
        if report.findings:
            return
        _, dependence = network.batched(network.outputs)
        analysis, _ = analyse(network, pictures=settings.pictures, raw_int8=settings.raw_int8, obstacle=dependence)
    except (TnnError, OSError) as error:
        report.findings.append(of_error(error))
        return
    inputs = [TensorSpec(blob.name, blob.dtype, blob.known) for blob in analysis.inputs]
    blobs = {blob.name: TensorSpec(blob.name, blob.dtype, blob.known) for blob in analysis.blobs}
    optional = network.optional
    report.inputs = [_tensor(spec) for spec in inputs]
    report.outputs = [_tensor(blobs[name]) for name in network.outputs if name in blobs]
    stored = sum(file.bytes for file in report.files)
    report.memory = Memory(stored, analysis.compiled_bytes, analysis.activation_bytes)
    report.batch = dependence or "rows are independent"
    report.findings += _batch(dependence, inputs, int(config["max_batch_size"]))
    report.findings += contradictions(config, folder, inputs, blobs, optional, settings)
    if not may_open or any(finding.severity == "error" for finding in report.findings):
        return
    try:
        opened = Servable.open(folder, config, version=report.version, options=options)
    except TnnError as error:
        report.findings.append(of_error(error))
        return
    report.engine = opened.model.engine
    report.completed = completions(config, opened.config)
    opened.close()


def _tensor(spec: TensorSpec) -> CheckedTensor:
    return CheckedTensor(spec.name, TRITON_TYPE[spec.dtype], [-1 if dim is None else dim for dim in spec.shape])


def _files(version: Path) -> list[CheckedFile]:
    """The files that make the model. Raises FormatError as opening it does."""
    file = onnx_file(version)
    files = model_files(version) if file is None else (file,)
    return [CheckedFile(path.name, path.stat().st_size, manifest.sha256_of(path)) for path in files if path]


def _batch(dependence: str | None, inputs: Sequence[TensorSpec], max_batch_size: int) -> Iterator[Finding]:
    """What stands in the way of batches, if the configuration wants any."""
    if max_batch_size < 2 or dependence is None:
        return
    stuck = [spec for spec in inputs if not spec.shape or spec.shape[0] is not None]
    if stuck:
        told = ", ".join(f"`{spec.name}` {_tensor(spec).dims}" for spec in stuck)
        text = f"max_batch_size is {max_batch_size}, but the network does not take another first dim"
        yield Finding("warning", CONFIG_FILE, text, found=told, hint=dependence)
    else:
        yield Finding("note", CONFIG_FILE, "requests of a batch are run one by one", found=dependence)


def _check_names(models: Sequence[CheckedModel]) -> None:
    places: dict[str, list[CheckedModel]] = defaultdict(list)
    for model in models:
        places[model.name].append(model)
        if not set(model.name) <= HTTP_NAME:
            text = "the name can be asked for over gRPC only: Triton's HTTP endpoint does not undo percent encoding"
            model.findings.append(Finding("warning", "name", text, found=ascii(model.name)))
    for group in places.values():
        if len(group) > 1:
            told = ", ".join(model.repository for model in group)
            for model in group:
                model.findings.append(
                    Finding(
                        "error", "name", "the same model is in several repositories; Triton serves none", found=told
                    )
                )


def _steps(config: Mapping[str, Any], models: Sequence[CheckedModel]) -> Iterator[Finding]:
    """What an ensemble's steps lack. Their tensors are for Triton to judge."""
    steps = config.get("ensemble_scheduling", {}).get("step", [])
    if not steps:
        yield Finding("error", CONFIG_FILE, "the ensemble has no steps")
    known = {model.name: model for model in models}
    for k, step in enumerate(steps):
        name, wanted = step.get("model_name", ""), int(step.get("model_version", -1))
        target = known.get(name)
        if target is None:
            yield Finding("error", f"step {k}", f"there is no model `{name}`", expected=", ".join(sorted(known)))
        elif wanted >= 0 and target.kind == BACKEND and wanted not in [v.version for v in target.versions if v.served]:
            yield Finding("error", f"step {k}", f"model `{name}` serves no version {wanted}")
        elif target.count("error"):
            yield Finding("error", f"step {k}", f"model `{name}` has errors itself")


def spelled_memory(memory: Memory | None) -> str:
    """The estimate for people."""
    if memory is None:
        return ""
    return spelled_bytes(memory.weights_bytes + memory.activations_bytes)
