from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uniapl.data.chat import Chat, eos_token_ids, preview, turn_end_token_id
from uniapl.types import Demonstration, InputError, Prompt

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
        ("llama3", ["<|end_of_text|>", "<|eot_id|>"], {}, ""),
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
    expected = whole(tokenizer, conversation)
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
    specials = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
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
    )
    other = chat.conversation_tokenizer()
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
    expected = tokenizer.apply_chat_template(turns, tokenize=False)
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
