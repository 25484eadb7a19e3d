"""config.pbtxt as Triton reads it: the same messages, the same strictness."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tnn_serving.config.model_config import CONFIG_FILE, ModelConfig
from tnn_serving.errors import ConfigError
from tnn_serving.formats.reading import FileKind, read_file

CONFIG_MAX_BYTES = 1 << 20
"""Far above any configuration: a thousand tensors take 100 kB."""

CONFIG = FileKind("a config.pbtxt", ConfigError, CONFIG_MAX_BYTES, "Triton reads it whole, and so does whatever polls")


def config_text(model: Path) -> bytes:
    """The text of a model folder's configuration; empty if there is none.

    Raises ConfigError: it is not a regular file, larger than :data:`CONFIG_MAX_BYTES`, or cannot be read.
    """
    file = model / CONFIG_FILE
    return read_file(file, CONFIG) if file.exists() else b""


def read_config(text: str | bytes) -> ModelConfig:
    """The configuration of a text, with every field at its default that the text leaves out.

    Args:
        text: of config.pbtxt; bytes that are not UTF-8 may occur in it, in a string as Python's surrogate escapes.

    Raises:
        ConfigError: not protobuf text, a field that a model configuration does not have (with line and column), or
            larger than :data:`CONFIG_MAX_BYTES`.
    """
    from google.protobuf import json_format

    CONFIG.check(len(text))
    data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")
    # Comments may hold what is not UTF-8; Triton does not mind.
    message = _parsed(data.decode("utf-8", "replace"))
    json = json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return ModelConfig.read(json)


def mean_the_same(first: ModelConfig, second: ModelConfig) -> bool:
    """Whether Triton reads two configurations as the same one, in every field."""
    from google.protobuf import json_format
    from tritonclient.grpc.model_config_pb2 import ModelConfig as ModelConfigMessage

    one, other = (json_format.ParseDict(config.to_json(), ModelConfigMessage()) for config in (first, second))
    return bool(one == other)


def _parsed(text: str) -> Any:
    # Imported here: protobuf and tritonclient's messages take a quarter of a second.
    from google.protobuf import text_format
    from tritonclient.grpc.model_config_pb2 import ModelConfig as ModelConfigMessage

    try:
        return text_format.Parse(text, ModelConfigMessage())
    except text_format.ParseError as error:
        raise ConfigError("config.pbtxt cannot be read", found=str(error).replace(" : ", ": ", 1)) from None
    except RecursionError:
        raise ConfigError("config.pbtxt cannot be read", found="messages nested too deeply") from None
