"""What is to be loaded: a version of a model, with the configuration and the options that it is loaded with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from tnn_serving.config.model_config import ModelConfig
from tnn_serving.config.reading import CommandLine, read_settings
from tnn_serving.config.settings import ModelSettings
from tnn_serving.prepare.loaded import Loaded


@dataclass(frozen=True)
class ModelVersion:
    """A version in a model's folder.

    Attributes:
        folder: the model's folder in the repository; the files are in ``folder/<number>``.
        config: Triton's model configuration.
        number: of the version.
        completes: fill in what the configuration leaves out.
        options: defaults of the parameters in config.pbtxt, from the server's command line.
        shown: the folder of the files that texts name, if not that of the version.
    """

    folder: Path
    config: ModelConfig
    number: int
    completes: bool = True
    options: CommandLine = field(default_factory=dict)
    shown: Path | None = None

    @property
    def name(self) -> str:
        """The model's name: the configuration's, or the folder's."""
        return self.config.name or self.folder.name

    @property
    def files(self) -> Path:
        """The folder of the version."""
        return self.folder / str(self.number)

    @cached_property
    def settings(self) -> ModelSettings:
        """The parameters in the configuration and on the command line. Raises ConfigError."""
        return read_settings(self.config, self.options)


Load = Callable[[ModelVersion], Loaded]
"""A way to load a version; raises as :meth:`tnn_serving.serving.servable.Servable.open`."""
