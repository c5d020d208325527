"""Words, commas and sentence ends as readers of each script count them."""

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uniapl.words import (
    COMMAS,
    composed,
    find_words,
    is_ended,
    is_latin,
    num_written_words,
    split_at_other_ends,
    units,
    whole_word_pattern,
)

CAFE = "cafe\u0301"  # typed as e and an accent


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don't run, 2 cats_x!", ["Don", "t", "run", "2", "cats_x"]),
        ("मेरे दिन के बारे में बताओ।", ["मेरे", "दिन", "के", "बारे", "में", "बताओ"]),
        ("كَتَبَ الوَلَدُ", ["كَتَبَ", "الوَلَدُ"]),
        ("می\u200cخواهم بروم", ["می\u200cخواهم", "بروم"]),
        ("今天很好，用Python编程", ["今", "天", "很", "好", "用", "Python", "编", "程"]),
        ("テーブルです", ["テ", "ー", "ブ", "ル", "で", "す"]),
        ("나는 집에 간다", ["나는", "집에", "간다"]),
        ("ฉันรักคุณ มาก", ["ฉันรักคุณ", "มาก"]),
        (f"{CAFE}s ½ x²", [f"{CAFE}s", "½", "x²"]),
        ("👨\u200d👩\u200d👧 hi", ["hi"]),
    ],
)
def test_words(text: str, words: list[str]):
    assert find_words(text) == words


@given(st.text(st.characters(max_codepoint=0x2AF)))
def test_words_of_latin_text_are_runs_of_word_characters(text: str):
    assert find_words(text) == re.findall(r"\w+", text)
    assert units(text) == re.findall(r"\w+|[^\w\s]", text)


def test_every_comma_of_unicode_is_known():
    characters = map(chr, range(0x110000))
    named = {
        c
        for c in characters
        if unicodedata.category(c) == "Po" and "COMMA" in unicodedata.name(c, "").split()
    }
    assert named <= set(COMMAS)


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("मैं घर जाता हूँ। वह खाता है।", ["मैं घर जाता हूँ।", "वह खाता है।"]),
        ("他说：“你好！”然后走了。", ["他说：“你好！”", "然后走了。"]),
        ("هل تأتي؟ نعم", ["هل تأتي؟", "نعم"]),
        ("Good. Really?! Yes", ["Good. Really?! Yes"]),
        ("太好了！！！走吧", ["太好了！！！", "走吧"]),
        ("Τι κάνεις; Καλά είμαι; Ναι", ["Τι κάνεις;", "Καλά είμαι;", "Ναι"]),
        ("Πού\u037e Εδώ", ["Πού\u037e", "Εδώ"]),
        ("Alpha is α; beta is β", ["Alpha is α; beta is β"]),
        ("ང་འགྲོ། ཁྱོད་སྡོད།", ["ང་འགྲོ།", "ཁྱོད་སྡོད།"]),
        ("ང་འགྲོ། །ཁྱོད་སྡོད། །", ["ང་འགྲོ། །", "ཁྱོད་སྡོད། །"]),
    ],
)
def test_sentence_ends_of_other_scripts(text: str, sentences: list[str]):
    assert [one.strip() for one in split_at_other_ends(text)] == sentences


@pytest.mark.parametrize(
    ("word", "text", "is_found"),
    [
        ("cat", "a CAT.", True),
        ("cat", "cats", False),
        ("C++", "C++ is", True),
        ("汽车", "他们的汽车很快", True),
        ("Python", "使用Python编程", True),
        ("घर", "मैं घर जाता", True),
        ("घर", "घरों में", False),
        ("cafe", composed(CAFE), False),
        (CAFE, composed(f"the {CAFE}."), True),
        ("cafe", CAFE, False),
        ("รถ", "ขับรถเร็ว", True),
    ],
)
def test_whole_words(word: str, text: str, is_found: bool):
    assert bool(whole_word_pattern(word).search(text)) == is_found


def test_ends_and_lengths():
    ended = ["描述公园。", "बताओ।", 'He asked "why?"', "So (it is).", "هل؟", "Well…", "「はい。」"]
    ended += ["Τι κάνεις;", "Πού\u037e", "ང་འགྲོ།"]
    assert all(map(is_ended, ended))
    assert not any(map(is_ended, ["Name it", "公园", "a, ", "one α;"]))
    assert num_written_words("don't go 今天 ok好") == 2 + 2 + 2
    assert is_latin("Größe 今")
    assert is_latin("12")
    assert not is_latin("今天ok好的")
