"""What a run says: console, JSON lines, TensorBoard, and the folder that explains itself. Only importer of tensorboardX."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]

from jaxsrc import report_html
from jaxsrc.errors import UserError

GUIDE = """This folder is one run of sheaf.

config.yaml     the configuration as it was resolved
metrics.jsonl   one JSON object a line: step, t (seconds of training) and the metrics
report.html     everything on one page; open it in a browser
report.json     tables, notes and pictures that the page is made from
tensorboard/    the same figures for `tensorboard --logdir {run}`
checkpoints/    the last states of the training; best/ the one with the best validation score
pictures/       PNG and SVG

resume or go on   python -m jaxsrc.train {run}/config.yaml --out {run}
evaluate          python -m jaxsrc.evaluate {run}
"""

PLAIN_SECONDS = 5.0  # least time between two progress lines where there is no terminal


class Board:
    """TensorBoard's event file, written where it is called: the library's own writer is a thread that a full disk kills
    unheard. What a run before this one wrote at `from_step` and later is hidden."""

    def __init__(self, folder: Path, from_step: int):
        folder.mkdir(parents=True, exist_ok=True)
        self._writer = EventsWriter(str(folder / "events"), filename_suffix=f".{os.getpid()}")
        self._writer.write_event(Event(step=from_step, session_log=SessionLog(status=SessionLog.START)))

    def scalars(self, metrics: Mapping[str, float], step: int) -> None:
        for name, value in metrics.items():
            self._write(summary.scalar(name, value), step)
        self._writer.flush()

    def image(self, name: str, pixels: np.ndarray, step: int) -> None:
        """pixels: uint8[height, width, 3]."""
        self._write(summary.image(name, pixels, dataformats="HWC"), step)
        self._writer.flush()

    def _write(self, content: Any, step: int) -> None:
        self._writer.write_event(Event(summary=content, step=step, wall_time=time.time()))

    def close(self) -> None:
        self._writer.close()


class Report:
    """Everything that a run prints and writes. Records are appended and flushed, so a kill loses nothing.

    Errors: UserError where the folder, or its pictures/, is a file.
    """

    def __init__(self, run: Path, *, quiet: bool = False):
        self.run = Path(run)
        self.quiet = quiet
        try:
            (self.run / "pictures").mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise UserError(f"expected a folder, got a file at {error.filename}; move it, or choose another folder") from None
        (self.run / "README.txt").write_text(GUIDE.format(run=run))
        self.console = Console(quiet=quiet, soft_wrap=True)
        self._board: Board | None = None
        self._progress: Progress | None = None
        self._task: Any = None
        self._last_line = 0.0
        self._from_step = 0
        self.lines = 0  # of metrics.jsonl
        self._kept = self._load()

    def _load(self) -> dict[str, Any]:
        """What reports before this one kept in the folder; of a damaged file only what is sound."""
        kept: dict[str, Any] = {"header": [], "environment": {}, "notes": [], "tables": {}, "pictures": {}, "stages": {}}
        kept |= {"status": "", "trained": False}
        try:
            found = json.loads((self.run / "report.json").read_text())
        except (OSError, ValueError):
            return kept
        sound = found.items() if isinstance(found, dict) else ()
        return kept | {k: v for k, v in sound if k in kept and type(v) is type(kept[k])}

    def _store(self) -> None:
        temporary = self.run / "report.json.new"
        temporary.write_text(json.dumps(self._kept))
        os.replace(temporary, self.run / "report.json")

    @property
    def board(self) -> Board:
        if self._board is None:
            self._board = Board(self.run / "tensorboard", self._from_step)
        return self._board

    @property
    def trained(self) -> bool:
        """Whether the training in this folder was closed as finished, whatever was measured on it since."""
        return self._kept["trained"]

    def start(self, header: Sequence[str], environment: Mapping[str, str]) -> None:
        """First lines of a run."""
        self._kept["header"], self._kept["environment"] = list(header), dict(environment)
        self._kept["status"], self._kept["trained"] = "", False
        for line in header:
            self.say(line)
        self._store()

    def say(self, text: str) -> None:
        """A line on the console only."""
        self.console.print(text, highlight=False, markup=False)

    def note(self, text: str) -> None:
        """A line on the console and in the report."""
        self.say(text)
        self._kept["notes"].append(text)
        self._store()

    def stage(self, name: str, first_step: int) -> None:
        self._kept["stages"][name] = first_step
        self.note(f"stage '{name}' from step {first_step}")

    def progress(self, total: int, done: int) -> None:
        """Show a progress bar on a terminal; plain lines elsewhere."""
        if self.console.is_terminal and not self.quiet:
            columns = (
                *(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()),
                TextColumn("{task.fields[rate]}"),
            )
            self._progress = Progress(*columns, console=self.console)
            self._task = self._progress.add_task("training", total=total, completed=done, rate="")
            self._progress.start()

    def step(self, step: int, total: int, metrics: Mapping[str, float], seconds: float, rate: float, left: float) -> None:
        """Record the metrics of the steps up to `step`; rate in steps a second, seconds of training, seconds left."""
        self._append({"step": step, "t": round(seconds, 3), **metrics})
        self.board.scalars(metrics, step)
        shown = ", ".join(f"{k} {v:.4g}" for k, v in list(metrics.items())[:3])
        if self._progress is not None:
            self._progress.update(self._task, completed=step, rate=f"{rate:.2f} steps/s, {shown}")
        elif time.monotonic() - self._last_line > PLAIN_SECONDS or step == total:
            self._last_line = time.monotonic()
            self.say(f"step {step}/{total}: {shown}; {rate:.2f} steps/s, {_clock(left)} left")

    def scalars(self, step: int, metrics: Mapping[str, float], seconds: float) -> None:
        """Validation figures at a step."""
        self._append({"step": step, "t": round(seconds, 3), **metrics})
        self.board.scalars(metrics, step)
        self.say(f"step {step}: " + ", ".join(f"{k} {v:.4g}" for k, v in metrics.items()))

    def _append(self, record: Mapping[str, Any]) -> None:
        with open(self.run / "metrics.jsonl", "a") as file:
            file.write(json.dumps(record) + "\n")
        self.lines += 1

    def rewind(self, step: int, lines: int = -1) -> None:
        """Keep the first `lines` records (-1: all) up to `step`, no line cut short: the resumed run writes the rest."""
        path = self.run / "metrics.jsonl"
        found = records(self.run)
        kept = [r for r in found[: lines if lines >= 0 else len(found)] if r["step"] <= step]
        self.lines, self._from_step = len(kept), step + 1
        temporary = path.with_suffix(".new")
        temporary.write_text("".join(json.dumps(r) + "\n" for r in kept))
        os.replace(temporary, path)

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Print a table and keep it; the same name replaces."""
        text = [[_cell(v) for v in row] for row in rows]
        shown = Table(title=name, title_justify="left")
        for i, column in enumerate(columns):
            shown.add_column(column, justify="left" if i == 0 else "right", no_wrap=i > 0)
        for row in text:
            shown.add_row(*row)
        Console(quiet=self.quiet, width=None if self.console.is_terminal else 160).print(shown)
        self._kept["tables"][name] = {"columns": list(columns), "rows": text}
        self._store()

    def picture(self, name: str, path: Path, step: int = 0) -> None:
        """Keep a PNG (copied into pictures/ if it lies elsewhere) for the page and TensorBoard."""
        target = self.run / "pictures" / path.name
        if path.resolve() != target.resolve():
            shutil.copyfile(path, target)
        self._kept["pictures"][name] = f"pictures/{path.name}"
        self._store()
        from PIL import Image

        with Image.open(target) as image:
            image.thumbnail((1600, 1600))
            self.board.image(name, np.asarray(image.convert("RGB")), step)

    def stop_progress(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def close(self, status: str) -> Path:
        """Write report.html and say where it is; status: 'finished' once training is over, or what else came to its end."""
        self.stop_progress()
        self._kept["status"] = status
        self._kept["trained"] = self._kept["trained"] or status == "finished"
        self._store()
        if self._board is not None:
            self._board.close()
            self._board = None
        page = report_html.write(self.run, self._kept, records(self.run))
        self.say(f"{status}; report: {page}")
        sys.stdout.flush()
        return page


def records(run: Path) -> list[dict[str, Any]]:
    """Lines of metrics.jsonl that are whole."""
    path = Path(run) / "metrics.jsonl"
    found = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and "step" in record:
            found.append(record)
    return found


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _clock(seconds: float) -> str:
    if not np.isfinite(seconds):
        return "?"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
