"""Answers on disk: what a kill leaves, and who may write."""

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from uniapl.errors import InputError
from uniapl.experts import Answer, AnswerCache

# Adds two answers, is killed within a third, and never closes anything.
KILLED = """\
import os, signal, sys
from pathlib import Path
from uniapl.experts import Answer, AnswerCache
cache = AnswerCache(Path(sys.argv[1]))
cache.add([("a", Answer("1", "stop", "s")), ("b", Answer("2", "stop", "s"))])
cache._database.execute("BEGIN")
cache._database.execute("INSERT INTO answers VALUES ('c', '{}')")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_an_answer_comes_back_as_it_was(tmp_path: Path):
    answer = Answer('half \ud83d "quoted"\n', "length", "m at u", prompt_tokens=3)
    with AnswerCache(tmp_path / "new" / "cache") as cache:
        assert cache.get("a") is None
        cache.add([("a", answer)])
        assert cache.get("a") == answer
        cache.add([("a", Answer("later", "stop", "s")), ("b", answer)])
    with AnswerCache(tmp_path / "new" / "cache") as cache:
        assert cache.get("a") == answer
        assert cache.get("b") == answer


def test_a_kill_loses_nothing_and_leaves_nothing_half_written(tmp_path: Path):
    path = tmp_path / "cache"
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], timeout=600)
    assert done.returncode == -9
    with AnswerCache(path) as cache:
        assert cache.get("a") == Answer("1", "stop", "s")
        assert cache.get("b") == Answer("2", "stop", "s")
        assert cache.get("c") is None
        cache.add([("c", Answer("3", "stop", "s"))])
        assert cache.get("c") == Answer("3", "stop", "s")


def test_a_second_collection_is_refused_until_the_first_ends(tmp_path: Path):
    path = tmp_path / "cache"
    with AnswerCache(path) as cache:
        cache.add([("a", Answer("1", "stop", "s"))])
        with pytest.raises(InputError, match=r"cache: another collection is using this cache$"):
            AnswerCache(path)
    with AnswerCache(path):
        pass


def test_what_is_no_cache_is_refused(tmp_path: Path):
    text = tmp_path / "prompts.jsonl"
    text.write_text("{}\n" * 100)
    with pytest.raises(InputError, match=r"prompts.jsonl: no cache of answers: "):
        AnswerCache(text)
    with pytest.raises(InputError, match="unable to open"):
        AnswerCache(tmp_path)
    assert text.read_text() == "{}\n" * 100


def test_another_programs_table_is_no_cache(tmp_path: Path):
    with closing(sqlite3.connect(tmp_path / "c.sqlite")) as other:
        other.execute("CREATE TABLE answers (question TEXT, value TEXT)")
        other.commit()
    with pytest.raises(InputError, match="no cache of answers"):
        AnswerCache(tmp_path / "c.sqlite")
