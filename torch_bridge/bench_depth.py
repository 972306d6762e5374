"""`python -m torch_bridge.bench_depth step|scan`: the depth transformer against the same model in PyTorch, float32, one core.

Both sides run in this process, in turn, on one core where the system lets us choose; what is printed is the median of the
rounds in CPU seconds of the process, compilation apart, and the ratio.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

PILOT, LARGE = (128, 4, 4, 384), (384, 6, 6, 1536)


def one_core() -> str:
    """Bind this process to one core, before any library starts its threads."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    if hasattr(os, "sched_setaffinity"):
        core = max(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {core})
        return f"core {core}"
    return "cores as the system gives them"


def rounds(arms: Mapping[str, Callable[[], object]], count: int) -> dict[str, float]:
    """Median CPU seconds of each arm, the arms taking turns."""
    found: dict[str, list[float]] = {name: [] for name in arms}
    for arm in arms.values():
        arm()
    for _ in range(count):
        for name, arm in arms.items():
            start = time.process_time()
            arm()
            found[name].append(time.process_time() - start)
    return {name: statistics.median(seconds) for name, seconds in found.items()}


def show(title: str, seconds: dict[str, float], rival: str) -> None:
    for name, value in seconds.items():
        print(f"{title:<22} {name:<34} {1000 * value:>9.1f} ms  {seconds[rival] / value:>5.2f} x", flush=True)


def _model(size: Sequence[int], dropout: float):  # the imports wait until the process is bound to its core
    from jaxsrc.models.depth_transformer import DepthTransformerConfig

    width, layers, heads, hidden = size
    return DepthTransformerConfig(width=width, layers=layers, heads=heads, hidden=hidden, length=32, dropout=dropout)


def step(count: int, per_call: int) -> None:
    """A whole training step: forward, backward, clipping, AdamW, dropout 0.1."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import torch

    from jaxsrc.depth_experiment import DepthConfig, DepthExperiment
    from jaxsrc.optim import OptimConfig, make_optimizer
    from jaxsrc.state import init_state
    from jaxsrc.step import CompiledOnce, several, train_step
    from torch_bridge.twins.depth_transformer import TorchDepthTransformer

    torch.set_num_threads(1)
    optim = OptimConfig(learning_rate=1e-4, warmup_steps=1, weight_decay=0.01, b2=0.95)
    for name, size, rows in (("10M, 8 x 32", LARGE, 8), ("10M, 64 x 32", LARGE, 64), ("pilot, 32 x 32", PILOT, 32)):
        config = _model(size, 0.1)
        experiment = DepthExperiment(DepthConfig(loss="all", model=config, batch=rows))
        tokens = np.random.default_rng(0).integers(4, 35, (rows, 32)).astype(np.int8)
        labels = np.roll(tokens, -1, 1)
        batch = {"text": {"tokens": tokens, "labels": labels, "begin": np.zeros(rows, np.int32)}}
        one = train_step(experiment, make_optimizer(optim, 1000), jnp.dtype("float32"), 0.0)
        arms: dict[str, Callable[[], object]] = {}
        for calls in (1, per_call):
            holder = [jax.jit(lambda e=experiment: init_state(e, make_optimizer(optim, 1000), 0, ema=False, scaled=False))()]
            compiled = CompiledOnce(several(one) if calls > 1 else one, "step", ("state", "batch"), donate=(0,))
            given = jax.tree.map(lambda x, n=calls: jnp.asarray(np.stack([x] * n) if n > 1 else x), batch)

            def ours(holder: list = holder, compiled: CompiledOnce = compiled, given: object = given) -> None:
                holder[0], metrics = compiled(holder[0], given)
                jax.block_until_ready(metrics)

            arms["sheaf" if calls == 1 else f"sheaf, {calls} steps a scan"] = ours
        twin = TorchDepthTransformer(config, 35).train()
        adam = torch.optim.AdamW(twin.parameters(), 1e-4, (0.9, 0.95), weight_decay=0.01)
        x, y = torch.from_numpy(tokens).long(), torch.from_numpy(labels).long()

        def theirs(twin=twin, adam=adam, x=x, y=y) -> None:
            loss = torch.nn.functional.cross_entropy(twin(x).flatten(0, 1), y.flatten())
            adam.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(twin.parameters(), 1.0)
            adam.step()
            loss.item()

        seconds = rounds({"PyTorch": theirs, **arms}, count)
        show(name, {k: v / (per_call if "scan" in k else 1) for k, v in seconds.items()}, "PyTorch")


def scan(count: int) -> None:
    """Zero ablation of every head and feed-forward block on the study's test expressions, loss and exactness of the answers:
    our one program, preparation included, against a loop of forward passes, one for each unit."""
    import jax
    import numpy as np
    import torch

    from jaxsrc.analysis.ablate import first_order, make_scan, replacements
    from jaxsrc.analysis.depth_subject import depth_rows, depth_subject
    from jaxsrc.data.expression_study import study_data
    from jaxsrc.depth_experiment import DepthConfig, DepthExperiment
    from torch_bridge.maps.depth_transformer import depth_transformer_map
    from torch_bridge.twins.depth_transformer import TorchDepthTransformer

    torch.set_num_threads(1)
    for name, size, rows_of in (("pilot, 200 rows", PILOT, 200), ("10M, 32 rows", LARGE, 32)):
        config = _model(size, 0.0)
        experiment = DepthExperiment(DepthConfig(model=config))
        params, subject = experiment.init(jax.random.key(0))[0], depth_subject(experiment)
        twin = TorchDepthTransformer(config, 35).eval()
        twin.load_state_dict(depth_transformer_map(config).to_torch(params, twin.state_dict()))
        data = study_data()
        rows = depth_rows(experiment, [e for pair in zip(data.flat, data.paren, strict=True) for e in pair][:rows_of])
        program = make_scan(subject)
        x, y, asked = (torch.from_numpy(np.array(v)) for v in (rows.tokens, rows.labels, rows.asked))
        x, y = x.long(), y.long()

        def score(keep: torch.Tensor | None, x=x, y=y, asked=asked, twin=twin) -> torch.Tensor:
            logits = twin(x, keep)
            (logits.argmax(-1).eq(y) | ~asked).all(-1)
            nats = torch.nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="none").view(y.shape)
            return (nats * asked).sum(1) / asked.sum(1)

        @torch.no_grad()
        def loop(score=score, config=config) -> torch.Tensor:
            shape = (config.layers, config.heads + 1)
            found = [score(None)]
            for at in range(shape[0] * shape[1]):
                keep = torch.ones(shape)
                keep.view(-1)[at] = 0
                found.append(score(keep))
            return torch.stack(found)

        def ours(run=program, p=params, r=rows, subject=subject) -> list[np.ndarray]:
            return [np.asarray(v) for v in run(p, r, replacements(subject, p, r, "zero"))]

        loss, _, without, _ = ours()
        error = np.abs(np.concatenate([loss[None], without]) - loop().numpy()).max()
        arms = {"loop of PyTorch passes": loop, "sheaf, one program": ours}
        show(name, rounds(arms, count), "loop of PyTorch passes")
        print(f"{name:<22} largest difference of a row's loss {error:.2g}")
        new = replacements(subject, params, rows, "zero")

        def slopes(s=subject, p=params, r=rows, n=new) -> np.ndarray:
            return first_order(s, p, r, n)

        label = "first order, all units at once"
        show(name, rounds({label: slopes}, count), label)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m torch_bridge.bench_depth", description=__doc__)
    parser.add_argument("what", choices=["step", "scan"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--per-call", type=int, default=10, help="steps in one scan (default 10)")
    args = parser.parse_args()
    print(f"one process on {one_core()}, float32, medians of {args.rounds} rounds")
    if args.what == "step":
        step(args.rounds, args.per_call)
    else:
        scan(args.rounds)


if __name__ == "__main__":
    main()
