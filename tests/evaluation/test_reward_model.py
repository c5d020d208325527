import pytest
import torch
from tiny import tiny_reward_model, tiny_tokenizer
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from uniapl.errors import InputError
from uniapl.evaluation.reward_model import RewardModel
from uniapl.models.sequence_classifier import SequenceClassifier


def test_turns_and_strings_are_read_through_the_models_own_template() -> None:
    model = RewardModel(SequenceClassifier(tiny_reward_model()), tiny_tokenizer())
    turns = [{"role": "user", "content": "p"}]
    encoded = model.encode("p", "a b")
    assert model.encode(turns, "a b") == encoded
    text = tiny_tokenizer().decode(list(encoded["input_ids"]))
    assert text == "<|user|>p<|end|><|assistant|>a b<|end|>"
    more = [{"role": "system", "content": "s"}, *turns]
    scores = model.rewards(["p", turns, more, "p"], ["a b", "a b", "a b", "c"])
    assert scores[0] == pytest.approx(scores[1], abs=1e-6)
    assert len({round(score, 4) for score in scores[1:]}) == 3
    assert model.rewards([], []) == []


def bert_tokenizer() -> PreTrainedTokenizerFast:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcd"]
    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    names = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **names)
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    return tokenizer


def test_an_encoder_reads_a_pair_of_texts() -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    config = BertConfig(
        vocab_size=8, num_hidden_layers=1, num_labels=1, max_position_embeddings=9, **sizes
    )
    network = BertForSequenceClassification(config).eval()
    model = RewardModel(SequenceClassifier(network, 0), bert_tokenizer())
    encoded = model.encode("a b", "c")
    assert encoded == {"input_ids": [2, 4, 5, 3, 6, 3], "token_type_ids": [0, 0, 0, 0, 1, 1]}
    batch = {name: torch.tensor([ids]) for name, ids in encoded.items()}
    rewards = model.rewards(["a b", "a"], ["c", "b c d"])
    assert rewards[0] == pytest.approx(network(**batch).logits.item(), abs=1e-5)
    with pytest.raises(
        InputError, match=r"have 10 tokens; the model reads at most 9, .* begins 'a b c d'\)$"
    ):
        model.rewards(["a", "a b c d"], ["a", "a b c"])
    with pytest.raises(InputError, match="messages need a tokenizer with a chat template"):
        model.encode([{"role": "user", "content": "a"}], "b")
