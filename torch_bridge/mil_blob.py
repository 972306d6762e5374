"""Values of a MIL program: immediate ones, and those in the weight file, read here without coremltools' native library."""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import Any

import numpy as np

from jaxsrc.errors import UserError

SENTINEL = 0xDEADBEEF
NUMPY = {
    "FLOAT16": np.float16,
    "FLOAT32": np.float32,
    "FLOAT64": np.float64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "BOOL": np.bool_,
}
BITS = {"INT4": 4, "UINT1": 1, "UINT2": 2, "UINT3": 3, "UINT4": 4, "UINT6": 6}


def unpack_bits(raw: np.ndarray, bits: int, count: int, signed: bool) -> np.ndarray:
    """`count` integers of `bits` bits each, least significant bit first, as int8 or uint8."""
    stream = np.unpackbits(raw.view(np.uint8), bitorder="little")[: count * bits].reshape(count, bits)
    values = (stream * (1 << np.arange(bits))).sum(1)
    if signed:
        values = np.where(values >= 1 << (bits - 1), values - (1 << bits), values)
    return values.astype(np.int8 if signed else np.uint8)


class Weights:
    """weight.bin: blobs at the offsets that the program names, each behind a 64-byte record."""

    def __init__(self, path: Path):
        self.path = path
        self._data: Any = b""
        if path.is_file() and path.stat().st_size:
            with open(path, "rb") as file:
                self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def blob(self, offset: int) -> np.ndarray:
        """uint8 contents of the blob at `offset`; UserError where there is none."""
        try:
            sentinel, _, size, start = struct.unpack_from("<IIQQ", self._data, offset)
        except struct.error:
            sentinel, size, start = 0, 0, 0
        if sentinel != SENTINEL or start + size > len(self._data):
            raise UserError(f"expected a weight at byte {offset} of {self.path}, got none; it is damaged: export it again")
        return np.frombuffer(self._data, np.uint8, size, start)


def type_name(value_type: Any) -> str:
    """'FLOAT16', ... of a tensor type."""
    from coremltools.proto import MIL_pb2

    return MIL_pb2.DataType.Name(value_type.tensorType.dataType)


def shape_of(value_type: Any) -> tuple[int, ...]:
    """Sizes of a constant's type."""
    return tuple(d.constant.size for d in value_type.tensorType.dimensions)


def read_value(value: Any, weights: Weights) -> Any:
    """A MIL `Value` as an array, or as a str or list of them."""
    kind = type_name(value.type)
    shape = shape_of(value.type)
    count = int(np.prod(shape, dtype=int))
    if value.WhichOneof("value") == "blobFileValue":
        raw = weights.blob(value.blobFileValue.offset)
        if kind in BITS:
            return unpack_bits(raw, BITS[kind], count, kind == "INT4").reshape(shape)
        return raw.view(NUMPY[kind])[:count].reshape(shape)
    tensor = value.immediateValue.tensor
    field = tensor.WhichOneof("value")
    if field == "strings":
        found = list(tensor.strings.values)
        return found[0] if not shape else found
    if field == "bytes":
        raw = np.frombuffer(tensor.bytes.values, np.uint8)
        if kind in BITS:
            return unpack_bits(raw, BITS[kind], count, kind == "INT4").reshape(shape)
        return raw.view(NUMPY[kind]).reshape(shape)
    values = getattr(tensor, field).values if field else []
    return np.asarray(list(values), NUMPY[kind]).reshape(shape)
