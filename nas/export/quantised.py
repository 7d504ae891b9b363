"""ONNX models with matrix products in int8.

Weights are rounded once, a scale for each of their columns; what flows into a product is rounded as it comes, so no
images are needed to calibrate. Products of two activations (attention itself) and convolutions stay in fp32.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from nas.errors import ExportError, first_line

if TYPE_CHECKING:
    from onnx import ModelProto

_PREPARED = "onnx.quant.pre_process"  # the mark of a model whose shapes are known; the quantiser complains without
_PRODUCTS = {"MatMulInteger", "DynamicQuantizeMatMul", "MatMulIntegerToFloat", "ConvInteger", "DynamicQuantizeLSTM"}
_ROUNDED = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"}


def quantise(model: ModelProto) -> ModelProto:
    """A copy of an fp32 model whose matrix products with constants are int8: ONNX Runtime's dynamic quantisation.
    Raises `ExportError` where the model is quantised already, or cannot be."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    if is_quantised(model):
        raise ExportError("the model is quantised already, and would be rounded twice; give the fp32 model")
    prepared = onnx.ModelProto()
    prepared.CopyFrom(model)
    # The quantiser transposes weights of Gemm; shapes that were noted before then contradict what it infers.
    del prepared.graph.value_info[:]
    known = {entry.key: entry.value for entry in prepared.metadata_props}
    try:
        onnx.helper.set_model_props(prepared, {**known, _PREPARED: "onnxruntime.quant"})
        prepared = onnx.shape_inference.infer_shapes(prepared)
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder) / "int8.onnx"
            quantize_dynamic(
                prepared, made, op_types_to_quantize=["MatMul"], per_channel=True, weight_type=QuantType.QInt8
            )
            quantised = onnx.load(made)
    except Exception as error:  # of many unrelated classes; the first line says what stopped it
        raise ExportError(f"the model could not be quantised: {first_line(error)}") from error
    onnx.helper.set_model_props(quantised, known)
    return quantised


def is_quantised(model: ModelProto) -> bool:
    """Whether any part of a model computes in integers, or rounds to them."""
    return any(node.op_type in _PRODUCTS | _ROUNDED or node.op_type.startswith("QLinear") for node in model.graph.node)
