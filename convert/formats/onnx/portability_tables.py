"""Which operators runtimes have, as their makers publish it: data, no code. A leaf.

A table of the standard domain is either all that a runtime has (`standard`) or what it lacks (`lacks`); the domain
com.microsoft is always what it has. Constant, and Identity, are no runtime's affair: loading takes them away.
"""

from __future__ import annotations

from dataclasses import dataclass

ANY = (1, 99)  # no table says that it ends somewhere


@dataclass(frozen=True)
class Runtime:
    """A runtime and its operators."""

    name: str
    source: str  # of the table
    standard: frozenset[str] = frozenset()
    lacks: frozenset[str] = frozenset()
    microsoft: frozenset[str] = frozenset()
    opsets: tuple[int, int] = ANY


_CPU_MICROSOFT = """
Attention AttnLSTM BeamSearch BiasGelu BifurcationDetector CDist ConvTransposeWithDynamicPads CropAndResize
DecoderMaskedMultiHeadAttention DequantizeLinear DynamicQuantizeLSTM DynamicQuantizeMatMul DynamicTimeWarping
EmbedLayerNormalization ExpandDims FastGelu FusedConv FusedGemm FusedMatMul GatherBlockQuantized GatherND Gelu
GreedySearch GridSample GroupQueryAttention Inverse LinearAttention MRotaryEmbedding MatMulBnb4 MatMulFpQ4
MatMulInteger16 MatMulIntegerToFloat MatMulNBits MaxpoolWithMask MoE MultiHeadAttention MurmurHash3 NGramRepeatBlock
NhwcMaxPool Pad QAttention QEmbedLayerNormalization QGemm QLinearAdd QLinearAveragePool QLinearConcat QLinearConv
QLinearGlobalAveragePool QLinearLeakyRelu QLinearMul QLinearSigmoid QLinearSoftmax QLinearWhere QMoE QuantizeLinear
QuickGelu Range RotaryEmbedding Sampling SkipLayerNormalization SkipSimplifiedLayerNormalization SparseAttention
SparseToDenseMatMul Tokenizer TransposeMatMul Trilu Unique WhisperBeamSearch WordConvEmbedding
"""
_WEBGPU = """
Abs Acos Acosh Add ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization Cast Ceil Clip Concat Constant
Conv ConvTranspose Cos Cosh CumSum DepthToSpace DequantizeLinear Div Einsum Elu Equal Erf Exp Expand Flatten Floor
Gather GatherElements Gelu Gemm GlobalAveragePool GlobalMaxPool Greater GreaterOrEqual HardSigmoid Identity If
InstanceNormalization LayerNormalization LeakyRelu Less LessOrEqual Log MatMul MaxPool Mul Neg Not Pad Pow Range
Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
ReduceSumSquare Relu Reshape Resize Shape Sigmoid SimplifiedLayerNormalization Sin Sinh Slice Softmax Split Sqrt
Squeeze Sub Tan Tanh ThresholdedRelu Tile Transpose Unsqueeze Where
"""
_WEBGPU_MICROSOFT = """
Attention BiasAdd BiasGelu BiasSplitGelu FastGelu FusedConv GatherBlockQuantized Gelu GroupQueryAttention MatMulNBits
MultiHeadAttention QMoE QuickGelu RotaryEmbedding SkipLayerNormalization SkipSimplifiedLayerNormalization
"""
_OPENVINO_LACKS = """
Bernoulli DeformConv Det ImageDecoder LpPool MaxUnpool MelWeightMatrix Optional OptionalGetElement OptionalHasElement
RegexFullMatch SequenceMap StringConcat StringNormalizer StringSplit TfIdfVectorizer
"""
_OPENVINO_MICROSOFT = """
Attention BiasAdd BiasGelu BiasSplitGelu BifurcationDetector DequantizeLinear DynamicQuantizeMatMul
EmbedLayerNormalization FastGelu FusedConv FusedGemm FusedMatMul GatherND Gelu GroupNorm GroupQueryAttention
MatMulIntegerToFloat MatMulNBits Pad QLinearAdd QLinearAveragePool QLinearConcat QLinearLeakyRelu QLinearMul
QLinearReduceMean QLinearSigmoid QLinearSoftmax QLinearWhere QuantizeLinear QuickGelu Range RotaryEmbedding
SimplifiedLayerNormalization SkipLayerNormalization SkipSimplifiedLayerNormalization Trilu
"""
_TENSORRT_LACKS = """
AffineGrid Attention Bernoulli BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor BlackmanWindow Col2Im CenterCropPad
Compress ConcatFromSequence ConvInteger DFT Det DynamicQuantizeLinear HammingWindow HannWindow ImageDecoder
MatMulInteger MaxRoiPool MaxUnpool MelWeightMatrix Multinomial NegativeLogLikelihoodLoss Optional OptionalGetElement
OptionalHasElement QLinearConv QLinearMatMul RegexFullMatch RMSNormalization RotaryEmbedding STFT SequenceAt
SequenceConstruct SequenceEmpty SequenceErase SequenceInsert SequenceLength SequenceMap SoftmaxCrossEntropyLoss
SplitToSequence StringConcat StringNormalizer StringSplit TfIdfVectorizer Unique
"""
_QNN = """
Abs Add And ArgMax ArgMin Asin Atan AveragePool BatchNormalization Cast Ceil Clip Concat Constant Conv ConvTranspose
Cos CumSum DepthToSpace DequantizeLinear Div Einsum Elu Equal Exp Expand Flatten Floor GRU Gather GatherElements
GatherND Gelu Gemm GlobalAveragePool GlobalMaxPool Greater GreaterOrEqual GridSample GroupNormalization HardSigmoid
HardSwish Identity InstanceNormalization IsNaN LRN LSTM LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax
LpNormalization MatMul Max MaxPool Mean Min Mod Mul Neg NonZero Not Or PRelu Pad Pow QuantizeLinear RMSNormalization
RandomNormalLike RandomUniformLike Reciprocal ReduceL2 ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum Relu
Reshape Resize RoiAlign RotaryEmbedding Round STFT ScatterElements ScatterND Selu Sigmoid Sign
SimplifiedLayerNormalization Sin Slice Softmax Softplus SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh
ThresholdedRelu Tile TopK Transpose Unsqueeze Upsample Where Xor
"""
_QNN_MICROSOFT = "DequantizeLinear FusedMatMul Gelu Inverse MatMulNBits QuantizeLinear QuickGelu RotaryEmbedding"


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_CPU_SOURCE = "onnxruntime 1.31.1, its registry of CPU kernels"
RUNTIMES = (
    Runtime("ONNX Runtime CPU", _CPU_SOURCE, lacks=_set("ImageDecoder"), microsoft=_set(_CPU_MICROSOFT)),
    Runtime("ONNX Runtime Web WASM", _CPU_SOURCE, lacks=_set("ImageDecoder"), microsoft=_set(_CPU_MICROSOFT)),
    Runtime(
        "ONNX Runtime Web WebGPU",
        "microsoft/onnxruntime, core/providers/webgpu/webgpu_execution_provider.cc and its contrib kernels",
        standard=_set(_WEBGPU),
        microsoft=_set(_WEBGPU_MICROSOFT),
    ),
    Runtime(
        "OpenVINO",
        "openvinotoolkit/openvino, src/frontends/onnx/docs/supported_ops.md",
        lacks=_set(_OPENVINO_LACKS),
        microsoft=_set(_OPENVINO_MICROSOFT),
    ),
    Runtime(
        "TensorRT",
        "onnx/onnx-tensorrt, docs/operators.md of 10.0",
        lacks=_set(_TENSORRT_LACKS),
        opsets=(9, 20),
    ),
    Runtime(
        "QNN",
        "onnxruntime/onnxruntime-qnn, core/providers/qnn/builder/op_builder_factory.cc",
        standard=_set(_QNN),
        microsoft=_set(
            "DequantizeLinear FusedMatMul Gelu Inverse MatMulNBits QuantizeLinear QuickGelu RotaryEmbedding"
        ),
    ),
)
