"""Tests mirror ``src/``: a module ``a/b.py`` is tested in ``tests/a/test_b.py``, or where this table says."""

from __future__ import annotations

from pathlib import Path

TESTS = Path(__file__).parent
SOURCE = TESTS.parent / "src" / "tnn_serving"

ELSEWHERE: dict[str, tuple[str, ...]] = {
    "check/test_repository.py": ("check/config.py", "check/model.py", "check/report.py"),
    "cli/test_app.py": ("cli/help.py", "cli/output.py"),
    "client/load/test_loop.py": ("client/load/grpc.py", "client/load/http.py", "client/load/message.py"),
    "client/load/test_measure.py": ("client/load/bench.py", "client/load/options.py"),
    "client/test_faces.py": ("client/detect.py",),
    "config/test_binding.py": ("config/reshape.py",),
    "config/test_model_config.py": ("config/datatypes.py", "config/message.py", "config/text.py"),
    "config/test_settings.py": ("config/declaration.py", "config/readers.py", "config/reading.py"),
    "conformance/test_cases.py": ("layers/constant.py", "layers/window.py"),
    "conformance/test_int8_forms.py": ("emit/int8.py",),
    "conformance/test_models.py": ("network/tnn.py", "translate/fusion.py"),
    "conversion/test_convert.py": ("conversion/check.py", "conversion/compress.py"),
    "conversion/test_network.py": ("conversion/origin.py",),
    "conversion/test_node_cases.py": (
        "conversion/functions.py",
        "conversion/lowering/arithmetic.py",
        "conversion/lowering/logic.py",
        "conversion/lowering/quantized.py",
        "conversion/lowering/rules.py",
        "conversion/lowering/sequence.py",
        "conversion/lowering/tensor.py",
        "conversion/lowering/window.py",
    ),
    "demo/test_build.py": ("cli/demo.py", "demo/centerface.py", "demo/efficientnet.py", "demo/labels.py"),
    "emit/test_builder.py": ("emit/inference.py",),
    "end_to_end/test_existing_triton.py": ("cli/backend.py",),
    "end_to_end/test_observed.py": ("serving/observer.py", "triton/backend/metrics.py"),
    "end_to_end/test_pictures.py": ("pictures/encode.py",),
    "end_to_end/test_picture_inputs.py": ("pictures/conversion.py", "translate/pictures.py", "network/onnx_pixels.py"),
    "end_to_end/test_serving.py": ("triton/backend/bridge.py",),
    "end_to_end/test_supervision.py": (
        "cli/serve.py",
        "cli/served.py",
        "service/install.py",
        "service/serve.py",
        "triton/supervise.py",
    ),
    "engines/test_concurrency.py": ("engines/background.py",),
    "engines/test_choose.py": ("engines/timing.py",),
    "engines/test_onnx_cases.py": ("engines/openvino/errors.py",),
    "engines/test_engines.py": (
        "engines/base.py",
        "engines/onnxruntime/engine.py",
        "engines/onnxruntime/session.py",
        "engines/openvino/compilation.py",
        "engines/openvino/engine.py",
        "engines/openvino/executable.py",
        "engines/openvino/exported.py",
        "engines/openvino/nodes.py",
        "engines/openvino/plugin.py",
        "engines/openvino/repairs.py",
        "engines/openvino/requests.py",
        "engines/openvino/restoring.py",
    ),
    "formats/tnn/test_broken.py": ("errors.py", "formats/tnn/payload.py", "formats/tnn/tensor.py", "tensor.py"),
    "guards/test_graph.py": (
        "guards/checks.py",
        "guards/executable.py",
        "guards/facts.py",
        "guards/nodes.py",
        "guards/rules.py",
        "guards/sizes.py",
    ),
    "hostile/test_sizes.py": ("formats/onnx/external.py",),
    "layers/test_base.py": ("layers/weights.py",),
    "layers/test_layers.py": ("layers/reserved.py",),
    "look/test_compare.py": ("look/defaults.py",),
    "look/test_profile.py": ("engines/onnxruntime/profile.py", "engines/openvino/profile.py"),
    "network/test_onnx.py": ("formats/onnx/check.py", "formats/onnx/file.py"),
    "network/test_onnx_types.py": ("formats/onnx/types.py",),
    "network/test_views.py": ("look/summary.py", "network/onnx_layers.py", "network/tnn_layers.py"),
    "pictures/test_decode.py": ("pictures/limits.py",),
    "pictures/test_mat.py": ("pictures/color.py", "pictures/planes.py"),
    "prepare/test_preparation.py": (
        "prepare/folder.py",
        "prepare/loaded.py",
        "prepare/model_version.py",
        "prepare/opened.py",
        "prepare/prepared.py",
        "prepare/tasks.py",
        "prepare/warming.py",
    ),
    "prepare/test_sizes.py": ("network/onnx_memory.py", "prepare/side_files.py"),
    "prepare/test_loading.py": ("prepare/configuring.py", "prepare/shared.py"),
    "serving/test_servable.py": ("serving/tensors.py",),
    "shield/test_limits.py": ("shield/configuration.py", "shield/metrics.py"),
    "shield/test_connections.py": ("shield/clusters.py",),
    "shield/test_paths.py": ("shield/routes.py",),
    "shield/test_supervision.py": (
        "cli/shield.py",
        "shield/envoy.py",
        "shield/front.py",
        "shield/running.py",
        "triton/front.py",
    ),
    "soak/test_run.py": ("cli/soak.py", "soak/models.py", "soak/report.py", "soak/requests.py", "soak/traffic.py"),
    "test_model.py": ("choices.py", "session.py"),
    "test_analysis.py": ("network/analyse.py", "network/base.py"),
    "test_package.py": ("version.py", "cache.py"),
    "test_random_weights.py": ("layers/draw.py",),
    "translate/test_row_walk.py": ("translate/rows.py",),
    "triton/backend/test_contract.py": ("triton/backend/contract_header.py",),
    "triton/test_health.py": ("triton/index.py", "triton/probe.py"),
    "triton/test_overlay.py": ("repository.py",),
    "triton/test_health_port.py": ("triton/supervisor_metrics.py",),
    "tune/test_page.py": ("tune/report.py",),
    "tune/test_search.py": ("tune/space.py",),
    "workers/test_pool.py": ("workers/confinement.py", "workers/messages.py", "workers/server.py"),
}
"""Modules without a test file of their own, by the file that tests them: they are parts of what that file is about."""


def modules() -> set[str]:
    found = (path.relative_to(SOURCE).as_posix() for path in SOURCE.rglob("*.py"))
    return {module for module in found if not module.endswith("__init__.py")}


def own_test(module: str) -> Path:
    path = Path(module)
    return TESTS / path.parent / f"test_{path.stem}.py"


def test_each_module_is_tested_at_its_mirror_path_or_is_listed() -> None:
    listed = {module for group in ELSEWHERE.values() for module in group}
    assert {module for module in modules() if not own_test(module).is_file()} == listed


def test_the_files_of_the_table_exist() -> None:
    assert [file for file in ELSEWHERE if not (TESTS / file).is_file()] == []
