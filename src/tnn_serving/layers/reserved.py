"""Names that TNN accepts in a file and has no code to execute: most come from its ancestors."""

from __future__ import annotations

from tnn_serving.layers.base import Layer
from tnn_serving.layers.operands import Operand, X
from tnn_serving.layers.parameters import rest, token
from tnn_serving.layers.registry import layer, reserve

reserve(
    {
        "Dropout": 11,
        "Proposal": 13,
        "Eltwise": 15,
        "ArbitraryDimensionSpp": 17,
        "BatchNorm": 18,
        "ReshapeC": 20,
        "LeakyRelu": 40,
        "QuantizeV2": 46,
        "Lstm": 47,
        "Dequantize": 50,
        "ConvolutionDepthwise": 52,
        "ContinuationIndicator": 55,
        "ReshapeTensorflow": 58,
        "lstm_ctc": 61,
        "LabelsequenceAccuracy": 62,
        "Im2colTranspose": 64,
        "Im2col": 65,
        "Transpose": 66,
        "FileInput": 67,
        "Reverse": 68,
        "Tensordot": 71,
        "Prod": 73,
        "Identity": 101,
        "Slice": 102,
        "SliceCaffe": 102,
        "Pack": 106,
        "Placeholder": 107,
        "Add_tf": 109,
        "Mul_tf": 110,
        "Slice_tf": 111,
        "Split_tf": 113,
        "NegReLUMul": 114,
        "NCHW2NHWC": 115,
        "NHWC2NCHW": 116,
        "PReLU_X": 121,
        "Requantize": 122,
        "QuantizedBNGlobal": 123,
        "QuantizedBatchNormCxx": 124,
        "QuantizedMul": 124,
        "QuantizeNCHWTONCHW4": 127,
        "DequantizeNCHW4TONCHW": 128,
        "Square": 129,
        "RealDiv": 134,
        "BN": 135,
        "Interp": 136,
        "DetectionOutputREF": 139,
        "DequantizeNCHW4TONCHWByChannel": 142,
        "QuantizedBatchNormCxxSignedInput": 143,
        "QuantizedAddSignedInput": 144,
        "QuantizedConvolutionSignedInput": 145,
        "QuantizedReluSignedInput": 146,
        "Pooling_nchwc4": 150,
        "QConv2DDequantizeMulAddQuantizeQRelu": 151,
        "DequantizeBnAddBnQuantize": 152,
        "BatchNormQuantizeV2": 154,
        "QuantizeV2ByChannel": 155,
        "QuantizedConvolutionByChannel": 157,
        "QFusedCBRByChannel": 158,
        "Unpack": 159,
        "Fill": 160,
        "ResizeBicubic": 161,
        "FusedBatchNorm": 162,
        "Gru": 165,
        "HardTanH": 166,
        "AdaptiveAvgPool2d": 167,
        "AdaptiveMaxPool2d": 168,
        "CbamFusedReduce": 800,
        "CbamFusedPooling": 801,
        "Dummy": 1000,
        "AnyType": 1001,
    }
)


@layer(14, "ROIPooling")
class RoiPooling(Layer):
    """Pools regions of interest; TNN reads its parameters and has no code for it.

    ONNX: none.
    """

    operands = (X, Operand("rois"))
    results = (Operand("y"),)

    pool_type: int = token("what is taken of a window")
    spatial_scale: float = token("from picture to feature map")
    width: int = token("width of the output")
    height: int = token("height of the output")
    further: tuple[int, ...] = rest("depth of the output, where it has one; TNN ignores any more")

    def tokens(self, *, canonical: bool = False) -> list[str]:
        """As they were read; TNN's writer puts width and height, and then all dims again."""
        read = super().tokens(canonical=canonical)
        return [*read[:4], *read[2:5]] if canonical else read
