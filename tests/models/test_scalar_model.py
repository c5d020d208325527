import pytest
import torch
from exact import assert_close, assert_same_gradients, exact_policy, gradients
from tiny import tiny_model

from uniapl.models.language_model import LanguageModel
from uniapl.models.packing import TokenSequence, pack
from uniapl.models.scalar_model import ScalarModel

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
