"""Everything that is wrong with a model repository, found before anything is served.

Each model is checked in a worker process of its own, several at a time: a model that hangs, crashes or grows without
bound is a finding like any other.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from tnn_serving.check.config import completions, logged
from tnn_serving.check.report import Checked, CheckedModel, CheckedTensor, CheckedVersion, Finding, of_error
from tnn_serving.config.model_config import BACKEND, CONFIG_FILE, ModelConfig, TensorConfig
from tnn_serving.config.reading import CommandLine, read_settings
from tnn_serving.config.settings import ModelSettings
from tnn_serving.emit.limits import process_bytes
from tnn_serving.engines.cpu import available_cores
from tnn_serving.engines.store import FileStore
from tnn_serving.errors import TnnError
from tnn_serving.first_use import made_once
from tnn_serving.formats.candidates import versions
from tnn_serving.nearest import did_you_mean, listed
from tnn_serving.own_files import folder_refusals
from tnn_serving.prepare.model_version import ModelVersion
from tnn_serving.prepare.preparation import Preparation, real_places
from tnn_serving.prepare.prepared import decisive, digests_of, hash_of
from tnn_serving.repository import check_repository, model_folders
from tnn_serving.workers.confinement import Confinement, library_paths

HTTP_NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~")
"""Characters of a model's name that need no escape in a URL: Triton's HTTP endpoint decodes no percent encoding."""

TASK_MODULE = "tnn_serving.check.model"

CHECKED_STORE = "checked"
"""The folder inside a cache folder for models that were found good."""

Progress = Callable[[int, int, str], None]
"""Called when a model is done: how many are, of how many, and its name."""


def check(
    repositories: Sequence[Path],
    options: CommandLine | None = None,
    *,
    allowed: Collection[str] = (),
    on_progress: Progress | None = None,
) -> Checked:
    """Checks repositories that one server is to serve together.

    Args:
        options: parameters of the server's command line (``--backend-config=tnn,KEY=VALUE``). Its limits of memory and
            time hold for each model; by default those of the parameters themselves.
        allowed: further backends of the server, whose models are left to them.

    Raises:
        ServerError: a repository is missing, or is a model and not a repository.
        ConfigError: a parameter of the command line cannot be read.
    """
    folders: list[Path] = []
    skipped: list[str] = []
    for repository in repositories:
        check_repository(repository)
        found, others = model_folders(repository)
        folders += found
        skipped += [f"{other.folder}: {other.reason}" for other in others]
    models: list[CheckedModel] = []
    configs: dict[str, ModelConfig] = {}
    for model, config in _checked(folders, options or {}, allowed, on_progress):
        models.append(model)
        configs[model.name] = config
    _check_names(models)
    for model in models:
        if model.kind == "ensemble":
            model.findings += _steps(configs[model.name], models)
    errors, warnings = (sum(model.count(kind) for model in models) for kind in ("error", "warning"))
    return Checked(models, skipped, errors, warnings)


def _checked(
    folders: Sequence[Path], options: CommandLine, allowed: Collection[str], on_progress: Progress | None
) -> list[tuple[CheckedModel, ModelConfig]]:
    """The models in order."""
    if not folders:
        return []
    limits = read_settings(ModelConfig(), options)
    with logged(), ThreadPoolExecutor(available_cores().count) as threads:  # what is logged is among the findings
        futures = {threads.submit(_in_worker, folder, options, limits, allowed): folder for folder in folders}
        for done, future in enumerate(as_completed(futures), start=1):
            if on_progress is not None:
                on_progress(done, len(futures), futures[future].name)
        return [future.result() for future in futures]


@made_once
def _preparation() -> Preparation:
    """The process' own: a second check finds the warm process of the first."""
    return Preparation([TASK_MODULE])


def _in_worker(
    folder: Path, options: CommandLine, limits: ModelSettings, allowed: Collection[str]
) -> tuple[CheckedModel, ModelConfig]:
    """Checks a model in a worker and prepares it, or says what ended that.

    What was found good is known the next time.
    """
    store = FileStore(None if limits.cache_dir is None else limits.cache_dir / CHECKED_STORE)
    name = _name(folder, options, limits)
    stored = store.get(name) if name and not _is_refused(folder) else None
    if stored is not None:
        known = msgspec.json.decode(stored, type=_Good)
        return replace(known.model, repository=os.fspath(folder.parent)), ModelConfig.read(known.config)
    try:
        result = _preparation().workers.run(
            f"{TASK_MODULE}:check_in_worker",
            {"folder": os.fspath(folder.absolute()), "options": dict(options), "allowed": list(allowed)},
            confinement=Confinement(
                reads=(*real_places(folder), *library_paths()),
                memory_bytes=process_bytes(limits.memory_limit_bytes),
            ),
            # Each version is read and translated.
            timeout_s=limits.load_timeout_s * max(1, len(versions(folder))),
        )
    except TnnError as error:
        return CheckedModel(folder.name, os.fspath(folder.parent), BACKEND, findings=[of_error(error)]), ModelConfig()
    model = msgspec.convert(result.value["model"], CheckedModel)
    model.repository = os.fspath(folder.parent)
    config = ModelConfig.read(result.value["config"])
    if model.kind == BACKEND and not model.count("error"):
        for version in model.versions:
            _prepare(version, model.findings, folder, config, options)
        if name and not any(finding.severity == "error" for _, finding in model.everything()):
            store.put(name, msgspec.json.encode(_Good(model, config.to_json())))
    return model, config


@dataclass(frozen=True, slots=True)
class _Good:
    """A model that was found good, with its configuration as JSON."""

    model: CheckedModel
    config: dict[str, Any]


def _is_refused(folder: Path) -> bool:
    """Whether a server refuses the folder, for links as well, which the files' contents do not show."""
    try:
        return bool(folder_refusals(folder))
    except (TnnError, OSError):
        return True


def _name(folder: Path, options: CommandLine, limits: ModelSettings) -> str | None:
    """The name of what is stored of a model; ``None`` for files that cannot be read, which the check reports."""
    try:
        return hash_of({"files": digests_of(folder, limits.limits()), "options": decisive(options)}) + ".json"
    except (TnnError, OSError):
        return None


def sent(served: ModelConfig, tensors: Sequence[TensorConfig]) -> list[CheckedTensor]:
    """Inputs or outputs of a completed configuration as clients send and get them, the batch included."""
    return [CheckedTensor(one.name, one.datatype, [*(-1,) * served.batched, *one.dims]) for one in tensors]


def _prepare(
    version: CheckedVersion, found: Sequence[Finding], folder: Path, config: ModelConfig, options: CommandLine
) -> None:
    """Prepares a version, so that what passes a check is served, and is served at once. ``found`` is the model's."""
    try:
        prepared = _preparation().prepare(ModelVersion(folder, config, version.version, options=options))
    except TnnError as error:
        finding = of_error(error)
        version.findings.append(finding if version.served else finding.softened())
        return
    version.engine = prepared.choice.engine
    served = prepared.completed(config)
    version.completed = completions(config, served)
    version.inputs, version.outputs = sent(served, served.input), sent(served, served.output)
    known = [finding.problem for finding in (*found, *version.findings)]
    texts = [
        text
        for text in (*prepared.warnings, *prepared.config_warnings)
        if not any(problem in text for problem in known)
    ]
    version.findings += [Finding("warning", "", text) for text in texts]


def _check_names(models: Sequence[CheckedModel]) -> None:
    places: dict[str, list[CheckedModel]] = defaultdict(list)
    for model in models:
        places[model.name].append(model)
        if not set(model.name) <= HTTP_NAME:
            text = "the model can be reached over gRPC only: Triton's HTTP endpoint does not decode percent encoding"
            model.findings.append(Finding("warning", "name", text, found=ascii(model.name)))
    for group in places.values():
        if len(group) > 1:
            text = "the same model is in several repositories; Triton serves none of them"
            found = ", ".join(model.repository for model in group)
            for model in group:
                model.findings.append(Finding("error", "name", text, found=found))


def _steps(config: ModelConfig, models: Sequence[CheckedModel]) -> Iterator[Finding]:
    """What an ensemble's steps lack. Triton itself checks their tensors."""
    steps = config.ensemble_scheduling.step if config.ensemble_scheduling else ()
    if not steps:
        yield Finding("error", CONFIG_FILE, "the ensemble has no steps")
    known = {model.name: model for model in models}
    for k, step in enumerate(steps):
        name, wanted = step.model_name, step.model_version
        target = known.get(name)
        if target is None:
            hint = did_you_mean(name, known) or ""
            yield Finding("error", f"step {k}", f"there is no model `{name}`", expected=listed(known), hint=hint)
        elif wanted >= 0 and target.kind == BACKEND and wanted not in [v.version for v in target.versions if v.served]:
            yield Finding("error", f"step {k}", f"model `{name}` serves no version {wanted}")
        elif target.count("error"):
            yield Finding("error", f"step {k}", f"model `{name}` has errors itself")
