"""Where the fields of a protobuf text are."""

from __future__ import annotations

import pytest

from tnn_serving.config.prototext import top_level_fields


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("", set()),
        ('backend: "tnn"', {"backend"}),
        ('name : "x"\nmax_batch_size:4', {"name", "max_batch_size"}),
        ("dynamic_batching { }\ninput [ { name: 'backend: x' dims: [ 1, -1 ] } ]", {"dynamic_batching", "input"}),
        ('# backend: "tnn"\nname: "a # platform: b"', {"name"}),
        ('parameters { key: "backend" value: { string_value: "platform:" } }', {"parameters"}),
        ('name: "quote \\" backend: "', {"name"}),
        ('input { backend: "x" }', {"input"}),
        ("version_policy < all { } > platform: 'ensemble'", {"version_policy", "platform"}),
        ("backend:'tnn'", {"backend"}),
        ("max_batch_size: { # and no end", {"max_batch_size"}),
    ],
)
def test_top_level_fields(text: str, fields: set[str]) -> None:
    assert top_level_fields(text) == fields
