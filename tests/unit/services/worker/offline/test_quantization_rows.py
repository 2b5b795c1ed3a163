import pytest

from services.worker.engine.calibration.method_choice import choose_method
from services.worker.offline.quantization_rows import ROWS, choose_rows


def test_every_row_is_something_that_can_be_made() -> None:
    for row in ROWS:
        if row.choice is not None:
            choose_method(row.choice, dtype="bfloat16")


def test_rows_of_sixteen_eight_four_and_two_bits_are_there() -> None:
    names = [row.name for row in ROWS]
    assert len(set(names)) == len(names)
    for beginning in ("16-bit", "int8", "int4", "int2", "fp8"):
        assert any(name.startswith(beginning) for name in names)


def test_rows_are_chosen_by_name_in_the_tables_order() -> None:
    assert choose_rows("") == ROWS
    assert [row.name for row in choose_rows("int8-rtn,16-bit")] == ["16-bit", "int8-rtn"]
    with pytest.raises(ValueError, match="no such rows: int5; there are 16-bit, fp8"):
        choose_rows("int5")
