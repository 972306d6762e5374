"""Checkpoints: asynchronous, atomic, the last few and the best; the only importer of orbax."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import jax
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from jaxsrc.config import differences
from jaxsrc.errors import UserError
from jaxsrc.protocol import PyTree
from jaxsrc.state import leaf_table

FORMAT = 1
for _name in ("absl", "asyncio"):  # orbax logs every failure of its threads, and then raises it: once is enough
    logging.getLogger(_name).setLevel(logging.CRITICAL)
_unraisable = sys.unraisablehook


def _after_failure(what: sys.UnraisableHookArgs) -> None:
    """Pass over what tensorstore says to a loop that orbax closed when another file failed; that failure is raised."""
    if not (isinstance(what.exc_value, RuntimeError) and str(what.exc_value) == "Event loop is closed"):
        _unraisable(what)


sys.unraisablehook = _after_failure


@dataclass(frozen=True)
class Meta:
    """What a checkpoint says of itself beside its arrays.

    stage: index of the stage in progress, the number of stages where all are done; records: lines of metrics.jsonl
    written before it (-1: unknown); window: sums and weights of the metrics since the last of them; seconds: training
    time so far; best: of the metric that decides; tree: path -> dtype[shape] of every leaf.
    """

    step: int
    config: dict
    stage: int = 0
    records: int = -1
    metrics: dict[str, float] = field(default_factory=dict)
    window: dict[str, list[float]] = field(default_factory=dict)
    best: float | None = None
    seconds: float = 0.0
    git: str = ""
    tree: dict[str, str] = field(default_factory=dict)
    format: int = FORMAT


@dataclass(frozen=True)
class Restored:
    """notes: what the user should hear; damaged: steps that could not be read and were passed over."""

    state: PyTree
    meta: Meta
    notes: list[str]
    damaged: list[int]


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], capture_output=True, text=True, timeout=5, check=True).stdout.strip()


def git_revision() -> str:
    """Revision of the working folder, with + if it has changes; '' outside a repository."""
    try:
        return _git("rev-parse", "--short", "HEAD") + ("+" if _git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return ""


class Checkpoints:
    """The folder RUN/checkpoints (the last `keep`) and RUN/best (one).

    read_only: for those who look at a run that may still be training; nothing is created or cleared away.
    """

    def __init__(self, run: Path, keep: int = 3, *, read_only: bool = False):
        self.run = run.resolve()
        self._last = self._manager("checkpoints", keep, read_only)
        self._best = self._manager("best", 1, read_only)

    def _manager(self, name: str, keep: int, read_only: bool) -> ocp.CheckpointManager:
        folder = self.run / name
        if read_only and not folder.is_dir():
            raise UserError(f"expected a run folder with {name}/, got {self.run}; train first, or name another folder")
        options = (
            ocp.CheckpointManagerOptions(read_only=True)
            if read_only
            else ocp.CheckpointManagerOptions(max_to_keep=keep, create=True, cleanup_tmp_directories=True)
        )
        return ocp.CheckpointManager(folder, options=options)

    def save(self, state: PyTree, meta: Meta, *, best: bool = False) -> None:
        """Start writing, unless the step is there; arrays are copied before this returns, the caller may donate them.

        Errors: UserError if the disk is full, for this save or the one before it; earlier checkpoints are untouched.
        """
        manager = self._best if best else self._last
        meta = Meta(**{**meta.__dict__, "tree": leaf_table(state)})
        args = ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta.__dict__))
        try:
            manager.wait_until_finished()
            manager.check_for_errors()
            if meta.step not in manager.all_steps():
                manager.save(meta.step, args=args, force=True)
        except (OSError, ValueError, RuntimeError) as error:
            raise self._failed(error) from error

    def wait(self) -> None:
        """Until everything asked for is on disk."""
        try:
            for manager in (self._last, self._best):
                manager.wait_until_finished()
                manager.check_for_errors()
        except (OSError, ValueError, RuntimeError) as error:
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> UserError:
        why = " ".join(str(error).split())
        why = why if len(why) < 200 else f"{why[:90]} ... {why[-90:]}"
        last = self.on_disk
        resume = f"it resumes from step {last}" if last is not None else "it starts from the first step"
        return UserError(
            f"expected to write a checkpoint below {self.run}, got: {why}; free some space and start the same command "
            f"again, {resume}"
        )

    def close(self) -> None:
        self._last.close()
        self._best.close()

    @property
    def latest(self) -> int | None:
        """Newest step, one that is still being written included."""
        steps = self._last.all_steps()
        return max(steps) if steps else None

    @property
    def on_disk(self) -> int | None:
        """Newest step whose checkpoint is whole: its folder takes its name once everything is written."""
        steps = [int(p.name) for p in (self.run / "checkpoints").glob("*") if p.name.isdigit()]
        return max(steps) if steps else None

    def _meta(self, manager: ocp.CheckpointManager, step: int) -> Meta | None:
        try:
            raw = manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]
        except Exception:  # a truncated file surfaces as one of many exceptions
            return None
        if not isinstance(raw, dict) or "step" not in raw:
            return None
        if raw.get("format", 0) > FORMAT:
            raise UserError(
                f"expected a checkpoint of format {FORMAT} or older, got format {raw['format']} in {self.run}; "
                "update sheaf, or point --out elsewhere"
            )
        known = Meta.__dataclass_fields__
        return Meta(**{k: v for k, v in raw.items() if k in known})

    def restore(self, abstract: PyTree, which: str = "latest", *, part: bool = False) -> Restored:
        """The newest checkpoint that can be read, placed as `abstract`'s shardings say, whatever wrote it.

        part: `abstract` is a dict with some of the state's fields, and only they are read.
        Errors: UserError if none can be read, or if its leaves differ from the abstract ones (path by path).
        """
        manager = self._best if which == "best" else self._last
        notes: list[str] = []
        damaged: list[int] = []
        wanted = leaf_table(abstract)
        fields = set(abstract) if part else set()
        for step in sorted(manager.all_steps(), reverse=True):
            meta = self._meta(manager, step)
            if meta is None:
                notes.append(f"checkpoint {step} is damaged (its meta cannot be read); trying the one before")
                damaged.append(step)
                continue
            there = {k: v for k, v in meta.tree.items() if not part or k.split(".")[0] in fields}
            problems = differences(wanted, there)
            if problems:
                more = f" (and {len(problems) - 8} more)" if len(problems) > 8 else ""
                raise UserError(
                    f"expected a checkpoint of this model in {self.run}, got another one: {'; '.join(problems[:8])}"
                    f"{more}; use the configuration it was trained with, or another --out"
                )
            try:
                return Restored(self._state(manager, step, abstract, part), meta, notes, damaged)
            except Exception as error:  # as above
                why = str(error).splitlines()[0][:80] if str(error) else type(error).__name__
                notes.append(f"checkpoint {step} is damaged ({why}); trying the one before")
                damaged.append(step)
        raise UserError(
            f"expected a readable checkpoint in {self.run}, got {'none' if not notes else 'only damaged ones'}; "
            "train first, or delete the folder and start again"
        )

    def _state(self, manager: ocp.CheckpointManager, step: int, abstract: PyTree, part: bool) -> PyTree:
        if part:
            how = ocp.args.PyTreeRestore(
                item=abstract,
                restore_args=ocp.checkpoint_utils.construct_restore_args(abstract),
                partial_restore=True,
            )
        else:
            how = ocp.args.StandardRestore(abstract)
        return manager.restore(step, args=ocp.args.Composite(state=how))["state"]

    def clear_best(self) -> None:
        """Forget the best state where a training starts anew: its score is of one that is gone."""
        for step in self._best.all_steps():
            self._best.delete(step)

    def set_aside(self, damaged: list[int]) -> None:
        """Move unreadable checkpoints to RUN/damaged, so that their steps can be saved again."""
        if damaged and jax.process_index() == 0:
            (self.run / "damaged").mkdir(exist_ok=True)
            for step in damaged:
                target = self.run / "damaged" / f"{step}-{time.time_ns()}"
                os.replace(self.run / "checkpoints" / str(step), target)
        if damaged and jax.process_count() > 1:
            multihost_utils.sync_global_devices("damaged checkpoints set aside")
        if damaged:
            self._last.reload()


def abstract(tree: PyTree, sharding: jax.sharding.Sharding) -> PyTree:
    """Shapes and types of a tree, to be placed with one sharding."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)
