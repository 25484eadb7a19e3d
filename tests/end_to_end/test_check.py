"""What `check` calls an error is refused by the real server, and what it passes is served."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tritonclient.http
from tritonclient.utils import InferenceServerException

from tests.end_to_end.models import BROKEN, RELU, write_model
from tests.servers import Running, ask, wait_for
from tnn_serving.check.report import Checked
from tnn_serving.check.repository import check
from tnn_serving.prepare.manifest import sign

LABELS = 'output [{ name: "y" label_filename: "%s" }]\n'
INPUT = 'input [{ name: "%s" data_type: %s dims: [ %s ] }]\n'
ANY = "-1, -1, -1, -1"
NO_LABELS = LABELS % "../labels.txt"

CONFIGS = {
    "good": None,
    "with space": None,
    "named": 'name: "another"\n',
    "policy_some": "version_policy { specific { versions: [1, 3] } }\n",
    "policy_none": "version_policy { specific { versions: [3] } }\n",
    "labels_missing": LABELS % "nowhere.txt",
    "labels_outside": NO_LABELS,
    "syntax": "max_batch_size: {\n",
    "unknown_field": "max_batchsize: 3\n",
    "wrong_type": INPUT % ("x", "TYPE_INT32", ANY),
    "wrong_dims": INPUT % ("x", "TYPE_FP32", "0, 3"),
    "wrong_name": INPUT % ("z", "TYPE_FP32", ANY),
    "wrong_output": 'output [{ name: "z" data_type: TYPE_FP32 dims: [ -1 ] }]\n',
    "parameter_unknown": 'parameters [{ key: "scael" value: { string_value: "1" } }]\n',
    "parameter_bad": 'parameters [{ key: "NUM_STREAMS" value: { string_value: "x" } }]\n',
    "batch_negative": "max_batch_size: -3\n",
    "batch": "max_batch_size: 4\ndynamic_batching { }\n",
    "gpu": "instance_group [{ kind: KIND_GPU }]\n",
    "twice": INPUT % ("x", "TYPE_FP32", ANY) * 2,
    "warm_good": 'model_warmup [{ name: "w" batch_size: 1 inputs { key: "x" '
    "value: { data_type: TYPE_FP32 dims: [ 1, 1, 2, 2 ] zero_data: true } } }]\n",
    "warm_bad": 'model_warmup [{ name: "w" batch_size: 1 inputs { key: "z" '
    "value: { data_type: TYPE_FP32 dims: [ 1 ] zero_data: true } } }]\n",
    "cache": 'parameters [{ key: "cache_dir" value: { string_value: "/tmp" } }]\n',
    "too_large": 'parameters [{ key: "memory_limit_bytes" value: { string_value: "100" } }]\n',
}

NO_UTF8 = {
    "latin1_comment": b"# caf\xe9\nmax_batch_size: 4\n",
    "latin1_step": b"ensemble_scheduling { step { model_name: '\xff' } }\n",
    "ascii_step": b"ensemble_scheduling { step { model_name: 'good' } }\n",
    "latin1_value": b'parameters [{ key: "note" value: { string_value: "caf\xe9" } }]\n',
}

STEP = """platform: "ensemble"
input [{ name: "a" data_type: TYPE_FP32 dims: [ -1, -1, -1, -1 ] }]
output [{ name: "b" data_type: TYPE_FP32 dims: [ -1, -1, -1, -1 ] }]
ensemble_scheduling { step [{ model_name: "%s" model_version: %d
  input_map { key: "x" value: "a" } output_map { key: "y" value: "b" } }] }
"""


def ensemble(repository: Path, name: str, step: str, version: int = -1) -> None:
    (repository / name / "1").mkdir(parents=True)
    (repository / name / "config.pbtxt").write_text(STEP % (step, version))


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    first, second = (tmp_path_factory.mktemp("checked") for _ in range(2))
    for name, config in CONFIGS.items():
        write_model(first, name, config=config)
    for name, text in NO_UTF8.items():
        (write_model(first, name) / "config.pbtxt").write_bytes(text)
    (first / "labels.txt").write_text("secret\n")
    write_model(first, "double")
    write_model(second, "double")
    write_model(first, "broken", proto=BROKEN)
    write_model(first, "cut", proto=RELU[:40])
    write_model(first, "new_broken")
    write_model(first, "new_broken", version=2, proto=BROKEN)
    write_model(first, "old_broken", proto=BROKEN)
    write_model(first, "old_broken", version=2)
    sign(write_model(first, "signed"))
    sign(write_model(first, "signed_config", config="max_batch_size: 2\n"))
    sign(write_model(first, "changed"))
    (first / "changed" / "1" / "proto.tnnproto").write_bytes(RELU.replace(b"8 8", b"8 9"))
    sign(write_model(first, "extra"))
    (first / "extra" / "1" / "notes.txt").write_text("new")
    ensemble(first, "chain", "good")
    ensemble(first, "chain_missing", "nowhere")
    ensemble(first, "chain_version", "good", 7)
    ensemble(first, "chain_broken", "broken")
    return [first, second]


@pytest.fixture(scope="module")
def checked(repositories: list[Path]) -> Checked:
    return check(repositories)


def test_errors_are_refused_and_the_rest_is_served(
    repositories: list[Path], checked: Checked, start_server: Callable[..., Running]
) -> None:
    running = start_server(repositories, ["--strict-readiness=false"])
    assert running.ready, running.outcome
    ready = {model.name for model in running.ready[0] if model.ready}
    good = {model.name for model in checked.models if not model.count("error")}
    bad = {model.name for model in checked.models if model.count("error")}
    assert good == ready
    assert not bad & ready
    assert {
        "good",
        "with space",
        "old_broken",
        "policy_some",
        "signed",
        "signed_config",
        "chain",
        "latin1_comment",
        "latin1_value",
    } <= good
    assert {"new_broken", "changed", "extra", "labels_outside", "too_large", "chain_broken", "double"} <= bad


@pytest.mark.slow
def test_a_model_that_only_grpc_can_reach_is_warned_of(checked: Checked) -> None:
    (model,) = (model for model in checked.models if model.name == "with space")
    assert [finding.severity for finding in model.findings] == ["warning"]
    assert "gRPC" in model.findings[0].problem


def test_a_version_that_misses_its_recorded_case_leaves_the_old_one_serving(
    tmp_path: Path, start_server: Callable[..., Running]
) -> None:
    model = write_model(tmp_path, "net")
    running = start_server([tmp_path], ["--model-control-mode=explicit", "--load-model=net"])
    x = np.array([[[[-1, 2]]]], np.float32)
    write_model(tmp_path, "net", version=2)
    np.savez(model / "2" / "check.npz", **{"in.x": x, "out.y": x})
    with running.http() as client:

        def refusal() -> str:
            try:
                client.load_model("net")
            except InferenceServerException as error:
                return str(error.message())
            return ""

        told = wait_for(refusal, "version 2 is refused")
        assert "check.npz, output `y`" in told
        assert "worst at [0, 0, 0, 0]" in told
        assert "expected -1 within 0.002, found 0" in told
        result = ask((tritonclient.http, client), "net", x)
        assert result.get_response()["model_version"] == "1"
        np.testing.assert_array_equal(result.as_numpy("y"), np.maximum(x, 0))
        np.savez(model / "2" / "check.npz", **{"in.x": x, "out.y": np.maximum(x, 0)})
        client.load_model("net")
        assert ask((tritonclient.http, client), "net", x).get_response()["model_version"] == "2"
