"""Standard output and error that never end a run: closed, full or short of characters, they lose words, not work."""

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO


class UnfailingStream(io.TextIOBase):
    """A text stream around another one; what that cannot take is replaced or dropped.

    Characters that its encoding lacks become question marks. After an error of the device (a full disk) it tries again
    with the next words; once the reader is gone (`| head`) it is silent.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.failure: OSError | None = None
        """The first error of the device; a reader that has gone is none."""
        self._is_gone = False

    def __getattr__(self, name: str) -> Any:
        """Return whatever else the stream has, such as `buffer`."""
        return getattr(self._stream, name)

    @property
    def encoding(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The stream's."""
        return self._stream.encoding or "utf-8"

    @property
    def errors(self) -> str | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """What happens to characters that it lacks."""
        return "replace"

    def fileno(self) -> int:
        """Return the stream's number."""
        return self._stream.fileno()

    def isatty(self) -> bool:
        """Return whether a person sees it."""
        return not self._stream.closed and self._stream.isatty()

    def writable(self) -> bool:
        """Return True: whatever happens, there is nothing to do about it."""
        return True

    def write(self, text: str) -> int:
        """Write what can be written."""
        if not self._is_gone:
            try:
                self._stream.write(text)
            except UnicodeEncodeError:
                self.write(text.encode(self.encoding, "replace").decode(self.encoding, "replace"))
            except (OSError, ValueError) as error:
                self._note(error)
        return len(text)

    def flush(self) -> None:
        """Pass on what has been written."""
        if not self._is_gone:
            try:
                self._stream.flush()
            except (OSError, ValueError) as error:
                self._note(error)

    def finish(self) -> None:
        """Flush; what is left then goes nowhere, so that Python's own flush at exit has nothing to complain about."""
        self.flush()
        if self.failure is not None or self._is_gone:
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
                self._stream.flush()

    def _note(self, error: OSError | ValueError) -> None:
        if isinstance(error, OSError) and error.errno not in (errno.EPIPE, errno.EBADF):
            self.failure = self.failure or error
        else:  # a ValueError: somebody has closed it
            self._is_gone = True


@contextmanager
def unfailing_streams() -> Iterator[tuple[UnfailingStream, UnfailingStream]]:
    """Put unfailing streams in the place of standard output and error while a command runs."""
    _occupy_standard_numbers()
    before = sys.stdout, sys.stderr
    # without a stream (`>&-`) Python has None
    streams = tuple(UnfailingStream(s if s is not None else _nowhere()) for s in before)
    sys.stdout, sys.stderr = streams
    try:
        yield streams[0], streams[1]
    finally:
        for stream in streams:
            stream.finish()
        sys.stdout, sys.stderr = before


def _occupy_standard_numbers() -> None:
    """Open the null device in the place of closed standard streams: else the next file would get their words."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number


def _nowhere() -> TextIO:
    return open(os.devnull, "w", encoding="utf-8")
