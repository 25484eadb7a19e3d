"""Rewritings of an OpenVINO model where its CPU plugin would compute something else than ONNX says."""

from __future__ import annotations

import numpy as np
import openvino as ov
from openvino import opset13 as ops

from tnn_serving.engines.openvino.nodes import keep_apart, replace, source


def keep_ties_in_order(network: ov.Model) -> None:
    """Makes every TopK stable: ONNX says that of equal values the lower index comes first, OpenVINO leaves it open."""
    for node in network.get_ordered_ops():
        if node.get_type_name() == "TopK":
            node.set_attribute("stable", True)


def truncate_divisions(network: ov.Model) -> None:
    """Makes divisions of integers cut off the rest, as ONNX says.

    Where a division can be computed ahead of time OpenVINO rounds down, and behind a reduction it computes both as
    float32 and rounds to the nearest.
    """
    for node in network.get_ordered_ops():
        if node.get_type_name() != "Divide" or not node.get_element_type().is_integral():
            continue
        node.set_attribute("m_pythondiv", False)
        if source(node).get_type_name().startswith("Reduce"):
            keep_apart(node.input(0))


def widen_single_channels(network: ov.Model) -> None:
    """Gives strided convolutions of one input channel a second one of zeros.

    The plugin's AVX-512 kernel for them (2026.4) answers with garbage where the output is one element wide and the
    batch larger than about three.
    """
    for node in network.get_ordered_ops():
        if node.get_type_name() == "Convolution" and _may_be_miscomputed(node):
            filters = np.array(node.input_value(1).get_node().get_data())
            spatial = filters.ndim - 2
            none, one = [0] * (spatial + 2), [0, 1, *(0,) * spatial]
            padded = ops.pad(node.input_value(0), none, one, "constant", ops.constant(np.float32(0)))
            attributes = node.get_attributes()
            wider = ops.convolution(
                padded,
                ops.constant(np.concatenate([filters, np.zeros_like(filters)], axis=1)),
                attributes["strides"],
                attributes["pads_begin"],
                attributes["pads_end"],
                attributes["dilations"],
                attributes["auto_pad"],
            )
            replace(node, wider)


def _may_be_miscomputed(node: ov.Node) -> bool:
    filters = node.input_value(1)
    if filters.get_node().get_type_name() != "Constant" or filters.get_element_type() != ov.Type.f32:
        return False
    width = node.get_output_partial_shape(0)[-1]
    return bool(
        filters.get_shape()[1] == 1
        and filters.get_shape()[-1] > 1
        and node.get_attributes()["strides"][-1] > 1
        and (width.is_dynamic or width.get_length() == 1)
    )
