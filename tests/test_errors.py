"""How a command line ends: one line a problem, and the exit code that says whose it is."""

import errno
import os
import subprocess
import sys

import pytest

from jaxsrc.errors import ConfigError, RunError, UserError, command_line


def ends(main, capsys) -> tuple[int, list[str]]:
    with pytest.raises(SystemExit) as ended:
        command_line(main)
    return ended.value.code, capsys.readouterr().err.splitlines()


def raising(error):
    def main(_: list[str]) -> int:
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "code", "lines"),
    [
        (UserError("expected a, got b"), 2, ["error: expected a, got b"]),
        (ConfigError(["x: one", "y: two"]), 2, ["error: x: one", "error: y: two"]),
        (RunError("loss is not finite"), 1, ["error: loss is not finite"]),
        (KeyboardInterrupt(), 130, ["interrupted"]),
    ],
)
def test_errors_end_in_lines_and_a_code(error, code, lines, capsys):
    assert ends(raising(error), capsys) == (code, lines)


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "error: expected to use there/x, got: No space left on device; free some space"),
        (errno.EACCES, "error: expected to use there/x, got: Permission denied; see to its permissions, or name another place"),
    ],
)
def test_a_disk_that_is_full_or_closed_is_the_users(number, said, capsys):
    assert ends(raising(OSError(number, os.strerror(number), "there/x")), capsys) == (2, [said])


def test_a_reader_that_has_gone_is_no_traceback():
    script = "from jaxsrc.errors import command_line\ncommand_line(lambda _: [print('x' * 80) for _ in range(9999)] and 0)"
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait(60) == 1


def test_a_mistake_of_ours_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        command_line(raising(ZeroDivisionError()))


def test_the_code_of_a_good_end_is_the_commands():
    with pytest.raises(SystemExit) as ended:
        command_line(lambda _: 0)
    assert ended.value.code == 0
