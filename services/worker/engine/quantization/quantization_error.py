"""What cannot be quantized, by name. Every error is about a caller's tensor or choice, never about a file."""


class QuantizationError(ValueError):
    """Root of this package's errors.

    QuantizationError
    ├── EmptyTensor              there is nothing to choose a scale from
    ├── UnsupportedBits          a width that no packed storage exists for
    ├── NotFinite                NaN or infinity among the values
    ├── GroupSizeDoesNotDivide   the columns are no whole number of groups
    └── UnsupportedScheme        granularity, number format and tensor do not go together
    """


class EmptyTensor(QuantizationError):
    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__(f"a tensor of shape {shape} has no values to quantize")


class UnsupportedBits(QuantizationError):
    def __init__(self, bits: int, supported: tuple[int, ...]) -> None:
        super().__init__(f"{bits} bits are not supported, only {', '.join(map(str, supported))}")


class NotFinite(QuantizationError):
    def __init__(self, count: int) -> None:
        super().__init__(f"{count} of the values are NaN or infinite: no scale fits them")


class GroupSizeDoesNotDivide(QuantizationError):
    def __init__(self, group_size: int, num_columns: int) -> None:
        super().__init__(f"group size {group_size} does not divide {num_columns} columns")


class UnsupportedScheme(QuantizationError):
    """The message says which two things exclude each other."""
