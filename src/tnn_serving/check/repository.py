"""Everything that is wrong with a model repository, found before anything is served.

Each model is checked in a worker process of its own, several at a time: a model that hangs, crashes or grows without
bound is a finding like any other.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import cache
from pathlib import Path

import msgspec

from tnn_serving.check.report import Checked, CheckedModel, Finding, of_error
from tnn_serving.config.model_config import BACKEND, CONFIG_FILE, ModelConfig
from tnn_serving.config.reading import CommandLine, read_settings
from tnn_serving.config.settings import ModelSettings
from tnn_serving.emit.limits import process_bytes
from tnn_serving.engines import ENGINES
from tnn_serving.engines.cpu import available_cores
from tnn_serving.errors import TnnError
from tnn_serving.formats.candidates import versions
from tnn_serving.repository import check_repository, model_folders
from tnn_serving.workers.confinement import Confinement, library_paths
from tnn_serving.workers.pool import Workers

HTTP_NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~")
"""Characters of a model's name that need no escape in a URL: Triton's HTTP endpoint decodes no percent encoding."""

TASK_MODULE = "tnn_serving.check.model"

Progress = Callable[[int, int, str], None]
"""Called when a model is done: how many are, of how many, and its name."""


def check(
    repositories: Sequence[Path], options: CommandLine | None = None, *, on_progress: Progress | None = None
) -> Checked:
    """Checks repositories that one server is to serve together.

    Args:
        options: parameters of the server's command line (``--backend-config=tnn,KEY=VALUE``). Its limits of memory and
            time hold for each model; by default those of the parameters themselves.

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
    for model, config in _checked(folders, options or {}, on_progress):
        models.append(model)
        configs[model.name] = config
    _check_names(models)
    for model in models:
        if model.kind == "ensemble":
            model.findings += _steps(configs[model.name], models)
    errors, warnings = (sum(model.count(kind) for model in models) for kind in ("error", "warning"))
    return Checked(models, skipped, errors, warnings)


def _checked(
    folders: Sequence[Path], options: CommandLine, on_progress: Progress | None
) -> list[tuple[CheckedModel, ModelConfig]]:
    """The models in order."""
    if not folders:
        return []
    limits = read_settings(ModelConfig(), options)
    with ThreadPoolExecutor(available_cores().count) as threads:
        futures = {threads.submit(_in_worker, folder, options, limits): folder for folder in folders}
        for done, future in enumerate(as_completed(futures), start=1):
            if on_progress is not None:
                on_progress(done, len(futures), futures[future].name)
        return [future.result() for future in futures]


@cache
def _workers() -> Workers:
    """The process' own: a second check finds the warm process of the first."""
    modules = [module for engine in ENGINES.usable() for module in engine.modules]
    return Workers([TASK_MODULE, *modules], available_cores().count)


def _in_worker(folder: Path, options: CommandLine, limits: ModelSettings) -> tuple[CheckedModel, ModelConfig]:
    """Checks a model in a worker, or says what ended that."""
    try:
        result = _workers().run(
            f"{TASK_MODULE}:check_in_worker",
            {"folder": os.fspath(folder.absolute()), "options": dict(options)},
            confinement=Confinement(
                reads=(folder.resolve(), *library_paths()),
                writes=(limits.cache_dir,) if limits.cache_dir is not None else (),
                memory_bytes=process_bytes(limits.memory_limit_bytes),
            ),
            # Each version is read, translated and opened.
            timeout_s=limits.load_timeout_s * max(1, len(versions(folder))),
        )
    except TnnError as error:
        return CheckedModel(folder.name, os.fspath(folder.parent), BACKEND, findings=[of_error(error)]), ModelConfig()
    model = msgspec.convert(result.value["model"], CheckedModel)
    model.repository = os.fspath(folder.parent)
    return model, ModelConfig.read(result.value["config"])


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
            yield Finding("error", f"step {k}", f"there is no model `{name}`", expected=", ".join(sorted(known)))
        elif wanted >= 0 and target.kind == BACKEND and wanted not in [v.version for v in target.versions if v.served]:
            yield Finding("error", f"step {k}", f"model `{name}` serves no version {wanted}")
        elif target.count("error"):
            yield Finding("error", f"step {k}", f"model `{name}` has errors itself")
