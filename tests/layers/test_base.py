"""The vocabulary of declarations, and the table of type names that TNN knows."""

from __future__ import annotations

import logging
import math
from typing import Any

import numpy as np
import pytest

from tnn_serving.errors import ProtoError, UnsupportedLayer, WeightsError
from tnn_serving.layers.base import Layer, Reserved
from tnn_serving.layers.parameters import CBool, Int64, parse, spell
from tnn_serving.layers.registry import declaration, declared, is_known, layer, make, type_number, type_of_number
from tnn_serving.tensor import PROTO_V1, Tensor

# Appendix A of the format, as written there: what TNN's plain CPU device runs ...
RUNNABLE = """
Convolution 1 Convolution_nhwc 1 QuantizedConvolution 1 QuantizedConvolution_nhwc 1 DynamicRangeQuantizedConvolution 1
BatchNormalization 2 BatchNormCxx 2 BatchNormCxx_nhwc 2 Pooling 4 Pooling_split_CC 4 Pooling_nhwc 4 QuantizedPooling 4
ReLU 5 Relu 5 QuantizedReLU 5 Concat 8 Concat_nhwc 8 QuantizedConcat 8 Reshape 9 QuantizedReshape 9
QuantizedReshapeTensorflow 9 Flatten 10 Flatten_nhwc 10 LRN 12 Scale 16 InnerProduct 19 InnerProduct_nhwc 19
QuantizedInnerProduct 19 DynamicRangeQuantizedInnerProduct 19 Softmax 21 SoftmaxCaffe 21 Softmax_nhwc 21
Deconvolution 22 Sigmoid 23 QuantizedSigmoid 23 Permute 32 QuantizedPermute 32 PriorBox 33 DetectionOutput 34 PReLU 35
PReLU_nhwc 35 Add 38 QuantizedAdd 38 Tanh 39 Abs 41 Mul 42 InstBatchNormCxx 43 Pad 44 Normalize 45 StridedSlice 57
StridedSlice_nhwc 57 ShuffleChannel 63 Power 69 Neg 70 Shape 72 Cast 103 Gather 104 DynamicRangeQuantizedGather 104
MatMul 105 DynamicRangeQuantizedMatMul 105 Sub 108 Squeeze 118 ReLU6 125 Relu6 125 Sqrt 130 Reorg 131 Elu 132
ReduceSum 133 Reduce_Sum 133 Maximum 137 Rsqrt 138 Minimum 140 Exp 141 LogSigmoid 147 Repeat 148 Tile 148 Upsample 149
QuantizedUpsample 149 SplitV 153 Unsqueeze 164 ReduceMean 169 Reformat 170 Clip 171 HardSigmoid 172 HardSwish 173
Softplus 174 Div 175 Sign 176 ReduceMax 177 Cos 178 Acos 179 Sin 180 Asin 181 Tan 182 Atan 183 Log 184 Reciprocal 185
Floor 186 Selu 187 ReduceL1 188 ReduceL2 189 ReduceLogSum 190 ReduceLogSumExp 191 ReduceMin 192 ReduceProd 193
ReduceSumSquare 194 Ceil 195 SignedMul 196 DetectionPostProcess 197 SquaredDifference 198 ArgMaxOrMin 199
Convolution3D 201 Pooling3D 202 Convolution1D 203 Pooling1D 204 HDRGuide 302 PixelShuffle 303 Expand 304 ScatterND 305
StridedSliceV2 306 Erf 307 ConstantOfShape 308 NonZero 309 LSTMONNX 310 DynamicRangeQuantizedLSTMONNX 310 Range 311
Size 312 BitShift 313 Histogram 314 GatherND 315 PadV2 316 RoiAlign 317 GroupNorm 318 OneHot 319 Einsum 321 Inverse 322
GridSample 323 Equal 324 Where 325 LayerNorm 326 GELU 327 TopK 328 Not 329 LogSoftmax 330 ScatterElements 331 And 332
Greater 333 Less 334 NonMaxSuppression 335 Scatter 336 Swish 401 GLU 402
"""

# ... and the names that parse and cannot run there.
NAMES = """
Split 7 Dropout 11 Proposal 13 ROIPooling 14 Eltwise 15 ArbitraryDimensionSpp 17 BatchNorm 18 ReshapeC 20 LeakyRelu 40
QuantizeV2 46 Lstm 47 Dequantize 50 ConvolutionDepthwise 52 BiasAdd 54 QuantizedBiasAdd 54 QuantizedSum 54
ContinuationIndicator 55 ReshapeTensorflow 58 lstm_ctc 61 LabelsequenceAccuracy 62 Im2colTranspose 64 Im2col 65
Transpose 66 FileInput 67 Reverse 68 Tensordot 71 Prod 73 Const 100 Identity 101 Slice 102 SliceCaffe 102 Pack 106
Placeholder 107 Add_tf 109 Mul_tf 110 Slice_tf 111 Split_tf 113 NegReLUMul 114 NCHW2NHWC 115 NHWC2NCHW 116 PReLU_X 121
Requantize 122 QuantizedBNGlobal 123 QuantizedMul 124 QuantizedBatchNormCxx 124 QuantizeNCHWTONCHW4 127
DequantizeNCHW4TONCHW 128 Square 129 RealDiv 134 BN 135 Interp 136 DetectionOutputREF 139
DequantizeNCHW4TONCHWByChannel 142 QuantizedBatchNormCxxSignedInput 143 QuantizedAddSignedInput 144
QuantizedConvolutionSignedInput 145 QuantizedReluSignedInput 146 Pooling_nchwc4 150
QConv2DDequantizeMulAddQuantizeQRelu 151 DequantizeBnAddBnQuantize 152 BatchNormQuantizeV2 154 QuantizeV2ByChannel 155
QuantizedConvolutionByChannel 157 QFusedCBRByChannel 158 Unpack 159 Fill 160 ResizeBicubic 161 FusedBatchNorm 162
Gru 165 HardTanH 166 AdaptiveAvgPool2d 167 AdaptiveMaxPool2d 168 Softsign 320 CbamFusedReduce 800 CbamFusedPooling 801
Dummy 1000 AnyType 1001
"""

NO_ENTRY = {
    "ReLU", "Relu", "QuantizedReLU", "ReLU6", "Relu6", "Abs", "Tanh", "Exp", "Sqrt", "Sign", "LogSigmoid", "GELU",
    "Equal", "Where", "Inverse", "NonZero", "Split",
}  # fmt: skip


def table(text: str) -> dict[str, int]:
    words = text.split()
    return dict(zip(words[::2], map(int, words[1::2]), strict=True))


@pytest.mark.parametrize(("name", "number"), [*table(RUNNABLE).items(), *table(NAMES).items()])
def test_type_names_and_numbers(name: str, number: int) -> None:
    assert is_known(name)
    assert type_number(name) == number
    other = type_of_number(number)
    assert other is not None
    assert type_number(other) == number


def test_no_other_names_are_known() -> None:
    assert set(declared()) <= {*table(RUNNABLE), *table(NAMES)}
    assert not is_known("Nonsense")
    assert type_of_number(999) is None


@pytest.mark.parametrize("name", table(RUNNABLE))
def test_what_tnn_runs_is_declared(name: str) -> None:
    assert declaration(name) is not Reserved
    assert declaration(name).to_onnx is not Layer.to_onnx


def test_types_whose_entries_tnn_refuses() -> None:
    assert {name for name, cls in declared().items() if not cls.entry_allowed} == NO_ENTRY


def test_a_type_is_declared_once() -> None:
    with pytest.raises(ValueError, match="ReLU is declared twice"):
        layer(5, "ReLU")(type("Again", (Layer,), {"__annotations__": {}}))


@pytest.mark.parametrize("name", ["Dropout", "Nonsense"])
def test_reserved_layers_keep_their_tokens_and_refuse_to_run(name: str) -> None:
    made = make(name, "n", ("x",), ("y",), ["1", "two"])
    assert made.tokens() == ["1", "two"]
    assert made.tokens(canonical=True) == []
    with pytest.raises(UnsupportedLayer, match=name):
        made.to_onnx(None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "quantized", "dynamic_range"),
    [
        ("Convolution", False, False),
        ("QuantizedConvolution", True, False),
        ("DynamicRangeQuantizedConvolution", False, True),
        ("QuantizedSum", True, False),
    ],
)
def test_marks(name: str, quantized: bool, dynamic_range: bool) -> None:
    made = declaration(name)(name="n", type=name)
    assert (made.quantized, made.dynamic_range) == (quantized, dynamic_range)


@pytest.mark.parametrize(
    ("text", "kind", "want"),
    [
        ("7", int, 7),
        ("+7", int, 7),
        ("-007", int, -7),
        ("2147483647", int, 2**31 - 1),
        ("-2147483648", int, -(2**31)),
        ("9223372036854775807", Int64, 2**63 - 1),
        ("1", bool, True),
        ("01", bool, True),
        ("2", bool, False),
        ("0", bool, False),
        ("2", CBool, 1),
        ("-1", CBool, 1),
        ("0", CBool, 0),
        ("0.1", float, 0.10000000149011612),
        ("1e-05", float, 9.999999747378752e-06),
        ("1e39", float, math.inf),
        ("-Infinity", float, -math.inf),
        (".5", float, 0.5),
        ("5.", float, 5.0),
        ("a;b", str, "a;b"),
    ],
)
def test_parse(text: str, kind: type, want: Any) -> None:
    got = parse(text, kind)
    assert got == want
    assert isinstance(got, type(want))


@pytest.mark.parametrize(("text", "want"), [("1.9", 1), ("-1.9", -1), (".9", 0), ("-.5", 0), ("3.", 3)])
def test_fractions_are_cut_off_as_c_does(text: str, want: int, caplog: pytest.LogCaptureFixture) -> None:
    assert parse(text, int) == want
    assert text in caplog.text


@pytest.mark.parametrize(
    "text",
    ["", "x", "3abc", "1e3", "0x10", "1_0", "٣", "--1", "nan", "inf", "2147483648", "9" * 5000],
)
@pytest.mark.parametrize("kind", [int, bool, CBool])
def test_what_c_would_misread_as_an_integer(text: str, kind: type) -> None:
    with pytest.raises(ProtoError):
        parse(text, kind)


@pytest.mark.parametrize("text", ["", "x", "1,5", "0x10", "1_0", "1e", "e5", ".", "1.2.3", "٣", "nano"])
def test_what_c_would_misread_as_a_float(text: str) -> None:
    with pytest.raises(ProtoError):
        parse(text, float)


@pytest.mark.parametrize("text", ["9223372036854775808", "-9223372036854775809"])
def test_64_bits(text: str) -> None:
    with pytest.raises(ProtoError, match="64 bits"):
        parse(text, Int64)


@pytest.mark.parametrize(
    ("value", "want"),
    [(1, "1"), (True, "1"), (False, "0"), (CBool(5), "1"), (1.0, "1"), (0.1, "0.1"), (1e-5, "1e-05"),
     (2.0**40, "1.09951e+12"), (3.4028235e38, "3.40282e+38"), (math.inf, "inf"), (-0.0, "-0"), ("a;b", "a;b")],
)  # fmt: skip
def test_spell(value: Any, want: str) -> None:
    assert spell(value) == want


def test_spelling_nan() -> None:
    assert spell(math.nan) == "nan"


def test_surplus_tokens_are_kept_behind() -> None:
    made = make("Softmax", "n", ("x",), ("y",), ["2", "9", "z"])
    assert (made.surplus, made.tokens(), made.tokens(canonical=True)) == (("9", "z"), ["2", "9", "z"], ["2"])


def test_long_list_with_a_missing_end_is_refused_however_long() -> None:
    assert make("SplitV", "n", ("x",), ("y",), ["0", "64"]).slices == (0,) * 64
    with pytest.raises(ProtoError, match="too short"):
        make("SplitV", "n", ("x",), ("y",), ["0", "65"])


def test_weights_that_are_there_in_file_order() -> None:
    made = declaration("BatchNormCxx")(name="n", inputs=("x",), outputs=("y",))
    assert list(made.weights()) == []
    with pytest.raises(WeightsError, match="no `scale` in the model file"):
        made.need("scale")
    made.bias = Tensor.of(np.float32([1]), version=PROTO_V1)
    made.scale = Tensor.of(np.float32([2]))
    assert [spec.name for spec, _ in made.weights()] == ["scale", "bias"]
    assert made.need("scale") is made.scale


def test_unused_log_is_quiet(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        make("Convolution", "n", ("x",), ("y",), ["1", "2", "3", *"1111001", "-1", "1", "1", "0"])
    assert not caplog.records
