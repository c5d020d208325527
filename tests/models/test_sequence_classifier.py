from pathlib import Path

import pytest
import torch
from tiny import save_tiny_model, save_tiny_reward_model, tiny_reward_model, tiny_tokenizer
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from uniapl.errors import InputError
from uniapl.models.sequence_classifier import (
    SequenceClassifier,
    _batches,
    load_sequence_classifier,
)

CPU = torch.device("cpu")
# They end in the end of a turn (4), in id 0 or 1, or hold one token.
ROWS = [[5, 6, 7, 4], [9, 4], [4], [8, 4, 10, 11, 12, 4], [13, 14, 0], [15, 1], [16, 17, 4, 4]]


@pytest.mark.parametrize("pad_token_id", [None, 0, 4, 200])
@pytest.mark.parametrize("batch_tokens", [1, 9, 10_000])
def test_a_batch_scores_like_plain_forwards(pad_token_id: int | None, batch_tokens: int) -> None:
    """Also where there is no padding token, or texts end in it."""
    model = tiny_reward_model()
    expected = [
        (model.model(torch.tensor([row])).last_hidden_state[0, -1] @ model.score.weight[0]).item()
        for row in ROWS
    ]
    assert len({round(score, 3) for score in expected}) == len(ROWS)
    classifier = SequenceClassifier(model, pad_token_id)
    actual = classifier.scores([{"input_ids": row} for row in ROWS], batch_tokens)
    assert actual == pytest.approx(expected, abs=1e-5)


def test_an_encoder_is_told_its_segments() -> None:
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_attention_heads": 2,
        "initializer_range": 0.5,
    }
    config = BertConfig(vocab_size=30, num_hidden_layers=2, num_labels=1, pad_token_id=0, **sizes)
    model = BertForSequenceClassification(config).eval()
    rows = [
        {"input_ids": [2, 5, 3, 6, 3], "token_type_ids": [0, 0, 0, 1, 1]},
        {"input_ids": [2, 5, 3, 6, 3], "token_type_ids": [0, 0, 1, 1, 1]},
        {"input_ids": [2, 7, 8, 9, 3, 4, 3], "token_type_ids": [0, 0, 0, 0, 0, 1, 1]},
    ]
    expected = [
        model(**{k: torch.tensor([v]) for k, v in row.items()}).logits.item() for row in rows
    ]
    assert expected[0] != pytest.approx(expected[1], abs=1e-4)
    # padding is no segment: an id beyond the two of them would fail
    assert SequenceClassifier(model, 9).scores(rows) == pytest.approx(expected, abs=1e-5)


def test_batches_hold_similar_lengths_within_the_limit() -> None:
    lengths = [5, 1, 30, 2, 5, 9]
    batches = list(_batches(lengths, 10))
    assert batches == [[1, 3], [0, 4], [5], [2]]  # the long one exceeds the limit by itself
    assert list(_batches([], 10)) == []


def test_loaded_scores_are_those_of_the_saved_model(tmp_path: Path) -> None:
    save_tiny_reward_model(tmp_path)
    classifier, tokenizer = load_sequence_classifier(str(tmp_path), torch.float32, CPU)
    assert classifier.context == 512
    assert tokenizer.chat_template == tiny_tokenizer().chat_template
    assert classifier.pad_token_id == tokenizer.pad_token_id
    row = [{"input_ids": ROWS[0]}]
    expected = SequenceClassifier(tiny_reward_model()).scores(row)
    assert classifier.scores(row) == pytest.approx(expected, abs=1e-5)


def test_what_is_no_reward_model_is_refused(tmp_path: Path) -> None:
    def message(path: Path) -> str:
        with pytest.raises(InputError) as caught:
            load_sequence_classifier(str(path), torch.float32, CPU)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "(no such folder here)" in message(tmp_path / "nothing")
    policy = save_tiny_model(tmp_path / "policy")
    assert "(Qwen3ForCausalLM) is no reward model" in message(policy)
    two = save_tiny_reward_model(tmp_path / "two", num_labels=2)
    assert message(two).endswith("with num_labels 1, not 2")
    config = (policy / "config.json").read_text()
    (policy / "config.json").write_text(config.replace("{", '{"num_labels": 1,', 1))
    assert "no weights for score.weight" in message(policy)


def test_roberta_reads_as_much_as_it_says_and_no_more() -> None:
    config = RobertaConfig(
        vocab_size=30,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=34,
        num_labels=1,
    )
    classifier = SequenceClassifier(RobertaForSequenceClassification(config), 1)
    assert classifier.context == 32
    assert len(classifier.scores([{"input_ids": [5] * 32}])) == 1
    with pytest.raises((RuntimeError, IndexError)):
        classifier.scores([{"input_ids": [5] * 33}])
