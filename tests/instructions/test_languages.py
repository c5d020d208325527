import langdetect
import pytest

from uniapl.instructions import follows
from uniapl.instructions.arguments import LANGUAGES
from uniapl.instructions.detection import _profiles, detect
from uniapl.instructions.letter_case import count_capital_words

ENGLISH = "the weather by the sea is often windy and the waves are high in the evening"
TEXTS = {
    "en": ENGLISH,
    "de": "Das Wetter an der See ist oft windig und die Wellen sind am Abend hoch.",
    "fr": "Le temps au bord de la mer est souvent venteux et les vagues sont hautes le soir.",
    "hi": "समुद्र के किनारे मौसम अक्सर हवादार होता है और शाम को लहरें ऊँची होती हैं।",
    "ko": "바닷가의 날씨는 종종 바람이 불고 저녁에는 파도가 높습니다.",
    "ru": "Погода у моря часто ветреная, а вечером волны высокие.",
    "vi": "Thời tiết ở biển thường có gió và sóng cao vào buổi tối.",
    "ja": "海辺の天気は風が強いことが多く、夕方には波が高くなります。",
    "zh-cn": "海边的天气经常刮风，傍晚的海浪很高。我们喜欢在沙滩上散步。",
}


@pytest.mark.parametrize("language", TEXTS)
def test_response_language(language):
    kwargs = {"language": language}
    other = {"language": "en" if language != "en" else "de"}
    for official in (False, True):
        check = "language:response_language"
        assert follows(check, kwargs, TEXTS[language], official=official)
        assert not follows(check, other, TEXTS[language], official=official)


@pytest.mark.parametrize("text", ["1234", "!?!", "https://example.com", "...", "😀"])
def test_unreadable_text_passes_only_in_official_scoring(text):
    assert detect(text) is None
    check, kwargs = "language:response_language", {"language": "en"}
    assert not follows(check, kwargs, text)
    assert follows(check, kwargs, text, official=True)


@pytest.mark.parametrize("text", [*TEXTS.values(), ENGLISH.upper(), "\ud800 by the sea"])
def test_detection_reads_a_text_as_langdetect_does(text, monkeypatch):
    monkeypatch.setattr(langdetect.DetectorFactory, "seed", 0)
    assert detect(text) == langdetect.detect(text)


def test_known_languages_are_those_of_langdetect():
    assert sorted(LANGUAGES) == sorted(_profiles().languages)


def test_a_long_word_is_read_like_a_short_one():
    # 30 letters are beyond what is remembered; the answer must not depend on that.
    assert detect("donaudampfschifffahrtsgesellschaft") == "de"


def test_english_lowercase():
    check = "change_case:english_lowercase"
    for official in (False, True):
        assert follows(check, {}, ENGLISH, official=official)
        assert not follows(check, {}, ENGLISH.capitalize(), official=official)
        assert not follows(check, {}, TEXTS["fr"].lower(), official=official)
        assert not follows(check, {}, "1234", official=official)


def test_english_capital():
    check = "change_case:english_capital"
    for official in (False, True):
        assert follows(check, {}, ENGLISH.upper(), official=official)
        assert not follows(check, {}, ENGLISH, official=official)
        assert not follows(check, {}, TEXTS["fr"].upper(), official=official)
        assert not follows(check, {}, "1234", official=official)


def test_english_capital_is_judged_by_its_small_letters():
    # Of words in capitals langdetect reads little more than the first letters: here it sees German.
    text = "THE SUN SHINES ON MY FRIEND"
    assert follows("change_case:english_capital", {}, text)
    assert not follows("change_case:english_capital", {}, text, official=True)
    assert not follows("change_case:english_capital", {}, "DIE KATZE SCHLÄFT AUF DEM SOFA.")


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("I saw NASA and the FBI.", 3),
        ("A dog", 1),
        ("no capitals", 0),
        ("Title Case", 0),
        ("I'm", 1),
        ("I'M", 2),
        ("DON'T", 2),
        ("don't", 0),
        ("O'NEIL", 1),
        ("THE DOGS'", 2),
        ("X-RAY", 1),
        ("AND/OR", 1),
        ("U.S. U.S.A", 2),
        ("3D R2D2", 2),
        ("RED,BLUE", 2),
        ("1,000A", 1),
        ("A,1B", 1),  # a comma before a digit does not divide
        ("RED''BLUE", 2),
        ("The DOG's.", 1),
        ("(RED)[BLUE]", 2),
        ("**BOLD**", 1),
        ("RED--BLUE RED—BLUE", 4),
        ("WAIT...WHAT", 2),
        ("CANNOT", 2),
        ("ÄRGER", 1),
        ("JohnSMITH", 0),
        ("'RED'", 1),
    ],
)
def test_count_capital_words(text, count):
    assert count_capital_words(text) == count


def test_capital_word_frequency():
    def check(number, relation):
        kwargs = {"capital_frequency": number, "capital_relation": relation}
        return follows("change_case:capital_word_frequency", kwargs, "NASA met the FBI")

    assert check(2, "at least")
    assert not check(3, "at least")
    assert check(3, "less than")
    assert not check(2, "less than")
