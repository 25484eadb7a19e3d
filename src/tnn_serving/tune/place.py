"""Where a model is, and the configuration that belongs to it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tnn_serving.config.model_config import CONFIG_FILE
from tnn_serving.errors import ConfigError
from tnn_serving.formats.candidates import versions


@dataclass(frozen=True, slots=True)
class Place:
    """A model and its configuration.

    Attributes:
        model: a model folder, one version's folder, a bare folder with the files, or a .tnnproto.
        config: its ``config.pbtxt``, which need not exist; ``None`` for files that are in no repository.
    """

    model: Path
    config: Path | None

    @classmethod
    def of(cls, model: Path) -> Place:
        """The place of a path that a user gives. Raises ConfigError if there is nothing."""
        if not model.exists():
            raise ConfigError(f"no model at {model}", expected="a model folder such as models/face")
        source = model.resolve()
        if source.is_dir() and versions(source):
            return cls(source, source / CONFIG_FILE)
        if source.is_dir() and source.name.isdecimal():
            return cls(source, source.parent / CONFIG_FILE)
        return cls(source, None)
