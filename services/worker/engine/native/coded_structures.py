"""The structures of quantized_products.h, field by field in its order."""

import ctypes

_POINTER, _INTEGER = ctypes.c_void_p, ctypes.c_int64


class CodedStructure(ctypes.Structure):
    _fields_ = [
        ("packed", _POINTER),
        ("table", _POINTER),
        ("scales", _POINTER),
        ("offsets", _POINTER),
        ("bias", _POINTER),
        ("order", _POINTER),
        ("columns", _INTEGER),
        ("inner", _INTEGER),
        ("padded", _INTEGER),
        ("groups", _INTEGER),
        ("scale_groups", _INTEGER),
        ("zero", _INTEGER),
        ("bits", _INTEGER),
        ("is_half", _INTEGER),
        ("expand_from_rows", _INTEGER),
    ]


class CodedInputsStructure(ctypes.Structure):
    _fields_ = [
        ("codes", _POINTER),
        ("scales", _POINTER),
        ("sums", _POINTER),
        ("halves", _POINTER),
        ("half_sums", _POINTER),
    ]
