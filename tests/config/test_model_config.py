"""Triton's configuration as records: what is read, and that it is written back as it came."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tnn_serving.config.datatypes import NUMPY_TYPE, TRITON_TYPE, triton_type
from tnn_serving.config.model_config import (
    Batching,
    InstanceGroup,
    ModelConfig,
    TensorConfig,
    config_type,
    request_type,
)
from tnn_serving.config.text import CONFIG_MAX_BYTES, mean_the_same, read_config
from tnn_serving.errors import ConfigError, UnsupportedLayer

EVERYTHING = """
name: "m" platform: "" backend: "tnn" max_batch_size: 4
version_policy { specific { versions: [ 1, 3 ] } }
input [
  { name: "x" data_type: TYPE_FP32 format: FORMAT_NCHW dims: [ 3, -1 ] reshape { shape: [ 1, 3, -1 ] }
    allow_ragged_batch: true },
  { name: "s" data_type: TYPE_INT64 dims: [ 1 ] reshape { shape: [ ] } optional: true } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 3 ] label_filename: "labels.txt" } ]
batch_input [ { kind: BATCH_ELEMENT_COUNT target_name: [ "n" ] data_type: TYPE_FP32 source_input: [ "x" ] } ]
optimization { priority: PRIORITY_MAX input_pinned_memory { enable: false } }
instance_group [
  { name: "g" count: 2 kind: KIND_CPU rate_limiter { resources [ { name: "r" global: true count: 1 } ] priority: 2 } },
  { kind: KIND_GPU gpus: [ 0, 1 ] } ]
default_model_filename: "f" cc_model_filenames { key: "a" value: "b" } metric_tags { key: "c" value: "d" }
parameters [ { key: "engine" value: { string_value: "openvino" } }, { key: "none" value: { } } ]
sequence_batching {
  max_sequence_idle_microseconds: 5000000000
  control_input [
    { name: "START" control [ { kind: CONTROL_SEQUENCE_START int32_false_true: [ 0, 1 ] } ] },
    { name: "END" control [ { kind: CONTROL_SEQUENCE_END fp32_false_true: [ 0, 1 ] } ] },
    { name: "READY" control [ { kind: CONTROL_SEQUENCE_READY bool_false_true: [ false, true ] } ] },
    { name: "ID" control [ { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_UINT64 } ] } ]
  oldest { max_candidate_sequences: 3 preferred_batch_size: [ 2, 4 ] } }
model_warmup [ { name: "w" batch_size: 1 count: 2
  inputs { key: "x" value: { data_type: TYPE_FP32 dims: [ 3, 7 ] zero_data: true } } } ]
model_transaction_policy { decoupled: true } response_cache { enable: true }
"""


def as_triton_passes_it(config: ModelConfig) -> dict[str, Any]:
    """Triton gives a backend numbers where protobuf's own JSON has text."""

    def numbers(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: numbers(one) for key, one in value.items()}
        if isinstance(value, list):
            return [numbers(one) for one in value]
        return int(value) if isinstance(value, str) and value.lstrip("-").isdecimal() else value

    found: dict[str, Any] = numbers(config.to_json())
    return found


@pytest.mark.parametrize("numbers", [False, True])
def test_everything_is_written_back_as_it_came(numbers: bool) -> None:
    given = read_config(EVERYTHING).to_json()
    if numbers:
        given = as_triton_passes_it(read_config(EVERYTHING))
        assert given["input"][0]["dims"] == [3, -1]
    before = json.dumps(given)
    assert json.dumps(ModelConfig.read(given).to_json()) == before
    assert json.dumps(given) == before


def test_what_is_used_is_read() -> None:
    config = ModelConfig.read(as_triton_passes_it(read_config(EVERYTHING)))
    x, scalar = config.input
    assert (x.name, x.datatype, x.dims, x.reshape, x.shape) == ("x", "FP32", (3, -1), (1, 3, -1), (1, 3, -1))
    assert (scalar.dims, scalar.reshape, scalar.shape, scalar.optional) == ((1,), (), (), True)
    (y,) = config.output
    assert (y.reshape, y.shape, y.label_filename) == (None, (3,), "labels.txt")
    assert config.version_policy is not None
    assert config.version_policy.specific is not None
    assert config.version_policy.specific.versions == (1, 3)
    assert config.version_policy.all is config.version_policy.latest is None
    assert config.parameters == {"engine": "openvino", "none": ""}
    assert config.batched
    assert config.instances == 3
    assert config.needs_resources
    assert config.preferred_batch_size == (2, 4)
    assert [(tensor.name, tensor.datatype, tensor.dims) for tensor in config.controls] == [
        ("START", "INT32", (1,)),
        ("END", "FP32", (1,)),
        ("READY", "BOOL", (1,)),
        ("ID", "UINT64", (1,)),
    ]
    assert config.model_warmup[0].inputs["x"].dims == (3, 7)


def test_defaults_are_protobufs() -> None:
    """A record made of nothing is the configuration of an empty file."""
    assert ModelConfig() == read_config("")
    assert ModelConfig().to_json() == {}
    (group,) = read_config("instance_group { }").instance_group
    assert InstanceGroup() == group
    assert (ModelConfig().instances, ModelConfig().batched, ModelConfig().needs_resources) == (1, False, False)
    assert read_config("instance_group [ { count: 2 }, { kind: KIND_CPU } ]").instances == 3


def test_only_what_has_changed_is_written() -> None:
    given = as_triton_passes_it(read_config(EVERYTHING))
    config = ModelConfig.read(given)
    x = replace(config.input[0], dims=(3, 5), reshape=None)
    changed = replace(
        config,
        input=(x, *config.input[1:]),
        sequence_batching=None,
        dynamic_batching=Batching(preferred_batch_size=(2,)),
        parameters={"engine": "onnxruntime"},
    )
    wanted = json.loads(json.dumps(given))
    wanted["input"][0]["dims"] = [3, 5]
    del wanted["input"][0]["reshape"]
    del wanted["sequence_batching"]
    wanted["dynamic_batching"] = {"preferred_batch_size": [2]}
    wanted["parameters"] = {"engine": {"string_value": "onnxruntime"}}
    assert changed.to_json() == wanted
    assert ModelConfig.read(given).to_json() == given


def test_a_control_that_clients_send_is_an_input() -> None:
    config = replace(read_config(EVERYTHING), input=(TensorConfig("START", "TYPE_INT32", (1,)),))
    assert [tensor.name for tensor in config.controls] == ["END", "READY", "ID"]


def test_configurations_are_compared_as_triton_reads_them() -> None:
    written = read_config("instance_group { count: 1 } max_batch_size: 0")
    assert mean_the_same(written, ModelConfig(instance_group=(InstanceGroup(count=1),)))
    assert not mean_the_same(written, read_config('instance_group { count: 1 name: "a" }'))


def test_text_that_is_not_utf8_may_occur_in_comments() -> None:
    assert read_config(b"# caf\xe9\nmax_batch_size: 4").max_batch_size == 4
    assert read_config("# caf\udce9\nmax_batch_size: 4").max_batch_size == 4
    with pytest.raises(ConfigError, match="too large"):
        read_config(b" " * (CONFIG_MAX_BYTES + 1))
    with pytest.raises(ConfigError, match="cannot be read"):
        read_config("max_batchsize: 4")


def test_types_map_both_ways() -> None:
    assert {NUMPY_TYPE[name]: name for name in NUMPY_TYPE} == TRITON_TYPE
    for name in (*NUMPY_TYPE, "BF16", "BYTES"):
        assert request_type(config_type(name)) == name
    assert config_type("BYTES") == "TYPE_STRING"
    assert request_type("TYPE_INVALID") == ""
    # Triton's own list of types, the names of its configuration and of its requests.
    from tritonclient.grpc.model_config_pb2 import DataType

    assert {config_type(name) for name in (*NUMPY_TYPE, "BF16", "BYTES")} == {*DataType.keys()} - {"TYPE_INVALID"}


def test_a_type_that_triton_lacks_is_refused() -> None:
    with pytest.raises(
        UnsupportedLayer, match="tensors of complex64 cannot be served: expected a type that Triton has"
    ):
        triton_type(np.dtype(np.complex64))
