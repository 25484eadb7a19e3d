"""What is changed in an OpenVINO network before it is compiled: one table, in the order in which it is done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import openvino as ov

from tnn_serving.engines.base import Options
from tnn_serving.engines.openvino import codes, repairs, rounding
from tnn_serving.engines.openvino.nodes import bodies


def always(options: Options) -> bool:
    """For every network."""
    return True


def exact_codes(options: Options) -> bool:
    """For int8 networks in the exact form."""
    return options.exact_codes


def int8_kernels(options: Options) -> bool:
    """For all others: quantisations become int8 kernels."""
    return not options.exact_codes


@dataclass(frozen=True, slots=True)
class Pass:
    """A change of a network.

    Attributes:
        change: makes it, in place.
        needed: whether anything is left to change in a network; never behind ``change``.
        operators: it is not needed where there is none of these.
        when: whether it is made with these options.
        after: changes that have to be made before it.
        why: the reason for ``after``.
    """

    change: Callable[[ov.Model], None]
    needed: Callable[[ov.Model], bool]
    operators: frozenset[str]
    when: Callable[[Options], bool] = always
    after: tuple[Callable[[ov.Model], None], ...] = ()
    why: str = ""

    @property
    def name(self) -> str:
        """Name of the change."""
        return self.change.__name__


def _any(of: Callable[[ov.Node], bool]) -> Callable[[ov.Model], bool]:
    return lambda network: any(map(of, network.get_ordered_ops()))


PASSES = (
    Pass(repairs.keep_ties_in_order, _any(repairs.leaves_ties_open), frozenset({"TopK"})),
    Pass(repairs.take_one_at_least, _any(repairs.may_take_none), frozenset({"TopK"})),
    Pass(repairs.keep_infinity, _any(repairs.forgets_infinity), frozenset({"ReduceMax", "ReduceMin"})),
    Pass(repairs.truncate_divisions, _any(repairs.rounds_quotients), frozenset({"Divide"})),
    Pass(repairs.widen_single_channels, _any(repairs.convolves_one_channel), frozenset({"Convolution"})),
    Pass(repairs.leave_out_padding, _any(repairs.pools_padding), frozenset({"MaxPool"})),
    Pass(repairs.tile_in_turn, _any(repairs.mixes_up_elements), frozenset({"Tile"})),
    Pass(repairs.keep_at_threshold, _any(repairs.removes_at_threshold), frozenset({"NonMaxSuppression"})),
    Pass(rounding.codes_as_floats, rounding.has_codes_between_floats, frozenset({"Convert"}), when=exact_codes),
    Pass(
        rounding.keep_divisions,
        _any(rounding.may_become_product),
        frozenset({"Divide"}),
        when=exact_codes,
        after=(rounding.codes_as_floats,),
        why="what is put between operators hides the rounding that is looked for",
    ),
    Pass(
        rounding.keep_products,
        _any(rounding.adds_product),
        frozenset({"Multiply"}),
        when=exact_codes,
        after=(rounding.codes_as_floats,),
        why="what is put between operators hides the rounding that is looked for",
    ),
    Pass(rounding.quantise_rounded, _any(rounding.converts_rounded), frozenset({"Convert"}), when=int8_kernels),
    Pass(
        codes.unsigned_codes,
        codes.has_signed_codes,
        frozenset({"FakeQuantize"}),
        when=int8_kernels,
        after=(rounding.quantise_rounded,),
        why="it looks for quantisations",
    ),
    Pass(
        repairs.cut_chains,
        repairs.has_long_chain,
        frozenset(repairs.ACTIVATION_TYPES),
        after=(codes.unsigned_codes, rounding.codes_as_floats),
        why="they replace activations",
    ),
)
"""Each leaves alone what those before it have done."""


def apply(network: ov.Model, options: Options) -> None:
    """Changes a network, with those inside its loops and branches, in place."""
    for model in (network, *bodies(network)):
        operators = _operators(model)
        for step in PASSES:
            if step.when(options) and step.operators & operators and step.needed(model):
                step.change(model)
                model.validate_nodes_and_infer_types()
                operators = _operators(model)


def _operators(network: ov.Model) -> set[str]:
    return {node.get_type_name() for node in network.get_ordered_ops()}
