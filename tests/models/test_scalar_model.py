from pathlib import Path

import pytest
import torch
from exact import assert_close, assert_same_gradients, exact_policy, gradients
from tiny import tiny_model, tiny_tokenizer
from transformers import AutoModelForSequenceClassification

from uniapl.models.adapters import LoraShape
from uniapl.models.language_model import LanguageModel
from uniapl.models.packing import TokenSequence, pack
from uniapl.models.scalar_model import ScalarModel
from uniapl.models.sequence_classifier import load_sequence_classifier

SEQUENCES = [
    TokenSequence((5, 6), (7, 8, 4)),
    TokenSequence((9,), (10, 4)),
    TokenSequence((5, 6), (4,)),
]


def test_first_verdict_is_the_same_for_all() -> None:
    model = ScalarModel(exact_policy())
    (packed,) = pack(SEQUENCES, 100)
    assert model.logits(packed).tolist() == [0.0, 0.0, 0.0]


def test_logit_is_the_heads_on_the_last_token_of_each_sequence() -> None:
    model = ScalarModel(exact_policy())
    torch.nn.init.normal_(model.head.weight)
    (packed,) = pack(SEQUENCES, 100)
    actual = model.logits(packed)
    (actual * torch.tensor([1.0, -2.0, 3.0])).sum().backward()
    packed_gradients = gradients(model)

    language_model = model.backbone.model
    language_model.set_attn_implementation("sdpa")
    expected = []
    for index in packed.sequences.tolist():
        row = torch.tensor([[*SEQUENCES[index].prompt_ids, *SEQUENCES[index].completion_ids]])
        hidden = language_model.base_model(row, use_cache=False).last_hidden_state[0, -1]
        expected.append(hidden @ model.head.weight[0])
    logits = torch.stack(expected)
    (logits * torch.tensor([1.0, -2.0, 3.0])).sum().backward()
    assert_close(actual.detach(), logits.detach())
    assert_same_gradients(packed_gradients, gradients(model))


@pytest.mark.parametrize("is_tied", [True, False])
def test_an_unused_language_model_head_does_not_learn(is_tied: bool) -> None:
    model = ScalarModel(exact_policy(tie_word_embeddings=is_tied))
    assert model.backbone.head.weight.requires_grad == is_tied
    assert model.backbone.model.get_input_embeddings().weight.requires_grad
    torch.nn.init.normal_(model.head.weight)
    (packed,) = pack(SEQUENCES, 100)
    model.logits(packed).sum().backward()
    learning = [p for p in model.parameters() if p.requires_grad]
    assert all(p.grad is not None for p in learning)


def test_bfloat16_backbone_has_a_float32_head() -> None:
    torch.set_default_dtype(torch.float32)
    model = ScalarModel(LanguageModel(tiny_model(), torch.bfloat16, 7))
    torch.nn.init.normal_(model.head.weight)
    (packed,) = pack(SEQUENCES, 100)
    logits = model.logits(packed)
    assert logits.dtype == torch.float32
    logits.sum().backward()
    assert model.head.weight.grad is not None


@pytest.mark.parametrize("is_tied", [True, False])
@pytest.mark.parametrize("pads_with_end", [True, False])
@pytest.mark.parametrize("has_adapter", [True, False])
def test_the_saved_folder_has_the_same_logits(
    tmp_path: Path, is_tied: bool, pads_with_end: bool, has_adapter: bool
) -> None:
    torch.set_default_dtype(torch.float32)
    language_model = LanguageModel(tiny_model(tie_word_embeddings=is_tied), torch.float32, 7)
    if has_adapter:
        language_model = language_model.with_adapter("discriminator", LoraShape(2, 3.0))
        for parameter in language_model.trainable_parameters():
            torch.nn.init.normal_(parameter, std=0.1)
    model = ScalarModel(language_model)
    torch.nn.init.normal_(model.head.weight)
    (packed,) = pack(SEQUENCES, 100)
    expected = dict(zip(packed.sequences.tolist(), model.logits(packed).tolist(), strict=True))
    tokenizer = tiny_tokenizer()
    if pads_with_end:
        tokenizer.pad_token = tokenizer.eos_token
    assert model.can_be_saved
    model.save(tmp_path, tokenizer, torch.float32)

    saved = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert saved.config.architectures == ["Qwen3ForSequenceClassification"]
    rows = [[*s.prompt_ids, *s.completion_ids] for s in SEQUENCES]
    plain = [saved(torch.tensor([row])).logits.item() for row in rows]
    assert plain == pytest.approx([expected[i] for i in range(3)], abs=1e-5)
    # in a batch transformers finds the last token, or refuses
    padded = torch.tensor([row + [0] * (5 - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (5 - len(row)) for row in rows])
    if pads_with_end:
        with pytest.raises(ValueError, match="no padding token"):
            saved(padded, attention_mask=mask)
    else:
        logits = saved(padded, attention_mask=mask).logits[:, 0].tolist()
        assert logits == pytest.approx(plain, abs=1e-5)
    classifier, _ = load_sequence_classifier(str(tmp_path), torch.float32, torch.device("cpu"))
    scores = classifier.scores([{"input_ids": row} for row in rows])
    assert scores == pytest.approx(plain, abs=1e-5)
