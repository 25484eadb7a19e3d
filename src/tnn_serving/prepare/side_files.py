"""What Triton itself reads of a model folder once the backend has taken the model: class names and warm-up requests."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tnn_serving.config.datatypes import NUMPY_TYPE
from tnn_serving.config.model_config import ModelConfig, request_type
from tnn_serving.emit.limits import Limits
from tnn_serving.errors import ConfigError, FormatError, located
from tnn_serving.formats.reading import FileKind, opened
from tnn_serving.own_files import check_label, folder_refusals

WARMUP_FOLDER = "warmup"
"""Where Triton looks for the files of ``input_data_file``."""

WARMUP = FileKind("a warm-up", ConfigError)

REFERENCE = np.dtype(np.uint32)
"""An element of a type that has no fixed size, when it is empty: its length."""


def check_side_files(folder: Path, config: ModelConfig, limits: Limits) -> None:
    """Looks at all of them. Raises as :func:`check_labels` and :func:`check_warmup`, and ConfigError for code in the
    folder."""
    try:
        problems = folder_refusals(folder)
    except OSError as error:
        raise FormatError(f"{folder} cannot be read: {error.strerror}") from error
    for problem in problems:
        raise problem
    check_labels(folder, config)
    check_warmup(folder, config, limits)


def check_labels(folder: Path, config: ModelConfig) -> None:
    """Raises ConfigError as :func:`~tnn_serving.own_files.check_label`."""
    for tensor in config.output:
        if tensor.label_filename:
            check_label(folder, tensor.label_filename)


def check_warmup(folder: Path, config: ModelConfig, limits: Limits) -> None:
    """Looks at the tensors of warm-up requests.

    Raises:
        LimitError: one, or the file that has its data, is larger than the memory for the model.
        ConfigError: its file is missing or no regular one.
    """
    for sample in config.model_warmup:
        for name, value in sample.inputs.items():
            with located(f"model_warmup `{sample.name}`, input `{name}`"):
                dtype = NUMPY_TYPE.get(request_type(value.data_type), REFERENCE)
                limits.check_tensor((max(1, sample.batch_size), *value.dims), dtype)
                if value.input_data_file:
                    with opened(folder / WARMUP_FOLDER / value.input_data_file, WARMUP, limits):
                        pass
