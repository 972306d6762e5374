"""`scripts/prepare_cifar10 FOLDER`: the published archive of CIFAR-10, downloaded with a progress bar and checked."""

from __future__ import annotations

import argparse
import hashlib
import os
import urllib.error
import urllib.request
from pathlib import Path

from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

from jaxsrc.data.images import ARCHIVE, ARCHIVE_BYTES, ARCHIVE_MD5
from jaxsrc.errors import DONE, UserError, command_line

URL = f"https://www.cs.toronto.edu/~kriz/{ARCHIVE}"
BLOCK = 1 << 20


def md5(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def fetch(url: str, target: Path, size: int, digest: str) -> None:
    """Download into TARGET.part, check size and hash, then move it in place; a file that is right already stays.

    Errors: UserError where the server does not answer, the file is cut short, or its hash is another.
    """
    if target.is_file() and target.stat().st_size == size and md5(target) == digest:
        print(f"{target} is here already, and whole")
        return
    part = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        with urllib.request.urlopen(url, timeout=60) as answer, open(part, "wb") as file, Progress(*columns) as progress:
            task = progress.add_task(target.name, total=size)
            while block := answer.read(BLOCK):
                file.write(block)
                progress.update(task, advance=len(block))
    except (urllib.error.URLError, TimeoutError, OSError) as error:
        raise UserError(f"expected {url} to answer, got {error}; try again, or put the file into {target.parent}") from None
    if part.stat().st_size != size or md5(part) != digest:
        found = part.stat().st_size
        part.unlink()
        raise UserError(f"{url}: expected {size:,} bytes with MD5 {digest}, got {found:,} others; try again")
    os.replace(part, target)
    print(f"wrote {target}")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="scripts/prepare_cifar10", description=__doc__)
    parser.add_argument("folder", type=Path, help="where the archive goes; experiment.data.folder of a configuration")
    args = parser.parse_args(arguments)
    fetch(URL, args.folder / ARCHIVE, ARCHIVE_BYTES, ARCHIVE_MD5)
    return DONE


if __name__ == "__main__":
    command_line(main)
