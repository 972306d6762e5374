"""`--dry-run`: configuration, parameters, FLOPs and memory of a run, without reading data."""

from __future__ import annotations

import jax

from jaxsrc import config as configuration
from jaxsrc import runtime as runtimes
from jaxsrc.memory import memory_warning
from jaxsrc.plan import Plan, abstract_state, make_step
from jaxsrc.state import bytes_of, count, parameter_table


def dry_run(plan: Plan) -> None:
    """Print what a run would be; compiles each stage's step for the abstract batch."""
    runtime = runtimes.start(plan.runtime)
    print(configuration.yaml.safe_dump(plan.resolved, sort_keys=False))
    shapes = abstract_state(plan, runtime)
    rows = [(path, shape, f"{number:,}") for path, shape, number in parameter_table(shapes.params)]
    rows.append(("total", "", f"{count(shapes.params):,}"))
    width = max(len(path) for path, _, _ in rows)
    for path, shape, number in rows:
        print(f"{path:<{width}}  {shape:<20} {number:>14}")
    print(f"device: {runtime.describe()}")
    print(f"state: {bytes_of(shapes) / 2**20:.1f} MiB with the optimiser")
    per = plan.train.steps_per_call
    for index, stage in enumerate(plan.experiment.stages):
        if not stage.steps:
            print(f"stage '{stage.name}': no training step")
            continue
        leading = (per,) if per > 1 else ()
        sharding = runtime.batch_sharding(len(leading))
        batch = jax.tree.map(
            lambda x, s=sharding, n=leading: jax.ShapeDtypeStruct((*n, *x.shape), x.dtype, sharding=s),
            plan.experiment.abstract_batch(index),
        )
        compiled = make_step(plan, runtime)
        resident = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=runtime.replicated), stage.resident_shapes
        )
        compiled.compile(shapes, batch, resident)
        print(
            f"stage '{stage.name}': {stage.steps} steps, compiled in {compiled.compile_seconds:.1f} s, "
            f"{compiled.flops / 1e9:.3g} GFLOP a step, about {compiled.memory_bytes / 2**20:.0f} MiB"
        )
        warning = memory_warning(compiled.memory_bytes, runtime)
        if warning:
            print(warning)
