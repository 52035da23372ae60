"""What a step says: to its log file and, shorter, to the terminal; and how far it has come."""

import errno
import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from cryorestore.errors import CryorestoreError

Item = TypeVar("Item")
SECONDS_BETWEEN_LINES = 15.0
_REFUSALS = {
    errno.EACCES: "give this user the right to it, or choose another folder",
    errno.EPERM: "give this user the right to it, or choose another folder",
    errno.EROFS: "the file system is read-only: choose another folder",
    errno.ENOTDIR: "a file stands where a folder is expected: choose another folder",
    errno.EEXIST: "a file stands where a folder is expected: choose another folder",
    errno.EISDIR: "a folder stands where a file is expected: choose another name",
    errno.ENAMETOOLONG: "the name is too long: choose a shorter one",
}
"""What to do where the system refuses a file"""


def get_logger() -> logging.Logger:
    """The one logger of the project."""
    return logging.getLogger("cryorestore")


@cache
def warn_once(message: str) -> None:
    """Log a warning the first time that this process has it to say."""
    get_logger().warning(message)


def log_file() -> Path | None:
    """Where the messages of the running step are written, besides stderr."""
    return next((Path(handler.baseFilename) for handler in get_logger().handlers if isinstance(handler, logging.FileHandler)), None)


@contextmanager
def logged_step(log_path: str | Path | None, *, append: bool = False) -> Iterator[None]:
    """Run a step with its log: everything, with times, goes to `log_path` (None: nowhere) and the bare messages to stderr.

    With `append`, the log goes on; several processes may write it.
    A CryorestoreError, a full disk, a file that the system refuses, and a lack of memory are told as one message without a traceback, any other
    exception with it; all end the process with code 1.
    SystemExit and KeyboardInterrupt pass through, so that a step keeps its own exit codes.
    """
    logger = get_logger()
    logger.setLevel(logging.INFO)
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    handlers[0].setFormatter(logging.Formatter("%(message)s"))
    if log_path is not None:
        Path(log_path).parent.mkdir(parents=True, exist_ok=True)
        if not append:
            Path(log_path).write_text("", encoding="utf-8")
        handlers.append(logging.FileHandler(log_path, mode="a", encoding="utf-8"))
        handlers[1].setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    warned = logging.getLogger("py.warnings")
    for handler in handlers:
        logger.addHandler(handler)
        warned.addHandler(handler)
    logging.captureWarnings(True)
    try:
        yield
    except CryorestoreError as error:
        logger.error("error: %s", error)
        raise SystemExit(1) from None
    except Exception as error:
        lacking = _what_is_lacking(error)
        if lacking:
            logger.error("error: %s (%s)", lacking, error)
        elif isinstance(error, OSError) and error.errno in _REFUSALS and error.filename:
            logger.error("error: %s: cannot be read or written (%s); %s", error.filename, error.strerror, _REFUSALS[error.errno])
        else:
            logger.exception("unexpected error, please report it with this text")
        raise SystemExit(1) from None
    finally:
        logging.captureWarnings(False)
        for handler in handlers:
            logger.removeHandler(handler)
            warned.removeHandler(handler)
            handler.close()


def _what_is_lacking(error: Exception) -> str | None:
    """What to tell where not the program but the machine is at fault; libraries in C say so in words only."""
    if any(os.strerror(number) in str(error) for number in (errno.ENOSPC, errno.EDQUOT)):
        return "the disk is full, or its quota is used up: make room and start again; what is finished is kept"
    if isinstance(error, MemoryError):
        return "out of memory: give the job more (`mem_mb` in the profile)"
    return None


def progress(iterable: Iterable[Item], *, total: int | None = None, description: str) -> Iterator[Item]:
    """Pass the items on and show how far it is: a bar on a terminal, occasional lines with rate and time left in a log.

    `total` is the number of items; left out, the length of `iterable` where it has one.
    """
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    shown = _with_bar if sys.stderr.isatty() else _with_lines
    return shown(iterable, total, description)


def _with_bar(iterable: Iterable[Item], total: int | None, description: str) -> Iterator[Item]:
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(show_speed=True), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bars:
        yield from bars.track(iterable, total=total, description=description)


def _with_lines(iterable: Iterable[Item], total: int | None, description: str) -> Iterator[Item]:
    begin = spoken = time.monotonic()
    for done, item in enumerate(iterable, start=1):
        yield item
        now = time.monotonic()
        if now - spoken >= SECONDS_BETWEEN_LINES or (done == total and now - begin >= SECONDS_BETWEEN_LINES):
            spoken = now
            get_logger().info("%s … %s", description, progress_text(done, total, now - begin))


def progress_text(done: int, total: int | None, seconds: float) -> str:
    """Say for example "40 % 120/300, 12.3/s, 15 s left"."""
    rate = done / max(seconds, 1e-9)
    if not total:
        return f"{done}, {rate:.3g}/s"
    return f"{100 * done // total} % {done}/{total}, {rate:.3g}/s, {(total - done) / rate:.0f} s left"
