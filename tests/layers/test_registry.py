"""The table of type names that TNN knows."""

from __future__ import annotations

import pytest

from tnn_serving.layers.base import Layer, Reserved
from tnn_serving.layers.registry import declaration, declared, derive, is_known, layer, type_number, type_of_number
from tnn_serving.layers.unary import Unary

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


def test_a_derived_type_is_a_class_of_its_own() -> None:
    cls = declaration("Softsign")
    assert (cls.__name__, cls.__module__, cls.__bases__) == ("Softsign", "tnn_serving.layers.activation", (Unary,))
    assert (cls.__doc__ or "").startswith("x / (1 + |x|).")
    with pytest.raises(ValueError, match="Softsign is declared twice"):
        derive(Unary, 320, "Softsign", doc="", module=__name__)
