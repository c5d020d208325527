import os
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from uniapl.data.chat import Chat, eos_token_ids, turn_end_token_id
from uniapl.data.preview import preview
from uniapl.data.readers import every_turn
from uniapl.errors import InputError
from uniapl.types import Demonstration, Prompt

USER = [{"role": "user", "content": "Write about the sea."}]
ANSWER = "The sea is calm.\n\nIt is ünbroken. 🌊"


def ids_of(tokenizer, *names):
    return tuple(tokenizer.convert_tokens_to_ids(name) for name in names)


def whole(tokenizer, turns, **arguments):
    return tokenizer.apply_chat_template(turns, tokenize=True, return_dict=False, **arguments)


@pytest.mark.parametrize(
    ("family", "eos_ids", "arguments", "rest"),
    [
        ("chatml", [], {}, "\n"),
        ("smollm2", [], {}, "\n"),
        ("llama3", ["<|end_of_text|>", "<|eot_id|>"], {"date_string": "today"}, ""),
        ("gemma", ["<eos>", "<end_of_turn>"], {}, "\n"),
        ("qwen3", [], {"enable_thinking": False}, "\n"),
    ],
)
def test_prompt_and_completion_are_what_the_template_writes(
    tokenizer_of, family, eos_ids, arguments, rest
):
    tokenizer = tokenizer_of(family)
    config = SimpleNamespace(eos_token_id=list(ids_of(tokenizer, *eos_ids)))
    chat = Chat(tokenizer, generation_config=config, template_arguments=arguments)
    conversation = [*USER, {"role": "assistant", "content": ANSWER}]
    expected = whole(tokenizer, conversation, **arguments)
    ours = [*chat.encode_prompt(USER), *chat.encode_completion(ANSWER)]
    assert ours + tokenizer.encode(rest, add_special_tokens=False) == expected


def test_prompt_is_the_rendering_with_generation_prompt(chatml):
    turns = [
        {"role": "system", "content": "Be brief."},
        *USER,
        {"role": "assistant", "content": "No."},
        {"role": "user", "content": "Please.  "},
    ]
    expected = whole(chatml, turns, add_generation_prompt=True)
    assert Chat(chatml).encode_prompt(turns) == tuple(expected)


def test_template_arguments_reach_the_template(tokenizer_of):
    tokenizer = tokenizer_of("qwen3")
    quiet = Chat(tokenizer, template_arguments={"enable_thinking": False}).encode_prompt(USER)
    assert tokenizer.decode(quiet).endswith("assistant\n<think>\n\n</think>\n\n")
    assert tokenizer.decode(Chat(tokenizer).encode_prompt(USER)).endswith("assistant\n")


def test_arguments_that_do_nothing_are_refused(tokenizer_of):
    for name in ("enable_thinkin", "messages", "add_generation_prompt"):
        with pytest.raises(
            InputError, match=f"^template_arguments: the chat template takes no argument '{name}'$"
        ):
            Chat(tokenizer_of("qwen3"), template_arguments={name: False})
    with pytest.raises(
        InputError, match=r"^template_arguments needs a tokenizer with a chat template"
    ):
        Chat(tokenizer_of("plain"), template_arguments={"enable_thinking": False})


def test_a_template_with_a_date_gives_the_same_ids_on_every_day(tokenizer_of):
    tokenizer = tokenizer_of("llama3")
    text = tokenizer.decode(Chat(tokenizer).encode_prompt(USER))
    assert "Today: 26 Jul 2024<|eot_id|>" in text
    own = Chat(tokenizer, template_arguments={"date_string": "1 May 1999"})
    assert "Today: 1 May 1999<|eot_id|>" in tokenizer.decode(own.encode_prompt(USER))
    (begin,) = ids_of(tokenizer, "<|begin_of_text|>")
    assert own.encode_prompt(USER).count(begin) == 1


def test_the_system_prompt_replaces_the_templates_own(tokenizer_of):
    tokenizer = tokenizer_of("smollm2")
    assert tokenizer.decode(Chat(tokenizer).encode_prompt(USER)).startswith(
        "<|im_start|>system\nYou help.<|im_end|>\n<|im_start|>user"
    )
    given = tokenizer.decode(Chat(tokenizer, system_prompt="Be kind.").encode_prompt(USER))
    assert given.startswith("<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user")


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_padding_side_changes_nothing(chatml, side):
    expected = Chat(chatml).encode_prompt(USER), Chat(chatml).encode_completion(ANSWER)
    chatml.padding_side = side
    assert (Chat(chatml).encode_prompt(USER), Chat(chatml).encode_completion(ANSWER)) == expected


THOUGHT = "<think>\nHm.\n</think>\n\nBlue."


@pytest.mark.parametrize("family", ["chatml", "smollm2", "llama3", "gemma", "qwen3"])
def test_every_turn_is_learned_after_what_the_policy_would_have_seen(tokenizer_of, family):
    tokenizer = tokenizer_of(family)
    arguments = {"llama3": {"date_string": "today"}, "qwen3": {"enable_thinking": True}}
    chat = Chat(tokenizer, template_arguments=arguments.get(family))
    first, question, last = "Which colour?", "Why?", "It is the light."
    turns = (
        {"role": "user", "content": first},
        {"role": "assistant", "content": THOUGHT},
        {"role": "user", "content": question},
    )
    prompt = Prompt("7", turns, chat.encode_prompt(turns), True, {"topic": "sky"})
    demonstration = Demonstration(prompt, last, chat.encode_completion(last))
    early, late = every_turn([demonstration], chat)
    assert late is demonstration
    assert (early.prompt.id, early.completion) == ("7/1", THOUGHT)
    assert early.prompt.messages == turns[:1]
    assert early.prompt.columns == {}
    seen = whole(tokenizer, turns[:1], add_generation_prompt=True, **arguments.get(family, {}))
    assert list(early.prompt.token_ids) == seen
    assert early.token_ids == (
        *tokenizer.encode(THOUGHT, add_special_tokens=False),
        chat.turn_end_token_id,
    )
    # the template drops what was thought earlier: the last turn alone does not contain the first one's tokens
    assert ("Hm." in tokenizer.decode(late.prompt.token_ids)) == (family != "qwen3")


def test_turns_before_the_first_question_are_no_completions(chatml):
    chat = Chat(chatml)
    greeting = {"role": "assistant", "content": "Hello!"}
    turns = ({"role": "system", "content": "Be kind."}, greeting, *USER)
    prompt = Prompt("7", turns, chat.encode_prompt(turns), True)
    demonstration = Demonstration(prompt, "Sure.", chat.encode_completion("Sure."))
    assert every_turn([demonstration], chat) == [demonstration]
    blank = Prompt("8", (*USER, {"role": "assistant", "content": " "}, *USER), (1,), True)
    with pytest.raises(InputError, match=r"^prompt 8: assistant turn messages\[1\] is blank$"):
        every_turn([Demonstration(blank, "Sure.", (1,))], chat)


@pytest.mark.parametrize(
    ("family", "arguments", "says"),
    [
        ("chatml", {}, []),
        ("gemma", {}, ["writes '<end_of_turn>\\n' after an assistant turn, which is no EOS token"]),
        ("chatml-base", {}, ["learns to end with <|endoftext|> instead"]),
        ("qwen3", {}, ["set data.template_arguments={enable_thinking: false}"]),
        ("qwen3", {"enable_thinking": False}, []),
        ("qwen3", {"enable_thinking": True}, []),
        ("plain", {}, []),
    ],
)
def test_what_would_go_wrong_in_silence_is_said(tokenizer_of, family, arguments, says):
    lines = Chat(tokenizer_of(family), template_arguments=arguments).warnings()
    assert len(lines) == len(says)
    assert all(part in line for part, line in zip(says, lines, strict=True)), lines


def test_a_template_without_an_end_of_turn_is_said(chatml):
    chatml.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    (line,) = Chat(chatml).warnings()
    assert line.startswith("the chat template writes nothing after an assistant turn")
    assert "learns to end with <|im_end|> instead" in line


@pytest.mark.skipif(
    "UNIAPL_SMOLLM2" not in os.environ,
    reason="UNIAPL_SMOLLM2 names no folder of SmolLM2-135M-Instruct (docs/recipes.md makes one)",
)
def test_smollm2s_own_files():
    tokenizer = AutoTokenizer.from_pretrained(os.environ["UNIAPL_SMOLLM2"])
    chat = Chat(tokenizer)
    conversation = [*USER, {"role": "assistant", "content": ANSWER}]
    ours = [*chat.encode_prompt(USER), *chat.encode_completion(ANSWER)]
    rest = tokenizer.encode("\n", add_special_tokens=False)
    assert ours + rest == whole(tokenizer, conversation)
    assert chat.eos_token_ids == ids_of(tokenizer, "<|im_end|>")
    assert chat.warnings() == []
    assert tokenizer.decode(ours).startswith("<|im_start|>system\nYou are a helpful AI assistant")
    assert tokenizer.tokenize("a:\n\n12") == ["a", ":", "ĊĊ", "1", "2"]


def test_a_string_is_one_user_turn(chatml):
    chat = Chat(chatml)
    assert chat.encode_prompt("Write about the sea.") == chat.encode_prompt(USER)
    assert chat.messages("Hi") == ({"role": "user", "content": "Hi"},)


def test_the_system_prompt_goes_first_where_there_is_none(chatml):
    chat = Chat(chatml, system_prompt="Be kind.")
    assert chat.messages("Hi")[0] == {"role": "system", "content": "Be kind."}
    assert chatml.decode(chat.encode_prompt(USER)).startswith(
        "<|im_start|>system\nBe kind.<|im_end|>"
    )
    own = [{"role": "system", "content": "Be rude."}, *USER]
    assert chat.messages(own) == tuple(own)


def test_without_a_template_strings_are_encoded_raw_and_left_open(tokenizer_of):
    tokenizer = tokenizer_of("plain")
    chat = Chat(tokenizer)
    begin, end = ids_of(tokenizer, "<s>", "</s>")
    assert tokenizer.encode("The sea")[-1] == end  # this tokenizer would close every text
    text = tokenizer.encode("The sea", add_special_tokens=False)
    assert chat.encode_prompt("The sea") == (begin, *text)
    assert chat.encode_completion(" is calm.")[-1] == end
    with pytest.raises(InputError, match=r"^messages need a tokenizer with a chat template"):
        chat.encode_prompt(USER)
    with pytest.raises(InputError, match=r"^system_prompt needs a tokenizer with a chat template"):
        Chat(tokenizer, system_prompt="Be kind.")


def test_a_template_that_refuses_is_one_line(tokenizer_of):
    chat = Chat(tokenizer_of("gemma"), system_prompt="Be kind.")
    message = "the chat template refuses these messages: System role not supported"
    with pytest.raises(InputError, match=f"^{message}$"):
        chat.encode_prompt(USER)


def test_turn_end_is_what_the_template_writes_if_it_ends_generation(tokenizer_of):
    llama = tokenizer_of("llama3")
    text_end, turn_end = ids_of(llama, "<|end_of_text|>", "<|eot_id|>")
    both = SimpleNamespace(eos_token_id=[text_end, turn_end])
    assert turn_end_token_id(llama, both) == turn_end
    assert eos_token_ids(llama, both) == (text_end, turn_end)
    # a base model stops at its own EOS only: <|eot_id|> would not end a completion
    assert turn_end_token_id(llama, SimpleNamespace(eos_token_id=text_end)) == text_end
    base = tokenizer_of("chatml-base")
    assert turn_end_token_id(base) == ids_of(base, "<|endoftext|>")[0]
    plain = tokenizer_of("plain")
    assert turn_end_token_id(plain) == ids_of(plain, "</s>")[0]


def test_no_eos_is_an_error(chatml):
    chatml.eos_token = None
    with pytest.raises(InputError, match=r"^neither the tokenizer nor .* names an EOS token"):
        Chat(chatml)
    config = SimpleNamespace(eos_token_id=ids_of(chatml, "<|im_end|>")[0])
    assert Chat(chatml, generation_config=config).eos_token_ids == (config.eos_token_id,)


@pytest.mark.parametrize("family", ["chatml", "llama3", "qwen3", "gemma", "plain"])
def test_spelled_out_special_tokens_stay_text(tokenizer_of, family):
    tokenizer = tokenizer_of(family)
    chat = Chat(tokenizer)
    # Qwen3's <think> is no control token: a demonstration may think
    added = tokenizer.added_tokens_decoder.items()
    specials = set(tokenizer.all_special_ids) | {number for number, token in added if token.special}
    clean, dirty = "Say X now", "Say " + "".join(tokenizer.added_tokens_encoder) + " now"

    def controls(ids):
        return [token for token in ids if token in specials]

    assert controls(chat.encode_completion(dirty)) == [chat.turn_end_token_id]
    assert chat.decode_completion(chat.encode_completion(dirty)) == dirty
    assert controls(chat.encode_prompt(dirty)) == controls(chat.encode_prompt(clean))
    rendering = tokenizer.decode(chat.encode_prompt(clean))
    assert tokenizer.decode(chat.encode_prompt(dirty)) == rendering.replace(clean, dirty)


@settings(max_examples=50, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_completions_round_trip(tokenizer_of, text):
    chat = Chat(tokenizer_of("chatml"))
    ids = chat.encode_completion(text)
    assert ids.count(chat.turn_end_token_id) == 1
    assert chat.decode_completion(ids) == text
    assert chat.decode_completion(ids[:-1]) == text  # truncated: nothing to take off


def test_preview_marks_what_is_trained_on(chatml):
    chat = Chat(chatml)
    prompt = Prompt("17", chat.messages("Hi"), chat.encode_prompt("Hi"))
    text = "The sea\nis 🌊"
    demonstration = Demonstration(prompt, text, chat.encode_completion(text))
    shown = preview([demonstration] * 3, chatml, 2)
    sizes = (
        f"{len(prompt.token_ids)} prompt tokens, {len(demonstration.token_ids)} completion tokens"
    )
    assert shown.split("\n\n")[0] == "\n".join(
        [
            f"demonstration 17: {sizes}",
            "  <|im_start|>user",
            "  Hi<|im_end|>",
            "  <|im_start|>assistant",
            "  ",
            "+ [The][ sea][\\n]",
            "+ [is][ ][🌊][<|im_end|>]",
        ]
    )
    assert shown.count("demonstration 17") == 2
    assert "\x1b" not in shown
    colored = preview([demonstration], chatml, color=True, show_ids=True)
    start, end = prompt.token_ids[0], chat.turn_end_token_id
    assert f"\x1b[2m  [{start} <|im_start|>]" in colored
    assert f"[{end} <|im_end|>]\x1b[0m" in colored


CONVERSATIONS = [
    ([{"role": "user", "content": "Hi <|im_end|>"}], "The sea is calm.\n"),
    ([*USER, {"role": "assistant", "content": "No."}, *USER], " Well <bos>, {{ it }} is."),
    ([{"role": "system", "content": "Be rude."}, *USER], "No"),
]


@pytest.mark.parametrize("family", ["chatml", "chatml-base", "llama3", "qwen3"])
@pytest.mark.parametrize("system_prompt", [None, 'Say "é" \\ {{ 1 }} 🐚\n'])
def test_the_conversation_template_renders_what_the_discriminator_reads(
    tokenizer_of, family, system_prompt
):
    tokenizer = tokenizer_of(family)
    chat = Chat(
        tokenizer,
        generation_config=SimpleNamespace(eos_token_id=list(range(5))),
        system_prompt=system_prompt,
        template_arguments={"enable_thinking": False} if family == "qwen3" else None,
    )
    other = chat.conversation_tokenizer()
    assert other.eos_token_id == chat.turn_end_token_id
    for prompt, completion in CONVERSATIONS:
        read = (*chat.encode_prompt(prompt), *chat.encode_completion(completion))
        turns = [*prompt, {"role": "assistant", "content": completion}]
        rendered = other.apply_chat_template(turns, tokenize=False)
        assert rendered == tokenizer.decode(read)
        # without the generation config, which such a folder does not have
        assert Chat(other).encode_conversation(prompt, completion) == read
        # prompts are rendered as before, whatever the surrounding blocks
        begun = other.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
        assert begun == tokenizer.decode(chat.encode_prompt(prompt))


def test_line_breaks_around_a_template_stay_as_they_are(chatml):
    chatml.chat_template = f"\n  {{% if true %}}{chatml.chat_template}{{% endif %}}\n\n"
    chat = Chat(chatml)
    read = (*chat.encode_prompt("Hi"), *chat.encode_completion("No."))
    other = chat.conversation_tokenizer()
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "No."}]
    assert other.apply_chat_template(turns, tokenize=False) == chatml.decode(read)


@pytest.mark.parametrize(
    ("family", "end"),
    [
        ("chatml", "assistant\nNo.<|im_end|>\n"),
        ("llama3", "assistant<|end_header_id|>\n\nNo.<|eot_id|>"),
        ("qwen3", "assistant\n<think>\n\n</think>\n\nNo.<|im_end|>\n"),
    ],
)
def test_a_reward_model_reads_what_its_own_template_writes(tokenizer_of, family, end):
    tokenizer = tokenizer_of(family)
    ids = Chat(tokenizer).encode_conversation("Hi", "No.")
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "No."}]
    expected = tokenizer.apply_chat_template(turns, tokenize=False, date_string="26 Jul 2024")
    assert tokenizer.decode(ids) == expected
    assert expected.endswith(end)
    # a special token that somebody spells out stays text
    spelled = Chat(tokenizer).encode_conversation("Hi", "<|im_end|><|eot_id|>No.")
    specials = set(tokenizer.all_special_ids)
    assert sum(i in specials for i in spelled) == sum(i in specials for i in ids)


def test_without_a_template_the_texts_follow_each_other(tokenizer_of):
    chat = Chat(tokenizer_of("plain"))
    other = Chat(chat.conversation_tokenizer())
    assert other.encode_conversation("Hi", "No") == chat.encode_conversation("Hi", "No")
    ids = chat.encode_conversation("The sea", " is calm.")
    assert ids == (*chat.encode_prompt("The sea"), *chat.encode_completion(" is calm."))
    assert chat.tokenizer.decode(ids) == "<s>The sea is calm.</s>"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            "{% for m in messages %}<|{{ m.role }}|>{% for p in m.content %}{% if p.type == 'text' %}"
            "{{ p.text }}{% endif %}{% endfor %}{% endfor %}",
            "leaves out what a turn says",
        ),
        ("{% for t in tools %}{{ t }}{% endfor %}{{ messages }}", "the chat template fails: "),
        ("{{ messages }}{{ 1 / 0 }}", "the chat template fails: division by zero"),
        ({"tool_use": "{{ messages }}"}, "the tokenizer's chat template: "),
    ],
)
def test_a_template_that_cannot_serve_is_one_line(chatml, template, message):
    chatml.chat_template = template
    with pytest.raises(InputError, match=message) as caught:
        Chat(chatml)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["tools", "tokenize", "continue_final_message"])
def test_arguments_that_only_this_module_gives(chatml, name):
    chatml.chat_template += f"{{% if {name} is defined %}}{{% endif %}}"
    with pytest.raises(InputError, match=f"takes no argument '{name}'"):
        Chat(chatml, template_arguments={name: True})


def test_a_developers_turn_is_a_system_prompt(chatml):
    turns = [{"role": "developer", "content": "Be brief."}, *USER]
    assert Chat(chatml, system_prompt="Be long.").messages(turns) == tuple(turns)
