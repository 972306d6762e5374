"""Run the program of a *saved* .mlpackage on this machine, in numpy: what Core ML would compute, but for its rounding.

exact: every float in float64, on the weights as stored; what differs from the model is then the conversion's fault.
rounded: every result rounded to the type that the program declares, its sums wide; an optimistic model of the device.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxsrc.errors import UserError
from torch_bridge.mil_blob import NUMPY, Weights, read_value, type_name
from torch_bridge.mil_ops import OPS

Mode = Literal["exact", "rounded"]
FLOATS = ("FLOAT16", "FLOAT32", "FLOAT64")
DATA = Path("Data") / "com.apple.CoreML"


@dataclass(frozen=True)
class InputType:
    """ranges: least and largest size of each axis; shapes: the only ones allowed, where the package enumerates them."""

    name: str
    ranges: tuple[tuple[int, int], ...]
    shapes: tuple[tuple[int, ...], ...]
    integer: bool

    def check(self, value: np.ndarray) -> None:
        """UserError for what Core ML would refuse."""
        allowed = self.shapes or self.ranges
        inside = len(self.ranges) == value.ndim and all(
            low <= n <= high for n, (low, high) in zip(value.shape, self.ranges, strict=False)
        )
        if (self.shapes and value.shape not in self.shapes) or (not self.shapes and not inside):
            raise UserError(f"input {self.name}: expected a shape within {allowed}, got {value.shape}; export it for others")
        if self.integer != np.issubdtype(value.dtype, np.integer):
            raise UserError(f"input {self.name}: expected {'integers' if self.integer else 'floats'}, got {value.dtype}")


class Package:
    """A package on disk: its program, inputs, outputs, metadata and operations."""

    def __init__(self, path: Path | str):
        from coremltools.proto import Model_pb2

        self.path = Path(path)
        model = self.path / DATA / "model.mlmodel"
        if not model.is_file():
            raise UserError(f"expected an .mlpackage, got {path}, which has no {DATA}/model.mlmodel; export one first")
        self.spec: Any = Model_pb2.Model()
        try:
            self.spec.ParseFromString(model.read_bytes())
        except Exception as error:  # protobuf's own class of errors
            raise UserError(f"expected a Core ML model in {model}, got {error}; it is damaged: export it again") from None
        if self.spec.WhichOneof("Type") != "mlProgram":
            raise UserError(f"expected an ML program in {path}, got {self.spec.WhichOneof('Type')}; export for iOS15 or later")
        self.weights = Weights(self.path / DATA / "weights" / "weight.bin")
        function = self.spec.mlProgram.functions["main"]
        self.block = function.block_specializations[function.opset]

    @property
    def metadata(self) -> dict[str, str]:
        return dict(self.spec.description.metadata.userDefined)

    @property
    def outputs(self) -> list[str]:
        return [o.name for o in self.spec.description.output]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(p.stat().st_size for p in self.path.rglob("*") if p.is_file())

    @property
    def operations(self) -> dict[str, int]:
        """How often each operation occurs, constants left out."""
        kinds = [op.type for op in self.block.operations if op.type != "const"]
        return {k: kinds.count(k) for k in sorted(set(kinds))}

    @cached_property
    def inputs(self) -> list[InputType]:
        found = []
        for one in self.spec.description.input:
            array = one.type.multiArrayType
            shape = tuple(array.shape)
            ranges = tuple((n, n) for n in shape)
            shapes: tuple[tuple[int, ...], ...] = ()
            if array.WhichOneof("ShapeFlexibility") == "shapeRange":
                ends = array.shapeRange.sizeRanges
                ranges = tuple((r.lowerBound, r.upperBound if r.upperBound >= 0 else 2**31) for r in ends)
            elif array.WhichOneof("ShapeFlexibility") == "enumeratedShapes":
                shapes = tuple(tuple(s.shape) for s in array.enumeratedShapes.shapes)
            integer = array.dataType == array.INT32
            found.append(InputType(one.name, ranges, shapes, integer))
        return found

    @cached_property
    def _constants(self) -> dict[str, Any]:
        """Constants as stored, decompressed ones in float64; the same for every run."""
        found: dict[str, Any] = {}
        for op in self.block.operations:
            if op.type == "const":
                found[op.outputs[0].name] = read_value(op.attributes["val"], self.weights)
            elif op.type.startswith("constexpr_"):
                found[op.outputs[0].name] = self._call(op, found)[0]
        return found

    @cached_property
    def _wide_constants(self) -> dict[str, Any]:
        floats = lambda v: isinstance(v, np.ndarray) and np.issubdtype(v.dtype, np.floating)
        return {n: v.astype(np.float64) if floats(v) else v for n, v in self._constants.items()}

    def _argument(self, binding: Any, values: dict[str, Any]) -> Any:
        return values[binding.name] if binding.WhichOneof("binding") == "name" else read_value(binding.value, self.weights)

    def _call(self, op: Any, values: dict[str, Any]) -> list[Any]:
        args: dict[str, Any] = {}
        for name, value in op.attributes.items():
            if name != "name" and value.type.WhichOneof("type") == "tensorType":
                args[name] = read_value(value, self.weights)
        for name, argument in op.inputs.items():
            found = [self._argument(b, values) for b in argument.arguments]
            args[name] = found if name == "values" else found[0]
        if op.type not in OPS:
            raise UserError(f"expected operations that mil_eval knows, got '{op.type}' in {self.path}; add it to mil_ops.py")
        result = OPS[op.type](args)
        return result if isinstance(result, list) else [result]

    def run(self, inputs: dict[str, np.ndarray], mode: Mode = "exact") -> dict[str, np.ndarray]:
        """Outputs by name. Errors: UserError for a missing, extra or misshapen input and for an unknown operation."""
        wanted = {i.name: i for i in self.inputs}
        if set(inputs) != set(wanted):
            raise UserError(f"expected inputs {', '.join(wanted)}, got {', '.join(inputs)}; name each once")
        values: dict[str, Any] = {}
        for name, value in inputs.items():
            wanted[name].check(value)
            values[name] = _typed(value, "INT32" if wanted[name].integer else "FLOAT32", mode)
        values |= self._wide_constants
        for op in self.block.operations:
            if op.type == "const":
                continue
            if op.type.startswith("constexpr_"):
                found = [self._wide_constants[op.outputs[0].name]]
            elif op.type == "cast":
                found = [self._argument(op.inputs["x"].arguments[0], values)]
            else:
                found = self._call(op, values)
            for out, value in zip(op.outputs, found, strict=True):
                values[out.name] = _typed(value, type_name(out.type), mode)
        return {name: np.asarray(values[name]) for name in self.outputs}

    def digest(self) -> dict[str, str]:
        """SHA-256 of the program and of the weights."""
        files = {"model.mlmodel": self.path / DATA / "model.mlmodel", "weight.bin": self.weights.path}
        return {n: hashlib.sha256(p.read_bytes()).hexdigest() for n, p in files.items() if p.is_file()}


def _typed(value: Any, kind: str, mode: Mode) -> Any:
    """A result as its declared type holds it. Floats are carried in float64; rounding happens in `rounded` mode."""
    value = np.asarray(value)
    if kind not in FLOATS:
        return value.astype(NUMPY[kind]) if kind in NUMPY else value
    if mode == "rounded":
        with np.errstate(over="ignore"):
            value = value.astype(NUMPY[kind])
    return value.astype(np.float64)
