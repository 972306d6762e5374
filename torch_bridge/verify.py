"""Whether a saved package computes what the model computes: every check with its value and its bar."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from jaxsrc.errors import UserError
from torch_bridge.coreml import Options
from torch_bridge.exportable import Exportable, Flexible, Inputs
from torch_bridge.mil_eval import Mode, Package
from torch_bridge.parity import difference

TWIN, EXACT, SHADOW = 1e-5, 1e-6, 1e-5
RELATIVE = {"float32": 1e-5, "float16": 5e-3, "int8": 2e-2}
AGREEMENT, ACCURACY = 0.99, 0.01
Sample = tuple[Inputs, np.ndarray]


@dataclass(frozen=True)
class Check:
    """passed: None where the value is only reported."""

    name: str
    value: float
    bar: str
    passed: bool | None


def at_most(name: str, value: float, bar: float) -> Check:
    return Check(name, value, f"<= {bar:g}", bool(value <= bar))


def at_least(name: str, value: float, bar: float) -> Check:
    return Check(name, value, f">= {bar:g}", bool(value >= bar))


def output(package: Package, made: Exportable, inputs: Inputs, mode: Mode) -> np.ndarray:
    return package.run(inputs, mode)[made.output]


def check_shadow(made: Exportable, package: Package, samples: Sequence[Sample]) -> list[Check]:
    """The float32 package in exact mode, against the float64 twin and against JAX; and the twin against JAX.

    Float16 tolerances would hide a wrong epsilon or activation, so this runs on every export.
    """
    worst = {"twin": 0.0, "exact": 0.0, "jax": 0.0}
    for inputs, _ in samples:
        ours, exact = made.jax(inputs), output(package, made, inputs, "exact")
        worst["twin"] = max(worst["twin"], difference(ours, made.torch(inputs))[0])
        worst["exact"] = max(worst["exact"], difference(made.torch(inputs, torch.float64), exact)[0])
        worst["jax"] = max(worst["jax"], difference(ours, exact)[0])
    return [
        at_most("twin against JAX", worst["twin"], TWIN),
        at_most("float32 package against the float64 twin", worst["exact"], EXACT),
        at_most("float32 package against JAX", worst["jax"], SHADOW),
    ]


def kind_of(options: Options) -> str:
    """Under which bar a package falls."""
    if options.quantize == "palettize" and options.bits == 8:
        return "int8"
    return options.precision if options.quantize == "none" else options.quantize


def check_package(made: Exportable, package: Package, samples: Sequence[Sample], options: Options) -> list[Check]:
    """The package that ships, rounded to its types, against JAX: error, agreement of the argmax, accuracy."""
    error = scale = 0.0
    agree, decided, right, right_ours, labelled = [], [], 0, 0, 0
    kind = kind_of(options)
    bar = RELATIVE.get(kind, RELATIVE["int8"])
    for inputs, labels in samples:
        ours, theirs = made.jax(inputs), output(package, made, inputs, "rounded")
        error = max(error, float(np.abs(ours - theirs).max()) if np.isfinite(theirs).all() else float("inf"))
        scale = max(scale, float(np.abs(ours).max()))
        a, b = made.scores(inputs, ours), made.scores(inputs, theirs)
        live = np.asarray(labels).reshape(-1) >= 0
        top = np.sort(a, -1)
        margin = top[:, -1] - top[:, -2] > 2 * bar * np.abs(a).max()
        same = a.argmax(-1) == b.argmax(-1)
        agree += list(same[live])
        decided += list(same[live & margin])
        right += int((b.argmax(-1) == np.asarray(labels).reshape(-1))[live].sum())
        right_ours += int((a.argmax(-1) == np.asarray(labels).reshape(-1))[live].sum())
        labelled += int(live.sum())
    relative = error / max(scale, 1e-30)
    mean = lambda x: float(np.mean(x)) if len(x) else 1.0
    lost = (right_ours - right) / max(labelled, 1)
    checks = [
        Check("largest absolute error", error, "reported", None),
        at_most("relative error", relative, bar),
        Check(f"argmax agreement, {len(agree)} decisions", mean(agree), "reported", None),
        at_least(f"argmax agreement, {len(decided)} with a margin", mean(decided), AGREEMENT),
        Check("accuracy, JAX", right_ours / max(labelled, 1), "reported", None),
        Check("accuracy, package", right / max(labelled, 1), "reported", None),
        at_most("accuracy lost", lost, ACCURACY),
    ]
    if kind not in RELATIVE:  # few bits: nothing to pass, everything to see
        checks = [Check(c.name, c.value, "not accepted without --accept", False) if c.passed is False else c for c in checks]
        checks.append(Check(f"{kind} is below 8 bits", float("nan"), "accepted only with --accept", False))
    return checks


def lengths(most: int) -> list[int]:
    """1, 2, a prime, the longest less one, the longest."""
    prime = next((p for p in range(most * 2 // 3, 2, -1) if all(p % d for d in range(2, int(p**0.5) + 1))), 2)
    return sorted({n for n in (1, 2, prime, most - 1, most) if 1 <= n <= most})


def check_shapes(made: Exportable, package: Package, inputs: Inputs, options: Options) -> list[Check]:
    """Open axes at their ends, in exact mode on the float32 package; what lies outside is refused."""
    checks = []
    for kind in dict.fromkeys(axis.kind for axis in made.flexible):
        if (options.sequence if kind == "length" else options.batch) != "range":
            continue
        axes = [axis for axis in made.flexible if axis.kind == kind]
        most = axes[0].most

        def sized(n: int, axes: list[Flexible] = axes) -> Inputs:
            # indices beyond the example's size begin again at its start
            cut = {a.input: np.take(inputs[a.input], np.arange(n) % inputs[a.input].shape[a.axis], a.axis) for a in axes}
            return {**inputs, **cut}

        worst = 0.0
        sizes = lengths(most) if kind == "length" else [1, 3]
        for size in sizes:
            cut = sized(size)
            worst = max(worst, difference(made.torch(cut, torch.float64), output(package, made, cut, "exact"))[0])
        checks.append(at_most(f"{kind} {', '.join(map(str, sizes))}", worst, EXACT))
        refused = _refused(package, sized(most + 1))
        checks.append(Check(f"{kind} {most + 1} is refused", float("nan"), "refused", refused))
    return checks


def _refused(package: Package, inputs: Inputs) -> bool:
    try:
        package.run(inputs)
    except UserError:
        return True
    return False


def check_causal(made: Exportable, package: Package, inputs: Inputs) -> list[Check]:
    """What the output at a place owes to later inputs: nothing."""
    if not made.causal:
        return []
    tokens = inputs[made.inputs[0]]
    if tokens.shape[1] < 2:
        return []
    half = tokens.shape[1] // 2
    changed = tokens.copy()
    changed[:, half:] = (changed[:, half:] + 1) % made.classes
    a, b = (output(package, made, {**inputs, made.inputs[0]: t}, "rounded")[:, :half] for t in (tokens, changed))
    return [at_most("what a place owes to later ones", float(np.abs(a - b).max()), 0.0)]
