"""Rewritings of an OpenVINO network where its CPU plugin would compute something else than ONNX says, or fail.

Each has a function that says whether a node, or the network, needs it.
"""

from __future__ import annotations

import numpy as np
import openvino as ov
from openvino import opset13 as ops
from openvino import opset14

from tnn_serving.engines.openvino.nodes import keep_apart, readers_of, replace, source

LONGEST_CHAIN = 16
"""Activations in a row that are left alone. The plugin joins them all with the convolution or product before them,
whose kernels take 32, and some activations need several of these."""

ACTIVATION_TYPES = {
    "Abs",
    "Ceiling",
    "Elu",
    "Erf",
    "Exp",
    "Floor",
    "Gelu",
    "HSigmoid",
    "HSwish",
    "Log",
    "Mish",
    "Negative",
    "Relu",
    "Round",
    "Selu",
    "Sigmoid",
    "SoftPlus",
    "SoftSign",
    "Sqrt",
    "Swish",
    "Tanh",
}

COMPARISONS = {"Equal", "Greater", "GreaterEqual", "IsInf", "Less", "LessEqual", "NotEqual"}

MIXED_UP_FROM = 4
"""Axes from which on computed repeats of Tile are not safe."""

THRESHOLD = 3
"""Number of the input of NonMaxSuppression from which on an overlap removes a box."""

REPAIRED = "tnn_serving_repaired"
"""Mark of nodes on which a repair does not show otherwise."""

SMALLEST = float(np.finfo(np.float32).tiny)
"""OpenVINO takes smaller numbers for 0."""

NEXT = 6.1e-8
"""A number and this share of it are rounded to the next float32."""


# ---- TopK ----


def leaves_ties_open(node: ov.Node) -> bool:
    """A TopK that takes equal values in any order."""
    return bool(node.get_type_name() == "TopK" and not node.get_attributes()["stable"])


def keep_ties_in_order(network: ov.Model) -> None:
    """Makes every TopK stable: in ONNX, of equal values the lower index comes first."""
    for node in filter(leaves_ties_open, network.get_ordered_ops()):
        node.set_attribute("stable", True)


def may_take_none(node: ov.Node) -> bool:
    """A TopK that learns in each inference how many values to take: for none it leaves its outputs as they were."""
    return bool(
        node.get_type_name() == "TopK"
        and node.input_value(1).get_node().get_type_name() != "Constant"
        and REPAIRED not in node.get_rt_info()
    )


def take_one_at_least(network: ov.Model) -> None:
    """Takes one value at least, and leaves it out where none is wanted."""
    for node in filter(may_take_none, network.get_ordered_ops()):
        count = node.input_value(1)
        readers = [list(output.get_target_inputs()) for output in node.outputs()]
        dtype = count.get_element_type().to_dtype()
        node.input(1).replace_source_output(ops.maximum(count, ops.constant(np.array(1, dtype))).output(0))
        node.get_rt_info()[REPAIRED] = True
        end = ops.reshape(count, ops.constant(np.array([1])), special_zero=False)
        start, step = (ops.constant(np.array([value], dtype)) for value in (0, 1))
        axis = ops.constant(np.array([node.get_attributes()["axis"]], np.int64))
        for output, targets in zip(node.outputs(), readers, strict=True):
            taken = ops.slice(output, start, end, step, axis).output(0)
            for target in targets:
                target.replace_source_output(taken)


# ---- extremes ----


def forgets_infinity(node: ov.Node) -> bool:
    """A maximum or minimum that is compared: of nothing but infinities the plugin gives the farthest finite number."""
    return bool(
        node.get_type_name() in ("ReduceMax", "ReduceMin")
        and node.get_element_type().is_real()
        and any(reader.get_type_name() in COMPARISONS for reader in readers_of(node))
        and REPAIRED not in node.get_rt_info()
    )


def keep_infinity(network: ov.Model) -> None:
    """Makes such a maximum or minimum infinite."""
    for node in filter(forgets_infinity, network.get_ordered_ops()):
        node.get_rt_info()[REPAIRED] = True
        readers = list(node.output(0).get_target_inputs())
        x, axes = node.input_values()
        is_max = node.get_type_name() == "ReduceMax"
        infinity = ops.constant(np.array(-np.inf if is_max else np.inf, x.get_element_type().to_dtype()))
        inside = ops.greater(x, infinity) if is_max else ops.less(x, infinity)
        some = ops.reduce_logical_or(inside, axes, node.get_attributes()["keep_dims"])
        made = ops.select(some, node, infinity).output(0)
        for reader in readers:
            reader.replace_source_output(made)


# ---- division ----


def rounds_quotients(node: ov.Node) -> bool:
    """A division of integers that does not cut off the rest.

    Where it can be computed ahead of time OpenVINO rounds down; behind a reduction it computes both as float32 and
    rounds to the nearest.
    """
    if node.get_type_name() != "Divide" or not node.get_element_type().is_integral():
        return False
    return bool(node.get_attributes()["m_pythondiv"]) or source(node).get_type_name().startswith("Reduce")


def truncate_divisions(network: ov.Model) -> None:
    """Makes divisions of integers cut off the rest, as in ONNX."""
    for node in filter(rounds_quotients, network.get_ordered_ops()):
        node.set_attribute("m_pythondiv", False)
        if source(node).get_type_name().startswith("Reduce"):
            keep_apart(node.input(0))


# ---- convolution and pooling ----


def convolves_one_channel(node: ov.Node) -> bool:
    """A strided convolution of one input channel to what may be one column.

    The plugin's AVX-512 kernel for them (2026.4) answers with garbage where the batch is larger than about three.
    """
    if node.get_type_name() != "Convolution":
        return False
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


def widen_single_channels(network: ov.Model) -> None:
    """Gives such convolutions a second input channel of zeros."""
    for node in filter(convolves_one_channel, network.get_ordered_ops()):
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


def pools_padding(node: ov.Node) -> bool:
    """A MaxPool in ceil mode that has windows which begin behind the input."""
    return bool(node.get_type_name() == "MaxPool" and node.get_attributes()["rounding_type"] == "ceil")


def leave_out_padding(network: ov.Model) -> None:
    """Leaves such windows out, as ONNX does."""
    for node in filter(pools_padding, network.get_ordered_ops()):
        attributes = node.get_attributes()
        pooled = opset14.max_pool(
            node.input_value(0),
            attributes["strides"],
            attributes["dilations"],
            attributes["pads_begin"],
            attributes["pads_end"],
            attributes["kernel"],
            "ceil_torch",
            attributes["auto_pad"],
            attributes["index_element_type"],
            attributes["axis"],
        )
        replace(node, pooled)


# ---- Tile ----


def mixes_up_elements(node: ov.Node) -> bool:
    """A Tile of four axes or more whose repeats are computed: elements change places where several are repeated."""
    if node.get_type_name() != "Tile" or REPAIRED in node.get_rt_info():
        return False
    repeats = node.input_value(1)
    count = repeats.get_partial_shape()[0]
    return bool(
        repeats.get_node().get_type_name() != "Constant" and count.is_static and count.get_length() >= MIXED_UP_FROM
    )


def tile_in_turn(network: ov.Model) -> None:
    """Repeats two axes at a time."""
    for node in filter(mixes_up_elements, network.get_ordered_ops()):
        repeats = node.input_value(1)
        axes = np.arange(repeats.get_partial_shape()[0].get_length())
        dtype = repeats.get_element_type().to_dtype()
        tiled = node.input_value(0)
        for first in axes[::2]:
            chosen = ((axes == first) | (axes == first + 1)).astype(dtype)
            some = ops.add(ops.multiply(repeats, ops.constant(chosen)), ops.constant(1 - chosen))
            made = ops.tile(tiled, some)
            made.get_rt_info()[REPAIRED] = True
            tiled = made.output(0)
        replace(node, made)


# ---- NonMaxSuppression ----


def removes_at_threshold(node: ov.Node) -> bool:
    """A NonMaxSuppression: OpenVINO removes boxes whose overlap is the threshold, ONNX only those above it."""
    return bool(node.get_type_name() == "NonMaxSuppression" and REPAIRED not in node.get_rt_info())


def keep_at_threshold(network: ov.Model) -> None:
    """Makes the threshold the next larger number."""
    for node in filter(removes_at_threshold, network.get_ordered_ops()):
        threshold = node.input_value(THRESHOLD)
        raised = ops.add(threshold, ops.multiply(threshold, ops.constant(np.float32(NEXT))))
        node.input(THRESHOLD).replace_source_output(ops.maximum(raised, ops.constant(np.float32(SMALLEST))).output(0))
        node.get_rt_info()[REPAIRED] = True


# ---- chains ----


def has_long_chain(network: ov.Model) -> bool:
    """Whether more activations follow each other than the plugin's kernels can take in."""
    return any(length > LONGEST_CHAIN for length in _chains(network).values())


def cut_chains(network: ov.Model) -> None:
    """Keeps activations apart after every :data:`LONGEST_CHAIN`."""
    lengths = _chains(network)
    for node in network.get_ordered_ops():
        length = lengths.get(node.get_friendly_name(), 0)
        if length > 1 and length % LONGEST_CHAIN == 1:
            keep_apart(node.input(0))


def _chains(network: ov.Model) -> dict[str, int]:
    """Activations by name, with the number of those that end there without another operator between."""
    found: dict[str, int] = {}
    for node in network.get_ordered_ops():
        if node.get_type_name() in ACTIVATION_TYPES:
            found[node.get_friendly_name()] = found.get(source(node).get_friendly_name(), 0) + 1
    return found
