"""Every answer an expert ever gave, on disk before the next one is asked for.

SQLite, as it settles what a file of lines leaves open: an answer that is half written when the process is killed
is gone without a trace, look-ups need no memory, and a lock that dies with its process keeps a second
collection out, which would ask for the same answers again.
"""

import json
import sqlite3
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from uniapl.errors import InputError, TrainingError
from uniapl.experts.answers import Answer

_SCHEMA = """\
PRAGMA locking_mode = EXCLUSIVE;
BEGIN EXCLUSIVE;
CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, answer TEXT NOT NULL) WITHOUT ROWID;
COMMIT;
"""


class AnswerCache:
    """Answers by their request's key, for one process at a time.

    Example:
        with AnswerCache(Path("demonstrations.answers.sqlite")) as cache:
            cache.add([(request.key, answer)])
            cache.get(request.key)
    """

    def __init__(self, path: Path) -> None:
        """Open or create the file.

        Raises:
            InputError: Another process has it open, or it is no cache.
        """
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._database = sqlite3.connect(path, timeout=0, isolation_level=None)
        except sqlite3.Error as error:
            raise InputError(f"{path}: {error}") from error
        try:
            self._database.executescript(_SCHEMA)
            self._database.execute("SELECT key, answer FROM answers LIMIT 1")
        except sqlite3.Error as error:
            self._database.close()
            if error.sqlite_errorcode == sqlite3.SQLITE_BUSY:
                raise InputError(f"{path}: another collection is using this cache") from error
            raise InputError(f"{path}: no cache of answers: {error}") from error

    def __enter__(self) -> "AnswerCache":
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    def get(self, key: str) -> Answer | None:
        """Return the answer to a request, None if there is none yet."""
        query = "SELECT answer FROM answers WHERE key = ?"
        row = self._database.execute(query, (key,)).fetchone()
        return None if row is None else Answer(**json.loads(row[0]))

    def add(self, answers: Iterable[tuple[str, Answer]]) -> None:
        """Keep answers, all or none; they are on disk when this returns. A known key's stays.

        Raises:
            TrainingError: They cannot be written.
        """
        rows = [(key, json.dumps(asdict(answer))) for key, answer in answers]
        try:
            self._database.execute("BEGIN")
            self._database.executemany("INSERT OR IGNORE INTO answers VALUES (?, ?)", rows)
            self._database.execute("COMMIT")
        except sqlite3.Error as error:
            raise TrainingError(f"{self.path}: cannot be written: {error}") from error
