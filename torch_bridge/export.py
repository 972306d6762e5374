"""`scripts/export_coreml RUN --out model.mlpackage`: a trained run as a Core ML package whose numbers were checked here."""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from jaxsrc.errors import DONE, RunError, UserError, command_line
from torch_bridge.quiet import quiet

if TYPE_CHECKING:
    from torch_bridge.coreml import Options
    from torch_bridge.exportable import Exportable
    from torch_bridge.mil_eval import Package
    from torch_bridge.verify import Check

EXTRA = "install them with scripts/setup bridge"


def sidecar(path: Path) -> Path:
    """Where the verification of a package is written."""
    return path.with_name(path.name + ".json")


def show(title: str, checks: Sequence[Check]) -> None:
    table = Table(title=title, title_justify="left")
    for column, side in (("check", "left"), ("value", "right"), ("bar", "right"), ("", "left")):
        table.add_column(column, justify=side, no_wrap=True)  # type: ignore[arg-type]
    for c in checks:
        word = "" if c.passed is None else "ok" if c.passed else "FAILED"
        table.add_row(c.name, "" if math.isnan(c.value) else f"{c.value:.3g}", c.bar, word)
    console = Console()
    (console if console.is_terminal else Console(width=160)).print(table)


def export(made: Exportable, out: Path, options: Options, *, samples: int, force: bool = False, accept: bool = False) -> dict:
    """Convert, save, verify; the package appears at `out` only when it has passed. Returns the verification.

    Errors: UserError for options and paths, RunError naming the checks that failed.
    """
    from torch_bridge import coreml, verify
    from torch_bridge.mil_eval import Package
    from torch_bridge.parity import parity

    check_out(out, force)
    options.check(made)
    found = made.samples(samples)
    example = found[0][0]
    start = time.perf_counter()
    parity(made, example).require()
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".export-") as folder:
        plain = coreml.Options("float32", options.target, options.sequence, options.batch)
        shadow_path, path = Path(folder) / "shadow.mlpackage", Path(folder) / out.name
        coreml.save(coreml.convert(made, example, plain), made, plain, shadow_path)
        coreml.save(coreml.convert(made, example, options), made, options, path)
        converted = time.perf_counter() - start
        shadow, package = Package(shadow_path), Package(path)
        checks = [
            *verify.check_shadow(made, shadow, found),
            *verify.check_shapes(made, shadow, example, options),
            *verify.check_package(made, package, found, options),
            *verify.check_causal(made, package, example),
        ]
        device = on_device(path, made, example)
        precision = options.precision + (" with float32 scores" if options.wide_scores else "")
        show(f"{out.name}: {made.name}, {precision}, {options.quantize}, {options.target}", checks)
        ratio = package.size / shadow.size
        Console(soft_wrap=True).print(
            f"{package.size / 1e6:.2f} MB, {ratio:.2f} of float32 ({shadow.size / 1e6:.2f} MB); converted in {converted:.1f} s, "
            f"checked in {time.perf_counter() - start - converted:.1f} s; {device['note']}",
            highlight=False,
        )
        failed = [c for c in checks if c.passed is False]
        allowed = accept and all(_may_accept(c, options) for c in failed)
        if failed and not allowed:
            hint = "; add --accept if that is what you want" if all(_may_accept(c, options) for c in failed) else ""
            names = "; ".join(c.name for c in failed)
            if verify.kind_of(options) == "float16" and not options.wide_scores and "relative error" in names:
                hint = "; --scores float32 loses less, but its scores leave the Neural Engine"
            raise RunError(f"expected every check to pass, got {len(failed)} failed: {names}; nothing written{hint}")
        result = report(made, package, options, checks, ratio, device)
        if out.exists():
            shutil.rmtree(out)
        path.rename(out)
        sidecar(out).write_text(json.dumps(result, indent=1))
    return result


def _may_accept(check: Check, options: Options) -> bool:
    """Only a loss by few bits may be accepted; a wrong conversion may not."""
    return options.quantize != "none" and check.name.startswith(("relative", "argmax", "accuracy", options.quantize))


def report(
    made: Exportable, package: Package, options: Options, checks: Sequence[Check], ratio: float, device: dict[str, Any]
) -> dict[str, Any]:
    """What is kept beside the package."""
    from importlib.metadata import version

    number = lambda x: x if math.isfinite(x) else None
    return {
        "model": made.metadata,
        "options": vars(options),
        "versions": {n: version(n) for n in ("coremltools", "torch", "numpy", "jax")},
        "bytes": package.size,
        "ratio_to_float32": ratio,
        "operations": package.operations,
        "sha256": package.digest(),
        "device": device,
        "checks": [{"name": c.name, "value": number(c.value), "bar": c.bar, "passed": c.passed} for c in checks],
    }


def check_out(out: Path, force: bool) -> None:
    """UserError for a path that cannot become a package."""
    if out.suffix != ".mlpackage":
        raise UserError(f"--out: expected a name that ends in .mlpackage, got {out}; ML programs are saved as packages")
    if out.exists() and not force:
        raise UserError(f"--out: expected a path that is free, got {out}, which exists; choose another, or add --force")


def on_device(path: Path, made: Exportable, example: dict[str, Any]) -> dict[str, Any]:
    """On macOS: predictions and times on CPU, GPU and Neural Engine; elsewhere a note that there are none."""
    if sys.platform != "darwin":
        return {"note": "no Core ML on this system: predictions and times on a device were not made"}
    import coremltools as ct
    import numpy as np

    found: dict[str, Any] = {}
    for unit in (ct.ComputeUnit.CPU_ONLY, ct.ComputeUnit.CPU_AND_GPU, ct.ComputeUnit.CPU_AND_NE):
        model = ct.models.MLModel(str(path), compute_units=unit)
        predicted = model.predict(example)
        assert isinstance(predicted, dict)
        error = float(np.abs(predicted[made.output] - made.jax(example)).max())
        times = []
        for _ in range(35):
            start = time.perf_counter()
            model.predict(example)
            times.append(time.perf_counter() - start)
        found[unit.name] = {"error": error, "milliseconds": 1e3 * float(np.median(times[5:]))}
    shown = ", ".join(f"{k} {v['milliseconds']:.2f} ms (error {v['error']:.2g})" for k, v in found.items())
    return {"note": shown, **found}


def check(path: Path) -> int:
    """Whether a package is still the one that was verified."""
    from torch_bridge.mil_eval import Package

    if not sidecar(path).is_file():
        raise UserError(f"expected {sidecar(path)}, which the export writes, got none; export the package again")
    kept = json.loads(sidecar(path).read_text())["sha256"]
    now = Package(path).digest()
    changed = sorted(n for n in {*kept, *now} if kept.get(n) != now.get(n))
    if changed:
        raise UserError(f"expected {path} as it was verified, got another {' and '.join(changed)}; export it again")
    Console(soft_wrap=True).print(f"{path} is as it was verified", highlight=False)
    return DONE


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(prog="scripts/export_coreml", description=__doc__)
    found.add_argument("run", type=Path, nargs="?", metavar="RUN", help="run folder of `python -m jaxsrc.train`")
    found.add_argument("--out", type=Path, metavar="MODEL.mlpackage", help="package to write")
    found.add_argument("--precision", choices=["float16", "float32"], default="float16")
    scores = "of attention's scores in a float16 package; float32 loses less, off the Neural Engine (default float16)"
    found.add_argument("--scores", choices=["float16", "float32"], default="float16", help=scores)
    found.add_argument("--target", default="iOS17", help="least system: iOS15 to iOS18, iOS26, macOS12 to macOS15, macOS26")
    found.add_argument("--seq", choices=["fixed", "range"], default="fixed", help="open sequence length, 1 to the model's")
    found.add_argument("--batch", choices=["fixed", "range"], default="fixed", help="open batch size, 1 to 64")
    found.add_argument("--quantize", choices=["none", "int8", "int4", "palettize"], default="none")
    found.add_argument("--bits", type=int, default=4, help="of the palette: 2, 4, 6 or 8 (default 4)")
    found.add_argument("--checkpoint", choices=["latest", "best"], default="latest")
    found.add_argument("--member", type=int, default=None, metavar="N", help="one run of a sweep")
    found.add_argument("--samples", type=int, default=8, help="real inputs to compare on (default 8)")
    found.add_argument("--accept", action="store_true", help="keep a package whose few bits cost more than the bars")
    found.add_argument("--force", action="store_true", help="replace a package that exists")
    found.add_argument("--check", type=Path, metavar="MODEL.mlpackage", help="only: is this package as it was verified?")
    return found


def main(arguments: list[str]) -> int:
    args = parser().parse_args(arguments)
    if args.check is None and (args.run is None or args.out is None):
        raise UserError("expected RUN and --out MODEL.mlpackage, got neither or one; see scripts/export_coreml --help")
    try:
        with quiet():
            import coremltools  # noqa: F401
            import torch  # noqa: F401
    except ImportError as error:
        raise UserError(f"expected the bridge's libraries, got no {error.name}; {EXTRA}") from None
    if args.check is not None:
        return check(args.check)
    if args.samples < 1:
        raise UserError(f"--samples: expected at least 1, got {args.samples}")
    from jaxsrc import runtime as runtimes
    from jaxsrc.runs import open_run
    from torch_bridge.coreml import Options
    from torch_bridge.of_run import exportable

    check_out(args.out, args.force)
    runtimes.start(runtimes.RuntimeConfig(device="cpu"))
    options = Options(args.precision, args.target, args.seq, args.batch, args.quantize, args.bits, args.scores)
    made = exportable(open_run(args.run, args.checkpoint, args.member))
    export(made, args.out, options, samples=args.samples, force=args.force, accept=args.accept)
    print(f"wrote {args.out} and {sidecar(args.out)}")
    return DONE


if __name__ == "__main__":
    command_line(main)
