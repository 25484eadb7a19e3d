"""Files of class names, which Triton reads into memory after the backend has taken the model."""

from __future__ import annotations

from pathlib import Path

from tnn_serving.config.model_config import ModelConfig, TensorConfig
from tnn_serving.errors import ConfigError, located
from tnn_serving.formats.reading import FileKind, opened

LABELS_MAX_BYTES = 16 << 20
"""Far above any list of classes: ImageNet's 21,841 take less than 1 MB. Triton takes 4 times as much."""

LABELS = FileKind("a label file", ConfigError, LABELS_MAX_BYTES, "it has a line for each class")


def label_file(folder: Path, tensor: TensorConfig) -> Path:
    """The label file of an output; a link is followed, as Triton follows it."""
    return folder / tensor.label_filename


def check_labels(folder: Path, config: ModelConfig) -> None:
    """Looks at the label files before Triton reads them.

    Raises:
        ConfigError: one is missing, no regular file, or larger than :data:`LABELS_MAX_BYTES`.
    """
    for tensor in config.output:
        if tensor.label_filename:
            with located(f"label file `{tensor.label_filename}`"), opened(label_file(folder, tensor), LABELS):
                pass
