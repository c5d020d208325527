import pytest

from uniapl.instructions import InstructionError, follows


@pytest.mark.parametrize(
    ("response", "count"),
    [
        ("[name] and [address]", 2),
        ("name", 0),
        ("[]", 1),
        ("[a [b] c]", 1),
        ("[over\nlines]", 0),
        ("[a][b][c]", 3),
    ],
)
def test_number_placeholders(response, count):
    check = "detectable_content:number_placeholders"
    assert follows(check, {"num_placeholders": count}, response)
    assert not follows(check, {"num_placeholders": count + 1}, response)


@pytest.mark.parametrize(
    ("marker", "response", "expected"),
    [
        ("P.S.", "Text.\n\nP.S. more", True),
        ("P.S.", "Text. p. s. more", True),
        ("P.S.", "Text.\nP.S more", False),
        ("P.S.", "Text.\nPS: more", False),
        ("P.S.", "P.P.S. more", True),
        ("P.P.S", "Text.\nP.P.S more", True),
        ("P.P.S", "Text.\nP. P. S. more", True),
        ("P.P.S", "Text.\nP.S. more", False),
        ("PPS:", "Text.\npps: more", True),
        ("PPS:", "Text.\nps: more", False),
    ],
)
def test_postscript(marker, response, expected):
    kwargs = {"postscript_marker": marker}
    assert follows("detectable_content:postscript", kwargs, response) is expected
    assert follows("detectable_content:postscript", kwargs, response, official=True) is expected


def test_postscript_marker_is_text_but_a_pattern_in_official_scoring():
    kwargs = {"postscript_marker": "P.S"}
    assert not follows("detectable_content:postscript", kwargs, "It passes.")
    assert follows("detectable_content:postscript", kwargs, "It passes.", official=True)
    with pytest.raises(InstructionError, match="regular expression"):
        follows("detectable_content:postscript", {"postscript_marker": "("}, "a", official=True)


@pytest.mark.parametrize(
    ("response", "count"),
    [
        ("* one\n* two", 2),
        ("- one\n  - two", 2),
        ("* one\n- two\n\n* three", 3),
        ("*one\n-two", 2),
        ("**bold** line", 0),
        ("---", 1),
        ("text * no\ntext - no", 0),
        ("1. one\n2. two", 0),
    ],
)
def test_number_bullet_lists(response, count):
    check = "detectable_format:number_bullet_lists"
    assert follows(check, {"num_bullets": count}, response)
    assert not follows(check, {"num_bullets": count + 1}, response)
    if count:
        assert not follows(check, {"num_bullets": count - 1}, response)


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("My answer is yes.", True),
        ("Well: My answer is maybe. Sorry.", True),
        ("My answer is no", False),
        ("my answer is no.", False),
        ("yes", False),
    ],
)
def test_constrained_response(response, expected):
    assert follows("detectable_format:constrained_response", {}, response) is expected


@pytest.mark.parametrize(
    ("response", "count"),
    [
        ("*one* and *two*", 2),
        ("none", 0),
        ("* *", 0),
        ("*over\nlines*", 0),
        ("**bold**", 1),
        ("****", 0),
        ("* a\n* b", 0),
    ],
)
def test_number_highlighted_sections(response, count):
    check = "detectable_format:number_highlighted_sections"
    assert follows(check, {"num_highlights": count}, response)
    assert not follows(check, {"num_highlights": count + 1}, response)


@pytest.mark.parametrize(
    ("response", "count"),
    [
        ("SECTION 1\na\nSECTION 2\nb", 2),
        ("SECTION1 a SECTION2 b", 2),
        ("SECTION one SECTION two", 0),
        ("Section 1", 0),
        ("SECTION  1", 0),
    ],
)
def test_multiple_sections(response, count):
    for official in (False, True):

        def check(number, official=official):
            kwargs = {"section_spliter": "SECTION", "num_sections": number}
            name = "detectable_format:multiple_sections"
            return follows(name, kwargs, response, official=official)

        assert check(count)
        assert not check(count + 1)


def test_section_name_is_text_but_a_pattern_in_official_scoring():
    kwargs = {"section_spliter": "Q.", "num_sections": 1}
    assert not follows("detectable_format:multiple_sections", kwargs, "QA 1")
    assert follows("detectable_format:multiple_sections", kwargs, "Q. 1")
    assert follows("detectable_format:multiple_sections", kwargs, "QA 1", official=True)


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ('{"a": 1}', True),
        ("[1, 2]", True),
        ('```json\n{"a": 1}\n```', True),
        ('```\n{"a": 1}\n```', True),
        ('Here: {"a": 1}', False),
        ("{'a': 1}", False),
        ('{"a": 1,}', False),
        ("plain", False),
        ("[" * 100_000, False),
    ],
)
def test_json_format(response, expected):
    assert follows("detectable_format:json_format", {}, response) is expected
    assert follows("detectable_format:json_format", {}, response, official=True) is expected


@pytest.mark.parametrize("response", ['"an ordinary answer"', "5", "true", "null", "[NaN]"])
def test_only_official_scoring_takes_any_json_value(response):
    assert not follows("detectable_format:json_format", {}, response)
    assert follows("detectable_format:json_format", {}, response, official=True)


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("<<The Sea>>\ntext", True),
        ("text <<The Sea>> text", True),
        ("<The Sea>", False),
        ("<< >>", False),
        ("<<over\nlines>>", False),
        ("<<<>>>", False),
    ],
)
def test_title(response, expected):
    assert follows("detectable_format:title", {}, response) is expected
