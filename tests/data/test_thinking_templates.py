"""Templates that open a thought themselves, and tokenizers whose marks of a thought are special tokens."""

import pytest

from uniapl.data.chat import Chat

USER = [{"role": "user", "content": "How do you think?"}]
THOUGHT = "<think>\nblue?\n</think>\n\nred"
MENTION = "Close it with </think> and answer."


def test_an_expert_answers_outside_the_thought_that_the_template_opened(tokenizer_of):
    tokenizer = tokenizer_of("open-think")
    chat = Chat(tokenizer)
    assert tokenizer.decode(chat.encode_prompt(USER)).endswith("assistant\n<think>\n")
    assert tokenizer.decode(chat.encode_completion("red")) == "\n</think>\n\nred<|im_end|>"
    # with thoughts of its own it goes on inside the block, which is open already
    ids = chat.encode_completion(THOUGHT)
    assert tokenizer.decode(ids) == "blue?\n</think>\n\nred<|im_end|>"
    assert any("opens a thought" in line for line in chat.warnings())
    assert not any("opens a thought" in line for line in Chat(tokenizer_of("chatml")).warnings())


@pytest.mark.parametrize("completion", ["red", THOUGHT, "blue?</think>red", "<think>a</think>b"])
def test_a_discriminator_on_its_own_reads_what_it_was_trained_on(tokenizer_of, completion):
    chat = Chat(tokenizer_of("open-think"), system_prompt="Hm.")
    alone = chat.conversation_tokenizer()
    turns = [*USER, {"role": "assistant", "content": completion}]
    ids = alone.apply_chat_template(turns, tokenize=True, return_dict=False)
    assert tuple(ids) == chat.encode_prompt(USER) + chat.encode_completion(completion)


def test_marks_that_are_special_tokens_are_learned_as_tokens(tokenizer_of):
    tokenizer = tokenizer_of("special-think")
    chat = Chat(tokenizer)
    opening, closing = tokenizer.convert_tokens_to_ids(["<think>", "</think>"])
    ids = chat.encode_completion(THOUGHT + " after </think> and <|im_end|>")
    assert ids[0] == opening
    assert ids.count(closing) == 1
    assert ids.count(chat.turn_end_token_id) == 1
    text = THOUGHT + " after </think> and <|im_end|>"
    assert chat.decode_completion(ids) == text
    # an answer that mentions them spells them out
    assert closing not in chat.encode_completion(MENTION)
    assert chat.decode_completion(chat.encode_completion(MENTION)) == MENTION


@pytest.mark.parametrize("family", ["special-think", "qwen3"])
def test_templates_drop_thoughts_of_earlier_turns_and_no_mention(tokenizer_of, family):
    tokenizer = tokenizer_of(family)
    chat = Chat(tokenizer)

    def rendered(answer: str) -> str:
        turns = [*USER, {"role": "assistant", "content": answer}, *USER]
        return tokenizer.decode(chat.encode_prompt(turns))

    assert "blue?" not in rendered(THOUGHT)
    assert "red" in rendered(THOUGHT)
    assert MENTION in rendered(MENTION)
    whole = chat.encode_conversation(USER, MENTION)
    assert MENTION in tokenizer.decode(whole)
