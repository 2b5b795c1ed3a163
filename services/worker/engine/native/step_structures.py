"""The structures of decoder_step.c, field by field in its order, and how tensors become pointers in them."""

import ctypes

from services.worker.engine.native.coded_structures import CodedInputsStructure, CodedStructure

STEP_PARTS = ("norms", "query, key, value", "rope and attention", "attention's output", "gate and up", "down")
"""What `seconds` of a step is told of, in its order."""

_POINTER, _INTEGER, _FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float


class LinearStructure(ctypes.Structure):
    _fields_ = [
        ("packed", _POINTER),
        ("bias", _POINTER),
        ("columns", _INTEGER),
        ("inner", _INTEGER),
        ("coded", ctypes.POINTER(CodedStructure)),
    ]


class LayerStructure(ctypes.Structure):
    _fields_ = [
        ("input_norm", _POINTER),
        ("inner_norm", _POINTER),
        ("query_norm", _POINTER),
        ("key_norm", _POINTER),
        ("query_key_value", LinearStructure),
        ("output", LinearStructure),
        ("gate_up", LinearStructure),
        ("down", LinearStructure),
        ("angles", _POINTER),
        ("keys", _POINTER),
        ("values", _POINTER),
        ("frame", _POINTER),
        ("rotary_size", _INTEGER),
        ("window", _INTEGER),
        ("layout", _INTEGER),
        ("cell_format", _INTEGER),
        ("cell_bytes", _INTEGER),
        ("scale", _FLOAT),
        ("soft_cap", _FLOAT),
    ]


class LayoutStructure(ctypes.Structure):
    _fields_ = [("slots", _POINTER), ("block_tables", _POINTER), ("table_size", _INTEGER)]


class StepStructure(ctypes.Structure):
    _fields_ = [
        ("layouts", ctypes.POINTER(LayoutStructure)),
        ("positions", _POINTER),
        ("context_lengths", _POINTER),
        ("query_starts", _POINTER),
        ("residual", _POINTER),
        ("normed", _POINTER),
        ("projected", _POINTER),
        ("queries", _POINTER),
        ("attended", _POINTER),
        ("update", _POINTER),
        ("gated", _POINTER),
        ("coded", CodedInputsStructure),
        ("scratch", _POINTER),
        ("seconds", _POINTER),
        ("tokens", _INTEGER),
        ("sequences", _INTEGER),
        ("singles", _INTEGER),
        ("block_size", _INTEGER),
        ("scratch_bytes", _INTEGER),
        ("runs", _INTEGER),
    ]


class DecoderStructure(ctypes.Structure):
    _fields_ = [
        ("layers", ctypes.POINTER(LayerStructure)),
        ("num_layers", _INTEGER),
        ("hidden", _INTEGER),
        ("num_query_heads", _INTEGER),
        ("num_kv_heads", _INTEGER),
        ("head_size", _INTEGER),
        ("inner", _INTEGER),
        ("is_gelu", _INTEGER),
        ("epsilon", _FLOAT),
    ]
