"""Names of cache precisions: what each means for a model's layers, and which mean nothing."""

import pytest

from services.worker.engine.kv_cache.cell_format import (
    CascadeDoesNotFit,
    CellFormat,
    UnknownCachePrecision,
    layer_formats,
)

INT8, FP8, INT4 = CellFormat.INT8, CellFormat.FP8, CellFormat.INT4


def test_one_name_is_for_every_layer() -> None:
    assert layer_formats("16bit", 3) == (None, None, None)
    assert layer_formats("int8", 2) == (INT8, INT8)


def test_a_cascade_goes_from_the_first_layer_on_and_its_last_part_takes_the_rest() -> None:
    assert layer_formats("int4*2,int8*1,16bit", 5) == (INT4, INT4, INT8, None, None)
    assert layer_formats("fp8*1,int4*2", 3) == (FP8, INT4, INT4)


@pytest.mark.parametrize("name", ["int4*4,16bit", "int4*2", "int4*2,int8*2", "int4,int8"])
def test_a_cascade_names_every_layer_once(name: str) -> None:
    with pytest.raises(CascadeDoesNotFit, match="every one of 3 layers"):
        layer_formats(name, 3)


@pytest.mark.parametrize("name", ["", "int2", "INT8", "int8,", "int8*0", "int8*-1", "8bit", "int4 *2"])
def test_other_names_are_refused_with_the_ones_that_are(name: str) -> None:
    with pytest.raises(UnknownCachePrecision, match="16bit, int8, fp8, int4"):
        layer_formats(name, 3)
