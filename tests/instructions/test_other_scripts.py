"""Made prompts promise only what their answers have, whatever script these are written in."""

import random

import pytest

from uniapl.instructions import conflicts as types
from uniapl.instructions import follows
from uniapl.instructions.back_translation import derive_instructions
from uniapl.instructions.contamination import Overlaps
from uniapl.instructions.drawing import draw_kwargs
from uniapl.instructions.making import Recipe, back_translate, make_prompts
from uniapl.types import Prompt

CHINESE = (
    "今天天气很好，我们一家人去公园散步。孩子们在草地上奔跑，笑声传得很远！中午，我们在湖边吃了午饭，喝了热茶。"
    "下午，爷爷讲了很多老故事，大家都听得入迷。傍晚，太阳慢慢落下，湖水变成了金色。"
)
HINDI = (
    "आज मैं सुबह जल्दी उठा। फिर मैंने चाय पी और अखबार पढ़ा। दोपहर में मैं बाज़ार गया और सब्ज़ी खरीदी। "
    "शाम को दोस्त आए। फिर मैं घर लौट आया।"
)
ARABIC = (
    "ذهبت إلى السوق في الصباح، واشتريت الخبز. ثم عدت إلى البيت، وقرأت كتابا جميلا عن البحر. "
    "هل تحب البحر؟ أنا أحبه كثيرا، لأنه واسع وهادئ."
)
THAI = "วันนี้อากาศดีมาก เราไปเดินเล่นที่สวนสาธารณะกับครอบครัว เด็ก ๆ วิ่งเล่นบนสนามหญ้าและหัวเราะเสียงดังตลอดทั้งวัน"
DECOMPOSED = (
    "Le cafe\u0301 ouvre to\u0302t et le cafe\u0301 ferme tard. " * 3
    + "Le cafe\u0301 est ferme\u0301 le lundi matin."
)
TEXTS = [CHINESE, HINDI, ARABIC, THAI, DECOMPOSED]


@pytest.mark.parametrize("completion", TEXTS)
def test_what_is_derived_holds_in_both_readings_and_for_a_reader(completion: str):
    found: dict[str, list] = {}
    for number in range(60):
        derived = derive_instructions("Describe a day.", completion, random.Random(number))
        for name, kwargs in derived.items():
            assert follows(name, kwargs, completion)
            assert follows(name, kwargs, completion, official=True)
            found.setdefault(name, []).append(kwargs)
    # these texts have commas, and no English words that could be missing
    assert types.NO_COMMA not in found or completion in (HINDI, THAI, DECOMPOSED)
    assert types.FORBIDDEN not in found
    if completion in (CHINESE, THAI):
        assert types.WORDS not in found
    elif completion in (HINDI, ARABIC):
        num_words = len(completion.split())
        for kwargs in found.get(types.WORDS, ()):
            count, is_least = kwargs["num_words"], kwargs["relation"] == "at least"
            assert count <= num_words if is_least else count > num_words
    for kwargs in found.get(types.SENTENCES, ()):
        count, is_least = kwargs["num_sentences"], kwargs["relation"] == "at least"
        sentences = {CHINESE: 5, HINDI: 5, ARABIC: 4, DECOMPOSED: 4}[completion]
        assert count <= sentences if is_least else count > sentences
    words = {w for k in found.get(types.EXISTENCE, ()) for w in k["keywords"]}
    assert "cafe" not in words


@pytest.mark.parametrize(
    ("seed", "start"),
    [
        ("描述公园里的一天。", "描述公园里的一天。"),
        ("मेरे दिन के बारे में बताओ।", "मेरे दिन के बारे में बताओ।"),
        ("كيف حالك؟", "كيف حالك؟"),
        ("描述公园里的一天", "描述公园里的一天\n"),
        ('Who said "why?"', 'Who said "why?"'),
        ("Describe a day", "Describe a day."),
    ],
)
def test_no_sentence_gets_a_second_end(seed: str, start: str):
    prompt = Prompt("1", ({"role": "user", "content": seed},), (), False, {})
    for number in range(8):
        (row,) = make_prompts([prompt], Recipe(), seed=number).rows
        rest = row["prompt"].split(start, 1)
        if types.REPEAT not in row["instruction_id_list"]:
            assert rest[0] == ""
            assert rest[1][:1] not in ".。।"


def test_what_counts_english_words_is_not_asked_of_other_scripts():
    rows = [
        row
        for number in range(40)
        for row in make_prompts(
            [Prompt("1", ({"role": "user", "content": "请描述公园里的一天。"},), (), False, {})],
            Recipe(),
            seed=number,
        ).rows
    ]
    asked = {name for row in rows for name in row["instruction_id_list"]}
    assert not asked & {
        types.WORDS,
        types.SENTENCES,
        types.FORBIDDEN,
        types.EXISTENCE,
        types.LETTER,
    }
    assert types.NO_COMMA in asked


def test_words_taken_from_a_seed_are_whole():
    seed = "Describe the responsibilities of Pra\u0308sidenten in Größenordnung"
    drawn = {
        word
        for number in range(200)
        for word in draw_kwargs(types.FORBIDDEN, seed, random.Random(number))["forbidden_words"]
    }
    assert "describe" in drawn
    assert not drawn & {"responsibi", "sidenten", "enordnung", "prasidente"}


def test_a_demonstration_in_chinese_is_made_of_what_it_has():
    prompt = Prompt(
        "1",
        ({"role": "user", "content": "描述公园里的一天。"},),
        (),
        False,
        {"completion": CHINESE},
    )
    rows = [row for n in range(10) for row in back_translate([prompt], Recipe(), seed=n).rows]
    assert {name for row in rows for name in row["instruction_id_list"]} == {types.SENTENCES}


def test_overlaps_are_found_without_blanks():
    overlaps = Overlaps([CHINESE])
    assert "请改写：孩子们在草地上奔跑，笑声传得很远" in overlaps
    assert "我们明天去学校上课" not in overlaps
    assert "cafe\u0301 ouvre tôt" in Overlaps(["café ouvre to\u0302t"])
