"""Errors that are the user's to mend, and how a command line ends."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

DONE, FAILED, USER, INTERRUPTED = 0, 1, 2, 130
FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)  # no space, file size limit, quota
CLOSED = (errno.EACCES, errno.EPERM, errno.EROFS)  # not ours to write or read


class UserError(Exception):
    """The user's input is at fault: one line with what was expected, what came, and what to do. Exit code 2."""


class ConfigError(UserError):
    """Every problem of a configuration at once, one line each."""

    def __init__(self, problems: Sequence[str]):
        self.problems = list(problems)
        super().__init__("\n".join(self.problems))


class RunError(Exception):
    """The run itself went wrong (NaN, a second compile): one line. Exit code 1."""


def command_line(main: Callable[[list[str]], int]) -> NoReturn:
    """Run a command line to its exit code: errors in one line each, no traceback for what the user can mend."""
    try:
        code = main(sys.argv[1:])
    except (UserError, RunError) as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        code = USER if isinstance(error, UserError) else FAILED
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = INTERRUPTED
    except BrokenPipeError:  # whoever read our output has gone
        code = FAILED
    except OSError as error:
        if error.errno not in (*FULL, *CLOSED):
            raise
        fix = "free some space" if error.errno in FULL else "see to its permissions, or name another place"
        print(f"error: expected to use {error.filename or 'a file'}, got: {error.strerror}; {fix}", file=sys.stderr)
        code = USER
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains of it at its end
    sys.exit(code)
