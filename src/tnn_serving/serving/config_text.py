"""config.pbtxt to the dict that Triton makes of it, with the same message and the same strictness."""

from __future__ import annotations

from typing import Any

from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2

from tnn_serving.errors import ConfigError

MAX_BYTES = 16 << 20
"""Far above any configuration."""


def read_config(data: bytes) -> dict[str, Any]:
    """The configuration in the form that a backend gets it in: field names as in the file, 64-bit integers as text.

    Raises:
        ConfigError: not protobuf text, or a field that a model configuration does not have; with line and column.
    """
    if len(data) > MAX_BYTES:
        raise ConfigError("config.pbtxt is too large", expected=f"at most {MAX_BYTES} bytes", found=len(data))
    message = model_config_pb2.ModelConfig()
    try:
        text_format.Parse(data.decode("utf-8"), message)
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise ConfigError("config.pbtxt cannot be read", found=str(error).replace(" : ", ": ", 1)) from None
    except RecursionError:
        raise ConfigError("config.pbtxt cannot be read", found="messages nested too deeply") from None
    read: dict[str, Any] = json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return read
