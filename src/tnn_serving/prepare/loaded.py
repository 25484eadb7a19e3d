"""A model that is ready to serve, whether this process has prepared it or a worker."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tnn_serving.config.model_config import ModelConfig
from tnn_serving.config.prototext import top_level_fields
from tnn_serving.config.text import config_text
from tnn_serving.errors import ConfigError
from tnn_serving.prepare.configuring import Configured
from tnn_serving.session import Session


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model that is ready to serve.

    Attributes:
        model: compiled.
        configured: the configuration that it is served with.
        joined_rows: how many rows of several requests run as one inference; 1 for none.
        seconds: of one inference of one row.
    """

    model: Session
    configured: Configured
    joined_rows: int
    seconds: float


def leaves_batching_to_us(folder: Path, config: ModelConfig) -> bool:
    """Whether the configuration says nothing about batches: neither by a number nor by tensors with or without a batch
    dim, those of a warm-up included."""
    if config.input or config.output or config.model_warmup or config.batched:
        return False
    try:
        return "max_batch_size" not in top_level_fields(config_text(folder).decode("latin-1"))
    except ConfigError:
        return False
