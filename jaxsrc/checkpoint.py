"""Checkpoints: asynchronous, atomic, the last few and the best; the only importer of orbax."""

from __future__ import annotations

import logging
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from jaxsrc.config import differences
from jaxsrc.errors import UserError
from jaxsrc.protocol import PyTree
from jaxsrc.state import leaf_table

FORMAT = 1
logging.getLogger("absl").setLevel(logging.ERROR)


@dataclass(frozen=True)
class Meta:
    """What a checkpoint says of itself beside its arrays.

    window: sums and weights of the metrics since the last log line; seconds: training time so far; best: of the metric that
    decides; tree: path -> dtype[shape] of every leaf.
    """

    step: int
    config: dict
    metrics: dict[str, float] = field(default_factory=dict)
    window: dict[str, list[float]] = field(default_factory=dict)
    best: float | None = None
    seconds: float = 0.0
    finished: bool = False
    git: str = ""
    tree: dict[str, str] = field(default_factory=dict)
    format: int = FORMAT


def git_revision() -> str:
    """Revision of the working folder, with + if it has changes; '' outside a repository."""
    try:
        run = lambda *a: subprocess.run(["git", *a], capture_output=True, text=True, timeout=5, check=True).stdout.strip()
        return run("rev-parse", "--short", "HEAD") + ("+" if run("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return ""


class Checkpoints:
    """The folder RUN/checkpoints (the last `keep`) and RUN/best (one)."""

    def __init__(self, run: Path, keep: int = 3):
        self.run = run.resolve()
        options = lambda n: ocp.CheckpointManagerOptions(max_to_keep=n, create=True, cleanup_tmp_directories=True)
        self._last = ocp.CheckpointManager(self.run / "checkpoints", options=options(keep))
        self._best = ocp.CheckpointManager(self.run / "best", options=options(1))

    def save(self, state: PyTree, meta: Meta, *, best: bool = False, wait: bool = False) -> None:
        """Start writing; the arrays are copied before this returns, so the caller may donate them.

        Errors: UserError if the disk is full; earlier checkpoints are untouched.
        """
        manager = self._best if best else self._last
        meta = Meta(**{**meta.__dict__, "tree": leaf_table(state)})
        args = ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta.__dict__))
        try:
            manager.save(meta.step, args=args, force=True)
            if wait:
                self.wait()
        except ocp.checkpoint_manager.StepAlreadyExistsError:
            return
        except (OSError, ValueError, RuntimeError) as error:
            raise self._failed(error) from None

    def wait(self) -> None:
        """Until everything asked for is on disk."""
        try:
            for manager in (self._last, self._best):
                manager.wait_until_finished()
                manager.check_for_errors()
        except (OSError, ValueError, RuntimeError) as error:
            raise self._failed(error) from None

    def _failed(self, error: Exception) -> UserError:
        why = str(error).splitlines()[0][:200]
        return UserError(
            f"expected to write a checkpoint below {self.run}, got: {why}; free some space and start the same command again, "
            f"it resumes from step {self.latest or 0}"
        )

    def close(self) -> None:
        self._last.close()
        self._best.close()

    @property
    def latest(self) -> int | None:
        steps = self._last.all_steps()
        return max(steps) if steps else None

    def meta(self, which: str = "latest") -> Meta | None:
        """Meta of the newest readable checkpoint, or of the best one; None if there is none."""
        manager = self._best if which == "best" else self._last
        for step in sorted(manager.all_steps(), reverse=True):
            found = self._meta(manager, step)
            if found is not None:
                return found
        return None

    def _meta(self, manager: ocp.CheckpointManager, step: int) -> Meta | None:
        try:
            raw: Any = manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]
        except Exception:  # orbax raises many kinds for a damaged folder; the caller falls back and says so
            return None
        if raw.get("format", 0) > FORMAT:
            raise UserError(
                f"expected a checkpoint of format {FORMAT} or older, got format {raw['format']} in {self.run}; "
                "update sheaf, or point --out elsewhere"
            )
        known = Meta.__dataclass_fields__
        return Meta(**{k: v for k, v in raw.items() if k in known})

    def restore(self, abstract: PyTree, which: str = "latest") -> tuple[PyTree, Meta, list[str]]:
        """(state, meta, notes): the newest checkpoint that can be read, placed as `abstract`'s shardings say.

        Errors: UserError if none can be read, or if its leaves differ from the abstract state's (path by path).
        """
        manager = self._best if which == "best" else self._last
        notes: list[str] = []
        for step in sorted(manager.all_steps(), reverse=True):
            meta = self._meta(manager, step)
            if meta is None:
                notes.append(f"checkpoint {step} is damaged; trying the one before")
                continue
            problems = differences(leaf_table(abstract), meta.tree)
            if problems:
                more = f" (and {len(problems) - 8} more)" if len(problems) > 8 else ""
                raise UserError(
                    f"expected a checkpoint of this model in {self.run}, got another one: {'; '.join(problems[:8])}{more}; "
                    "use the configuration it was trained with, or another --out"
                )
            try:
                args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
                return manager.restore(step, args=args)["state"], meta, notes
            except Exception as error:  # a truncated array file surfaces as one of many exceptions
                notes.append(f"checkpoint {step} is damaged ({str(error).splitlines()[0][:80]}); trying the one before")
        raise UserError(
            f"expected a readable checkpoint in {self.run}, got {'none' if not notes else 'only damaged ones'}; "
            "train first, or delete the folder and start again"
        )


def abstract(tree: PyTree, sharding: jax.sharding.Sharding) -> PyTree:
    """Shapes and types of a tree, to be placed with one sharding."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)
