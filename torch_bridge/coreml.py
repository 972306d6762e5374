"""A twin as an .mlpackage, by coremltools; the only file that converts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch

from jaxsrc.errors import UserError
from torch_bridge.exportable import Exportable, tensors
from torch_bridge.quiet import quiet

Precision = Literal["float16", "float32"]
Quantize = Literal["none", "int8", "int4", "palettize"]
TARGETS = ("iOS15", "iOS16", "iOS17", "iOS18", "iOS26", "macOS12", "macOS13", "macOS14", "macOS15", "macOS26")
NEWEST = ("iOS18", "iOS26", "macOS15", "macOS26")  # four-bit integers exist from here on
KEPT = ("mask", "positions")  # constants that are no weights, or too small in range for a few bits
TABLES = ("tokens", "embedding")  # of tokens; they also make the logits, and more of the error than all other weights
TABLE_SHARE = 0.1  # of all weights, up to which a table keeps its 16 bits


@dataclass(frozen=True)
class Options:
    """bits: of a palette, 2, 4, 6 or 8; sequence, batch: whether these axes are open; scores: in what attention's scores, their
    mask and their softmax are computed in a float16 package (the Neural Engine has float16 alone)."""

    precision: Precision = "float16"
    target: str = "iOS17"
    sequence: Literal["fixed", "range"] = "fixed"
    batch: Literal["fixed", "range"] = "fixed"
    quantize: Quantize = "none"
    bits: int = 4
    scores: Precision = "float16"

    @property
    def wide_scores(self) -> bool:
        """Whether attention's scores have more bits than the rest of the package."""
        return self.precision == "float16" and self.scores == "float32"

    def check(self, made: Exportable) -> None:
        """UserError for what cannot be, before anything is converted."""
        if self.target not in TARGETS:
            raise UserError(f"--target: expected one of {', '.join(TARGETS)}, got {self.target}")
        if self.quantize == "int4" and self.target not in NEWEST:
            raise UserError(f"--quantize int4: expected --target {' or '.join(NEWEST)}, got {self.target}; or use palettize")
        if self.quantize != "none" and self.target == "iOS15":
            raise UserError("--quantize: expected --target iOS16 or later, got iOS15, which has no compressed weights")
        if self.bits not in (2, 4, 6, 8):
            raise UserError(f"--bits: expected 2, 4, 6 or 8, got {self.bits}")
        for name, kind in (("seq", "length"), ("batch", "batch")):
            asked = self.sequence if name == "seq" else self.batch
            if asked == "range" and not any(f.kind == kind for f in made.flexible):
                raise UserError(f"--{name} range: expected a model with an open {kind}, got {made.name}; use fixed")


def _check_versions() -> None:
    if tuple(int(v) for v in np.__version__.split(".")[:2]) >= (2, 4):
        raise UserError(f'expected numpy below 2.4 for coremltools 9.0, got {np.__version__}; pip install "numpy<2.4"')


def convert(made: Exportable, example: dict[str, np.ndarray], options: Options) -> Any:
    """The converted model, in memory. Errors: UserError for versions that convert wrongly."""
    _check_versions()
    model = uncompressed(made, example, options)
    with quiet():
        return compress(model, options) if options.quantize != "none" else model


def _of_scores(op: Any) -> bool:
    """Whether an operation makes attention's scores (a product of two computed values), masks them, or is a softmax."""
    then = [child.op_type for child in op.outputs[0].child_ops]
    computed = op.op_type == "matmul" and op.x.val is None and op.y.val is None
    masks = op.op_type == "add" and "softmax" in then
    return op.op_type == "softmax" or masks or (computed and ("softmax" in then or "add" in then))


def _compute_precision(options: Options) -> Any:
    import coremltools as ct

    if options.wide_scores:
        return ct.transform.FP16ComputePrecision(op_selector=lambda op: not _of_scores(op))
    return ct.precision.FLOAT16 if options.precision == "float16" else ct.precision.FLOAT32


def uncompressed(made: Exportable, example: dict[str, np.ndarray], options: Options) -> Any:
    """The model before its weights are given fewer bits."""
    with quiet():
        import coremltools as ct

        traced = torch.jit.trace(made.twin, tuple(tensors(made, example)))
        inputs = []  # made anew for each conversion, since coremltools changes them
        ranges: dict[str, Any] = {}  # one a kind, so that inputs share their batch
        for name in made.inputs:
            value = example[name]
            shape: list[Any] = list(value.shape)
            for axis in made.flexible:
                asked = options.sequence if axis.kind == "length" else options.batch
                if axis.input == name and asked == "range":
                    ranges.setdefault(axis.kind, ct.RangeDim(1, axis.most, default=value.shape[axis.axis]))
                    shape[axis.axis] = ranges[axis.kind]
            kind = np.int32 if np.issubdtype(value.dtype, np.integer) else np.float32
            inputs.append(ct.TensorType(name=name, shape=ct.Shape(tuple(shape)), dtype=kind))
        model: Any = ct.convert(
            traced,
            inputs=inputs,
            outputs=[ct.TensorType(name=made.output, dtype=np.float32)],
            convert_to="mlprogram",
            minimum_deployment_target=getattr(ct.target, options.target),
            compute_precision=_compute_precision(options),
            skip_model_load=True,
        )
        return model


def compress(model: Any, options: Options) -> Any:
    """Weights of a converted model in fewer bits; masks, positions and a small table of tokens keep theirs."""
    import coremltools.optimize.coreml as cto

    op: Any
    if options.quantize == "palettize":
        op = cto.OpPalettizerConfig(mode="kmeans", nbits=options.bits)
    elif options.quantize == "int4":
        op = cto.OpLinearQuantizerConfig(mode="linear_symmetric", dtype="int4", granularity="per_block", block_size=32)
    else:
        op = cto.OpLinearQuantizerConfig(mode="linear_symmetric", dtype="int8")
    found = {n: one.val.size for n, one in cto.get_weights_metadata(model, weight_threshold=0).items()}
    small = TABLE_SHARE * sum(found.values())
    named = [n for n in found if any(k in n for k in KEPT) or (any(k in n for k in TABLES) and found[n] <= small)]
    config = cto.OptimizationConfig(global_config=op, op_name_configs=cast(Any, dict.fromkeys(named)))
    run = cto.palettize_weights if options.quantize == "palettize" else cto.linear_quantize_weights
    return run(model, config)


def save(model: Any, made: Exportable, options: Options, path: Path) -> None:
    """Write the package with its metadata. `path` must end in .mlpackage and not exist."""
    model.short_description = f"{made.name}, exported by sheaf: {', '.join(made.inputs)} -> {made.output}"
    model.author = "sheaf"
    model.license = made.metadata.get("sheaf.licence", "Apache-2.0")
    model.version = made.metadata.get("sheaf.revision", "")
    for key, value in made.metadata.items():
        model.user_defined_metadata[key] = value
    model.user_defined_metadata["sheaf.precision"] = options.precision
    model.user_defined_metadata["sheaf.scores"] = "float32" if options.wide_scores else options.precision
    model.user_defined_metadata["sheaf.compression"] = options.quantize
    model.user_defined_metadata["sheaf.classes"] = str(made.classes)
    with quiet():
        model.save(str(path))
