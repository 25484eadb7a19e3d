"""The paths of a model and its configuration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tnn_serving.config.model_config import CONFIG_FILE
from tnn_serving.errors import ConfigError
from tnn_serving.formats.candidates import versions


@dataclass(frozen=True, slots=True)
class ModelPaths:
    """The paths of a model and its configuration.

    Attributes:
        model: a model folder, a version folder, another folder with the files, or a model file.
        config: its ``config.pbtxt``, which may not exist; ``None`` for files outside a repository.
    """

    model: Path
    config: Path | None

    @classmethod
    def of(cls, model: Path) -> ModelPaths:
        """From a user's path. Raises ConfigError if it does not exist."""
        if not model.exists():
            raise ConfigError(f"no model at {model}", expected="a model folder such as models/face")
        source = model.resolve()
        if source.is_dir() and versions(source):
            return cls(source, source / CONFIG_FILE)
        if source.is_dir() and source.name.isdecimal():
            return cls(source, source.parent / CONFIG_FILE)
        return cls(source, None)
