"""config.pbtxt to what Triton makes of it, with the same message and the same strictness."""

from __future__ import annotations

from typing import Any

from tnn_serving.errors import ConfigError

MAX_BYTES = 16 << 20
"""Far above any configuration."""


def parse_config(text: str) -> Any:
    """The ``ModelConfig`` that a text means; bytes that are no UTF-8 may stand in it as Python's surrogate escapes.

    Raises:
        ConfigError: not protobuf text, or a field that a model configuration does not have; with line and column.
    """
    from google.protobuf import text_format  # imported here, with tritonclient's: they take a quarter of a second
    from tritonclient.grpc.model_config_pb2 import ModelConfig

    try:
        # Comments may hold what is no UTF-8; Triton does not mind.
        return text_format.Parse(text.encode("utf-8", "surrogateescape").decode("utf-8", "replace"), ModelConfig())
    except text_format.ParseError as error:
        raise ConfigError("config.pbtxt cannot be read", found=str(error).replace(" : ", ": ", 1)) from None
    except RecursionError:
        raise ConfigError("config.pbtxt cannot be read", found="messages nested too deeply") from None


def read_config(data: bytes) -> dict[str, Any]:
    """The configuration in the form that a backend gets it in: field names as in the file, 64-bit integers as text.

    Raises:
        ConfigError: larger than :data:`MAX_BYTES`, or as :func:`parse_config`.
    """
    from google.protobuf import json_format

    if len(data) > MAX_BYTES:
        raise ConfigError("config.pbtxt is too large", expected=f"at most {MAX_BYTES} bytes", found=len(data))
    read: dict[str, Any] = json_format.MessageToDict(
        parse_config(data.decode("utf-8", "surrogateescape")),
        preserving_proto_field_name=True,
        always_print_fields_with_no_presence=True,
    )
    return read
