"""Kill a training 20 times with SIGKILL, 5 of them during a save, and compare its metrics with an uninterrupted run's.

    scripts/bench_kills                                        the tests' toy, two minutes
    scripts/bench_kills --steps 600 -- .venv/bin/python -m jaxsrc.train configs/arc_sheaf.yaml train.log_every=1

The command after -- gets `--out FOLDER`; --steps says how many steps it makes.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests import kills

TOY = ("toy.stages=[60,0,140]", "toy.wait=0.02", "toy.widths=[32,32]", "runtime.device=cpu",
       "optim={warmup_steps: 4, ema: 0.9, accumulate: 2}",
       "train={log_every: 3, eval_every: 7, checkpoint_every: 5, best: val/score}")  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/bench_kills", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--during-save", type=int, default=5)
    parser.add_argument("--steps", type=int, default=200, help="steps that the command makes (the toy: 200)")
    parser.add_argument("--seed", type=int, default=0, help="of the random points")
    parser.add_argument("--json", type=Path, help="write the result here as well")
    parser.add_argument("command", nargs="*")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="bench_kills-"))
    command = args.command or [sys.executable, str(Path(__file__).with_name("toy.py")), *TOY]
    start = time.monotonic()
    found = kills.torture(command, folder, args.steps, kills=args.kills, saves=args.during_save, seed=args.seed)
    saves = sum(kill.during == "save" for kill in found.kills)
    where = ", ".join(f"{kill.at}{' (saving)' if kill.during == 'save' else ''}" for kill in found.kills)
    print(f"killed {len(found.kills)} times, {saves} of them during a save, last recorded steps: {where}")
    print(f"then ended at step {found.steps} of {args.steps}, {time.monotonic() - start:.0f} s in all")
    for line in found.different[:10]:
        print(f"  {line}")
    exact = not found.different
    lines = len(kills.records(folder / "killed"))
    print(f"metrics.jsonl, {lines} records: " + ("bit for bit those of the uninterrupted run" if exact else "different"))
    enough = len(found.kills) >= args.kills and saves >= args.during_save
    if not enough:
        print(f"expected {args.kills} kills and {args.during_save} during a save; give the command more or slower steps")
    if args.json:
        result = {"kills": len(found.kills), "during_save": saves, "identical": exact, "records": lines}
        args.json.write_text(json.dumps(result) + "\n")
    if exact and enough:
        shutil.rmtree(folder)
        return 0
    print(f"both runs are kept in {folder}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
