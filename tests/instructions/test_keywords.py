import pytest

from uniapl.instructions import InstructionError, follows


def existence(keywords, response, **options):
    return follows("keywords:existence", {"keywords": keywords}, response, **options)


def frequency(keyword, count, relation, response, **options):
    kwargs = {"keyword": keyword, "frequency": count, "relation": relation}
    return follows("keywords:frequency", kwargs, response, **options)


def forbidden(words, response, **options):
    return follows("keywords:forbidden_words", {"forbidden_words": words}, response, **options)


def letters(letter, count, relation, response):
    kwargs = {"letter": letter, "let_frequency": count, "let_relation": relation}
    return follows("keywords:letter_frequency", kwargs, response)


@pytest.mark.parametrize(
    ("keywords", "response", "expected"),
    [
        (["sea"], "The sea.", True),
        (["sea"], "THE SEA.", True),
        (["SEA"], "the sea", True),
        (["sea"], "The seaside.", True),  # inside a longer word counts
        (["sea"], "The s ea.", False),
        (["sea", "wave"], "The sea.", False),
        (["sea", "wave"], "Waves of the sea.", True),
        (["New York"], "In new york.", True),
        (["straße"], "Die Straße.", True),
    ],
)
def test_existence(keywords, response, expected):
    assert existence(keywords, response) is expected
    assert existence(keywords, response, official=True) is expected


@pytest.mark.parametrize(
    ("keyword", "response", "sound", "official"),
    [
        ("C++", "I like C++.", True, True),
        ("C++", "I like C.", False, True),  # a regular expression: one or more C
        ("a.c", "abc", False, True),
        ("a.c", "A.C", True, True),
        ("(s)", "Item(s)", True, True),
        ("(s)", "Items", False, True),
        ("$5", "It costs $5.", True, False),  # a regular expression: 5 after the end
    ],
)
def test_keyword_is_text_but_a_pattern_in_official_scoring(keyword, response, sound, official):
    assert existence([keyword], response) is sound
    assert existence([keyword], response, official=True) is official
    assert frequency(keyword, 1, "at least", response) is sound
    assert frequency(keyword, 1, "at least", response, official=True) is official


def test_frequency_counts_occurrences_also_inside_words():
    response = "Sea, seas and seaside."
    assert frequency("sea", 3, "at least", response)
    assert not frequency("sea", 4, "at least", response)
    assert frequency("sea", 4, "less than", response)
    assert not frequency("sea", 3, "less than", response)


def test_frequency_counts_without_overlap():
    assert frequency("aa", 2, "at least", "aaaa")
    assert not frequency("aa", 3, "at least", "aaaa")


def test_frequency_strips_the_keyword():
    assert frequency(" sea ", 1, "at least", "sea")
    assert frequency(" sea ", 1, "at least", "sea", official=True)


@pytest.mark.parametrize(
    ("words", "response", "expected"),
    [
        (["rock"], "A stone.", True),
        (["rock"], "A rock.", False),
        (["rock"], "A ROCK!", False),
        (["rock"], "Many rocks.", True),  # only as a whole word
        (["rock"], "The bedrock.", True),
        (["rock"], "rock_solid", True),  # the underscore belongs to the word
        (["rock"], "rock-solid", False),
        (["stone", "rock"], "A rock.", False),
    ],
)
def test_forbidden_words(words, response, expected):
    assert forbidden(words, response) is expected
    assert forbidden(words, response, official=True) is expected


def test_forbidden_word_that_ends_in_a_sign():
    assert not forbidden(["C++"], "Use C++ here.")
    assert forbidden(["C++"], "Use C here.")
    # Between two \b, the pattern C++ is any run of C.
    assert not forbidden(["C++"], "Use C here.", official=True)


@pytest.mark.parametrize("pattern", ["(", "*", "[a"])
def test_official_scoring_refuses_a_keyword_that_is_no_pattern(pattern):
    assert existence([pattern], f"x{pattern}x")
    for check in (existence, forbidden):
        with pytest.raises(InstructionError, match="regular expression"):
            check([pattern], "text", official=True)


def test_letter_frequency_ignores_case():
    assert letters("e", 3, "at least", "Ever e")
    assert not letters("e", 4, "at least", "Ever e")
    assert letters("E", 4, "less than", "Ever e")
    assert not letters("E", 3, "less than", "Ever e")


@pytest.mark.parametrize("sign", ["#", "!", "é"])
def test_letter_frequency_counts_any_character(sign):
    assert letters(sign, 2, "at least", f"a{sign}b{sign}")
    assert not letters(sign, 3, "at least", f"a{sign}b{sign}")


def test_scripts_without_blanks_and_other_spellings_of_a_character():
    forbidden = "keywords:forbidden_words"
    assert not follows(forbidden, {"forbidden_words": ["汽车"]}, "他们的汽车很快。")
    assert follows(forbidden, {"forbidden_words": ["घर"]}, "घरों में")
    decomposed = "cafe\u0301"
    for word, text in (("café", decomposed), (decomposed, "café")):
        assert follows("keywords:existence", {"keywords": [word]}, text)
        assert not follows("keywords:existence", {"keywords": [word]}, text, official=True)
        assert not follows(forbidden, {"forbidden_words": [word]}, text)
        once = {"keyword": word, "frequency": 1, "relation": "at least"}
        assert follows("keywords:frequency", once, text)
    assert follows(forbidden, {"forbidden_words": ["cafe"]}, decomposed)
    letter = {"letter": "e\u0301", "let_frequency": 1, "let_relation": "at least"}
    assert follows("keywords:letter_frequency", letter, "é")
