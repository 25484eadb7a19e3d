"""What a model folder has beside the files of a version, before anything of these is read."""

from __future__ import annotations

from pathlib import Path

from tnn_serving.config.model_config import ModelConfig
from tnn_serving.config.prototext import top_level_fields
from tnn_serving.config.settings import ModelSettings
from tnn_serving.config.text import config_text
from tnn_serving.errors import ConfigError
from tnn_serving.prepare.manifest import check_manifest
from tnn_serving.prepare.side_files import check_side_files


def check_folder(folder: Path, config: ModelConfig, settings: ModelSettings, *, version: int) -> None:
    """Looks at the manifest, and at what Triton itself is going to read.

    Raises FormatError, ConfigError, LimitError: the version is not to be loaded.
    """
    check_side_files(folder, config, settings.limits())
    check_manifest(folder, version=version, required=settings.require_manifest)


def leaves_batching_to_us(folder: Path, config: ModelConfig) -> bool:
    """Whether the configuration says nothing about batches: neither by a number nor by tensors with or without a batch
    dim, those of a warm-up included."""
    if config.input or config.output or config.model_warmup or config.batched:
        return False
    try:
        return "max_batch_size" not in top_level_fields(config_text(folder).decode("latin-1"))
    except ConfigError:
        return False
