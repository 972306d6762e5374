"""Worker processes end with the one that started them, however it ends."""

import os
import signal
import subprocess
import sys
import time

import pytest

SCRIPT = """
import os, time
from functools import partial
from pathlib import Path
from jaxsrc.workers import end_with_parent, pool

def prepare(folder):
    end_with_parent()
    Path(folder, str(os.getpid())).touch()

def work(_):
    time.sleep(100)

if __name__ == "__main__":
    with pool(2, partial(prepare, {folder!r})) as processes:
        list(processes.map(work, range(8)))
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_no_worker_is_left_behind(tmp_path, number):
    script, folder = tmp_path / "script.py", tmp_path / "workers"
    folder.mkdir()
    script.write_text(SCRIPT.format(folder=str(folder)))
    env = {**os.environ, "PYTHONPATH": os.getcwd()}
    process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=env)
    deadline = time.monotonic() + 60
    while len(list(folder.iterdir())) < 2:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    process.communicate(timeout=30)  # ends when nobody holds its output any more, the workers too
