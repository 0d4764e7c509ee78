"""A graph of torch.export as an ONNX file."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from pathlib import Path
from typing import Any

import torch

from pconv_cuda.errors import PConvError

__all__ = ["write_onnx"]

_INPUTS, _OUTPUTS = ("image", "mask"), ("output", "new_mask")
_MOST = 2**31 - 2**20  # bytes of one protobuf message


def write_onnx(program: Any, path: Path, description: dict[str, str]) -> None:
    """Write one file without external data, with named axes and ``description`` as its metadata.

    Raises:
        PConvError: a network of more than 2 GiB.
    """
    import onnx

    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            made = torch.onnx.export(
                program, (), None, dynamo=True, verbose=False, optimize=True, input_names=_INPUTS, output_names=_OUTPUTS
            )
    finally:
        logger.setLevel(level)
    assert made is not None
    model = made.model_proto
    _clean(model.graph)
    used = _used(model.graph)
    for index in reversed(range(len(model.graph.initializer))):
        if model.graph.initializer[index].name not in used:  # onnxruntime warns of each
            del model.graph.initializer[index]
    for value in (*model.graph.input, *model.graph.output):
        axes = value.type.tensor_type.shape.dim
        for axis, name in ((0, "batch"), (2, "height"), (3, "width")):
            axes[axis].ClearField("dim_value")
            axes[axis].dim_param = name
    model.producer_name = "pconv-cuda"
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, description)
    if model.ByteSize() > _MOST:
        raise PConvError(f"export: expected at most 2 GiB in one ONNX file, got {model.ByteSize():,} bytes")
    path.write_bytes(model.SerializeToString())


def _used(graph: Any) -> set[str]:
    """Names that nodes of the graph, and of the graphs in it, read, and its outputs."""
    names = {output.name for output in graph.output}
    for node in graph.node:
        names.update(node.input)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                names |= _used(attribute.g)
    return names


def _clean(graph: Any) -> None:
    """Removes inner shapes and each node's Python source lines, which hold paths."""
    del graph.value_info[:]
    graph.doc_string = ""
    for node in graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _clean(attribute.g)
    for each in (*graph.input, *graph.output, *graph.initializer):
        del each.metadata_props[:]
        each.doc_string = ""
