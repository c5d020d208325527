import pytest

from uniapl.instructions import follows
from uniapl.instructions.lengths import holds
from uniapl.instructions.sentences import count_sentences, max_sentences


@pytest.mark.parametrize(
    ("count", "relation", "expected"),
    [
        (4, "at least", False),
        (5, "at least", True),
        (6, "at least", True),
        (4, "less than", True),
        (5, "less than", False),
    ],
)
def test_holds(count, relation, expected):
    assert holds(count, relation, 5) is expected


@pytest.mark.parametrize(
    ("response", "count"),
    [
        ("one two three", 3),
        ("don't", 2),
        ("well-known", 2),
        ("snake_case", 1),
        ("3.14", 2),
        ("größer als", 2),
        ("... --- !", 0),
    ],
)
def test_number_words(response, count):
    def check(number, relation):
        kwargs = {"num_words": number, "relation": relation}
        return follows("length_constraints:number_words", kwargs, response)

    assert check(count, "at least")
    assert not check(count + 1, "at least")
    assert check(count + 1, "less than")
    assert not check(count, "less than")


@pytest.mark.parametrize(
    ("response", "count"),
    [
        ("One. Two! Three?", 3),
        ("Dr. Smith paid $3.50 to Mr. Jones.", 1),
        ("no mark at all", 1),
        ("He said (quietly.) Then he left.", 2),
        ("- point\n- point", 1),  # line breaks alone end no sentence
        ("Wait... what? Yes.", 2),
        ("Great!!! Really.", 2),
    ],
)
def test_number_sentences(response, count):
    def check(number, relation):
        kwargs = {"num_sentences": number, "relation": relation}
        return follows("length_constraints:number_sentences", kwargs, response)

    assert count_sentences(response) == count
    assert max_sentences(response) >= count
    assert check(count, "at least")
    assert not check(count + 1, "at least")
    assert check(count + 1, "less than")
    assert not check(count, "less than")
    # Beyond what the marks allow, nothing has to be divided to know.
    assert not check(count + 50, "at least")
    assert check(count + 50, "less than")


@pytest.mark.parametrize(
    ("response", "number", "expected"),
    [
        ("one\n***\ntwo", 2, True),
        ("one *** two", 2, True),
        ("one***two", 2, True),
        ("one\n***\ntwo", 3, False),
        ("one\n\ntwo", 2, False),  # only the divider divides
        ("***\none\n***\ntwo\n***", 2, True),  # blank first and last
        ("one\n***\n \n***\ntwo", 2, False),  # blank in the middle
        ("one\n***\n \n***\ntwo", 3, False),
        ("one", 1, True),
        ("***", 0, True),
        ("one\n******\ntwo", 2, False),  # two dividers with nothing between them
    ],
)
def test_number_paragraphs(response, number, expected):
    kwargs = {"num_paragraphs": number}
    assert follows("length_constraints:number_paragraphs", kwargs, response) is expected


@pytest.mark.parametrize(
    ("response", "nth", "word", "expected"),
    [
        ("One a.\n\nTwo b.", 1, "one", True),
        ("One a.\n\nTwo b.", 2, "TWO", True),
        ("One a.\n\nTwo b.", 2, "one", False),
        ("One a.\n\nTwo b.", 3, "two", False),  # beyond the last
        ("One.\n\n\n\nTwo.", 3, "two", False),  # the blank one keeps its place
        ("One.\n\n\n\nTwo.", 2, "two", False),
        ("One.\n\n\nTwo.", 2, "two", True),  # three breaks: the third belongs to the paragraph
        ('a\n\n\'"Two," he said', 2, "two", True),
        ("a\n\n\"'Two,' he said", 2, "two", False),  # ' is only stripped outside "
        ("a\n\nTwo's", 2, "two", True),
        ("a\n\nTwo-fold", 2, "two", False),
        ("a\n\nTwo: b", 2, "two", False),  # a colon does not end the word
    ],
)
def test_nth_paragraph_first_word(response, nth, word, expected):
    kwargs = {"num_paragraphs": 2, "nth_paragraph": nth, "first_word": word}
    assert follows("length_constraints:nth_paragraph_first_word", kwargs, response) is expected


def test_nth_paragraph_first_word_needs_the_number_of_paragraphs():
    kwargs = {"num_paragraphs": 3, "nth_paragraph": 1, "first_word": "one"}
    check = "length_constraints:nth_paragraph_first_word"
    assert not follows(check, kwargs, "One.\n\nTwo.")
    assert follows(check, kwargs, "One.\n\nTwo.\n\nThree.")


HINDI = "मैं घर जाता हूँ। वह खाता है। हम खेलते हैं।"


def test_counts_are_those_of_the_script_and_officially_those_of_english():
    words, sentences = "length_constraints:number_words", "length_constraints:number_sentences"
    nine = {"num_words": 10, "relation": "at least"}
    assert follows(words, nine, HINDI)
    assert not follows(words, {"num_words": 11, "relation": "at least"}, HINDI)
    # a vowel sign is no letter to IFEval: it counts pieces of words
    assert follows(words, {"num_words": 13, "relation": "at least"}, HINDI, official=True)
    assert follows(words, nine, "今天天气很好，我们去公园。")
    assert not follows(words, nine, "今天天气很好，我们去公园。", official=True)
    three = {"num_sentences": 3, "relation": "at least"}
    for text in (HINDI, "你好。你好吗？好！", "مرحبا. كيف حالك؟ بخير."):
        assert follows(sentences, three, text)
    assert not follows(sentences, three, HINDI, official=True)
    assert not follows(sentences, {"num_sentences": 4, "relation": "at least"}, HINDI)


def test_a_first_word_ends_with_a_mark_of_its_script_or_anywhere_without_blanks():
    name = "length_constraints:nth_paragraph_first_word"
    kwargs = {"num_paragraphs": 1, "nth_paragraph": 1}
    assert follows(name, {**kwargs, "first_word": "首先"}, "首先我们去公园。")
    assert follows(name, {**kwargs, "first_word": "أولا"}, "أولا، نذهب")
    assert not follows(name, {**kwargs, "first_word": "أول"}, "أولا، نذهب")
    assert follows(name, {**kwargs, "first_word": "cafe\u0301"}, "Café is open")
