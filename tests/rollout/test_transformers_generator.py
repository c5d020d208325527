from collections.abc import Callable
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import (
    AttentionInterface,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen3NextConfig,
    T5Config,
    T5ForConditionalGeneration,
)

from uniapl.errors import InputError, TrainingError
from uniapl.rollout import TransformersGenerator, transformers_generator
from uniapl.rollout.decoding import decode
from uniapl.types import Generator, Prompt, Rollout

Build = Callable[..., PreTrainedModel]
Make = Callable[..., TransformersGenerator]

MAX_TOKENS = 16
VOCABULARY = 97
EOS, END_OF_TURN = 2, 3
NEVER = 10_000


@pytest.fixture
def generator_for(tokenizer: PreTrainedTokenizerBase) -> Make:
    def make(model: PreTrainedModel, **overrides: Any) -> TransformersGenerator:
        options: dict[str, Any] = {
            "max_completion_tokens": MAX_TOKENS,
            "eos_token_ids": [EOS, END_OF_TURN],
        }
        return TransformersGenerator(model, tokenizer, **options | overrides)

    return make


def plain_logprobs(model: PreTrainedModel, rollout: Rollout, temperature: float = 1.0) -> list:
    """One unpadded forward without a cache."""
    ids = torch.tensor([rollout.prompt.token_ids + rollout.token_ids])
    with torch.no_grad():
        logprobs = (model(ids).logits[0].double() / temperature).log_softmax(-1)
    start = len(rollout.prompt.token_ids)
    return [logprobs[start + i - 1, token].item() for i, token in enumerate(rollout.token_ids)]


def tokens(rollouts: list[Rollout]) -> list[tuple[int, ...]]:
    return [rollout.token_ids for rollout in rollouts]


@pytest.mark.parametrize("temperature", [1.0, 0.7, 0])
def test_logprobs_are_those_of_a_plain_forward(
    model: PreTrainedModel, prompts: list[Prompt], generator_for: Make, temperature: float
) -> None:
    rollouts = generator_for(model, temperature=temperature).sample(prompts, 4)
    for rollout in rollouts:
        plain = plain_logprobs(model, rollout, temperature or 1.0)
        assert rollout.sampling_logprobs == pytest.approx(plain, abs=1e-4)


def test_greedy_is_what_generate_gives(
    model: PreTrainedModel, prompts: list[Prompt], generator_for: Make
) -> None:
    # enough ends of turn that some completions stop and some do not
    eos = [EOS, END_OF_TURN, *range(60, 70)]
    rollouts = generator_for(model, temperature=0, eos_token_ids=eos).sample(prompts, 1)
    for prompt, rollout in zip(prompts, rollouts, strict=True):
        ids = torch.tensor([prompt.token_ids])
        generated = model.generate(  # pyright: ignore[reportCallIssue]
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=MAX_TOKENS,
            eos_token_id=eos,
            pad_token_id=0,
        )
        assert rollout.token_ids == tuple(generated[0, ids.shape[1] :].tolist())


def test_draws_are_fine_enough_for_a_large_vocabulary(
    build_model: Build, prompts: list[Prompt], generator_for: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float32 they would be multiples of 2^-24, more than many tokens' probability."""
    seen: list[torch.Tensor] = []

    def recorded(model: PreTrainedModel, rows: Any, draws: torch.Tensor, **options: Any) -> Any:
        seen.append(draws)
        return decode(model, rows, draws, **options)

    monkeypatch.setattr(transformers_generator, "decode", recorded)
    generator_for(build_model()).sample(prompts, 2)
    (draws,) = seen
    assert 0 < draws.min() < draws.max() <= 1
    assert ((draws * 2**24) % 1 != 0).double().mean() > 0.99


def test_order_and_finish(build_model: Build, prompts: list[Prompt], generator_for: Make) -> None:
    generator: Generator = generator_for(build_model())
    rollouts = generator.sample(prompts, 8)
    assert [rollout.prompt for rollout in rollouts] == [p for p in prompts for _ in range(8)]
    assert {rollout.finish_reason for rollout in rollouts} == {"stop", "length"}
    assert {rollout.token_ids[-1] for rollout in rollouts} >= {EOS, END_OF_TURN}
    for rollout in rollouts:
        assert len(rollout.sampling_logprobs) == len(rollout.token_ids) <= MAX_TOKENS
        assert {EOS, END_OF_TURN}.isdisjoint(rollout.token_ids[:-1])
        is_ended = rollout.token_ids[-1] in (EOS, END_OF_TURN)
        assert rollout.finish_reason == ("stop" if is_ended else "length")
        assert is_ended or len(rollout.token_ids) == MAX_TOKENS
    assert len(set(tokens(rollouts))) > len(rollouts) / 2


def test_completion_is_the_text_without_special_tokens(
    build_model: Build, prompts: list[Prompt], generator_for: Make
) -> None:
    for rollout in generator_for(build_model()).sample(prompts, 8):
        # 3 (<end>) is no special token of the tokenizer; as an end of turn it is cut all the same
        assert rollout.completion.split() == [f"w{t}" for t in rollout.token_ids if t > 3]


def test_an_end_of_turn_can_come_first(
    build_model: Build, prompts: list[Prompt], generator_for: Make
) -> None:
    rollouts = generator_for(build_model(), eos_token_ids=range(VOCABULARY)).sample(prompts, 2)
    assert len(rollouts) == 2 * len(prompts)
    for rollout in rollouts:
        assert len(rollout.token_ids) == len(rollout.sampling_logprobs) == 1
        assert rollout.completion == ""
        assert rollout.finish_reason == "stop"
        assert rollout.sampling_logprobs == pytest.approx(
            plain_logprobs(build_model(), rollout), abs=1e-4
        )


def test_all_can_be_truncated(
    build_model: Build, prompts: list[Prompt], generator_for: Make
) -> None:
    rollouts = generator_for(build_model(), eos_token_ids=[NEVER]).sample(prompts, 2)
    assert {len(rollout.token_ids) for rollout in rollouts} == {MAX_TOKENS}
    assert all(rollout.is_truncated for rollout in rollouts)


def test_one_token_is_enough(
    build_model: Build, prompts: list[Prompt], generator_for: Make
) -> None:
    rollouts = generator_for(build_model(), max_completion_tokens=1).sample(prompts, 2)
    assert {len(rollout.token_ids) for rollout in rollouts} == {1}


@pytest.mark.parametrize("max_rows", [1, 5, 24])
def test_chunks_change_nothing(
    build_model: Build, prompts: list[Prompt], generator_for: Make, max_rows: int
) -> None:
    model = build_model("gemma3")
    sizes = []
    hook = model.register_forward_pre_hook(
        lambda _module, _args, kwargs: sizes.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    chunked = generator_for(model, max_rows=max_rows).sample(prompts, 4)
    hook.remove()
    whole = generator_for(model).sample(prompts, 4)
    assert max(sizes) <= max_rows
    assert tokens(chunked) == tokens(whole)
    for one, other in zip(chunked, whole, strict=True):
        assert one.sampling_logprobs == pytest.approx(other.sampling_logprobs, abs=1e-4)


def test_no_prompts_no_rollouts(build_model: Build, generator_for: Make) -> None:
    assert generator_for(build_model()).sample([], 4) == []


def test_a_restored_state_samples_the_same(
    build_model: Build, prompts: list[Prompt], generator_for: Make
) -> None:
    model = build_model()
    generator = generator_for(model, seed=1)
    first = generator.sample(prompts, 4)
    state = generator.state_dict()
    second, third = generator.sample(prompts, 4), generator.sample(prompts, 4)
    resumed = generator_for(model, seed=2)
    resumed.load_state_dict(state)
    assert resumed.sample(prompts, 4) == second
    assert resumed.sample(prompts, 4) == third
    assert generator_for(model, seed=1).sample(prompts, 4) == first
    assert len({tuple(tokens(rollouts)) for rollouts in (first, second, third)}) == 3
    assert generator_for(model, seed=2).sample(prompts, 4) != first


def test_random_state_elsewhere_is_untouched(
    build_model: Build, prompts: list[Prompt], generator_for: Make
) -> None:
    model = build_model()
    before = torch.get_rng_state()
    generator_for(model).sample(prompts, 2)
    assert torch.equal(torch.get_rng_state(), before)
    greedy = generator_for(model, temperature=0)
    own = greedy.state_dict()["random_state"].clone()
    greedy.sample(prompts, 2)
    assert torch.equal(greedy.state_dict()["random_state"], own)


def test_weights_are_the_current_ones(
    build_model: Build, prompts: list[Prompt], generator_for: Make
) -> None:
    model = build_model()
    generator = generator_for(model)
    generator.sample(prompts, 2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.9)
    for rollout in generator.sample(prompts, 2):
        plain = plain_logprobs(model, rollout)
        assert rollout.sampling_logprobs == pytest.approx(plain, abs=1e-4)


def test_the_model_is_given_back_as_it_was(
    build_model: Build, prompts: list[Prompt], generator_for: Make
) -> None:
    model = build_model().train()
    list(model.children())[-1].eval()  # a frozen head in a training model
    modes = [module.training for module in model.modules()]
    assert len(set(modes)) == 2
    generator_for(model).sample(prompts, 2)
    assert [module.training for module in model.modules()] == modes
    assert torch.is_grad_enabled()
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    with pytest.raises(TrainingError):
        generator_for(model).sample(prompts, 2)
    assert [module.training for module in model.modules()] == modes
    assert torch.is_grad_enabled()


def test_dropout_is_off_while_sampling(
    build_model: Build, prompts: list[Prompt], generator_for: Make
) -> None:
    model = build_model(attention_dropout=0.5).train()
    rollouts = generator_for(model).sample(prompts, 2)
    model.eval()
    for rollout in rollouts:
        plain = plain_logprobs(model, rollout)
        assert rollout.sampling_logprobs == pytest.approx(plain, abs=1e-4)


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable`:FutureWarning")
def test_training_goes_on_after_sampling(
    build_model: Build, prompts: list[Prompt], generator_for: Make
) -> None:
    model = build_model().train()
    model.gradient_checkpointing_enable()
    modes = set()
    hook = model.register_forward_pre_hook(
        lambda *_args: modes.add((torch.is_grad_enabled(), torch.is_inference_mode_enabled()))
    )
    generator_for(model).sample(prompts, 2)
    hook.remove()
    # inference mode could leave tensors in the model that autograd refuses
    assert modes == {(False, False)}
    ids = torch.tensor([prompts[1].token_ids])
    model(ids, labels=ids).loss.backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    assert all(gradient is not None for gradient in gradients)


def test_attention_of_the_trainer_is_put_aside(
    build_model: Build, prompts: list[Prompt], generator_for: Make
) -> None:
    def without_cache(*_args: Any, **_kwargs: Any) -> None:
        raise AssertionError("the trainer's attention was called")

    AttentionInterface.register("test_without_cache", without_cache)  # pyright: ignore
    for name in ("llama", "gemma2"):  # gemma2 has no sdpa: it caps its attention scores
        model = build_model(name)
        expected = generator_for(model).sample(prompts, 2)
        model.set_attn_implementation("test_without_cache")
        assert tokens(generator_for(model).sample(prompts, 2)) == tokens(expected)
        assert model.config._attn_implementation == "test_without_cache"


def test_bfloat16_logprobs_are_computed_in_float32(
    build_model: Build, prompts: list[Prompt], generator_for: Make
) -> None:
    model = build_model().bfloat16()
    rollouts = generator_for(model).sample(prompts, 2)
    for rollout in rollouts:
        plain = plain_logprobs(model, rollout)
        assert rollout.sampling_logprobs == pytest.approx(plain, abs=0.5)


def test_prompts_that_cannot_be_continued(
    build_model: Build, make_prompt: Callable[..., Prompt], generator_for: Make
) -> None:
    generator = generator_for(build_model())
    with pytest.raises(InputError, match="has no tokens"):
        generator.sample([make_prompt()], 2)
    generator.sample([make_prompt(*[5] * (128 - MAX_TOKENS))], 1)
    with pytest.raises(InputError, match=r"prompt 5-5-.* has 113 tokens; .* context of 128"):
        generator.sample([make_prompt(*[5] * (129 - MAX_TOKENS))], 1)


@pytest.mark.parametrize(
    "option",
    [
        {"max_completion_tokens": 0},
        {"max_rows": 0},
        {"temperature": -1.0},
        {"eos_token_ids": []},
    ],
)
def test_options_out_of_range(
    build_model: Build, generator_for: Make, option: dict[str, Any]
) -> None:
    with pytest.raises(InputError, match="a generator needs"):
        generator_for(build_model(), **option)


def test_group_size_out_of_range(
    build_model: Build, prompts: list[Prompt], generator_for: Make
) -> None:
    with pytest.raises(InputError, match="group_size"):
        generator_for(build_model()).sample(prompts, 0)


def test_models_that_are_not_supported(
    prompts: list[Prompt], build_model: Build, generator_for: Make
) -> None:
    t5 = T5ForConditionalGeneration(
        T5Config(vocab_size=VOCABULARY, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    )
    with pytest.raises(InputError, match="t5 model here: it has an encoder"):
        generator_for(t5)
    hybrid = build_model()
    hybrid.config = Qwen3NextConfig(num_hidden_layers=4)
    with pytest.raises(InputError, match="linear_attention"):
        generator_for(hybrid)
    stateless = build_model()
    forward = stateless.forward
    stateless.forward = lambda past_key_values, **kwargs: forward(**kwargs)
    with pytest.raises(InputError, match="LlamaForCausalLM: it does not use"):
        generator_for(stateless).sample(prompts, 1)


@pytest.mark.parametrize("is_special", [False, True])
def test_thoughts_keep_their_marks_and_begin_where_the_prompt_opens_them(
    build_model: Callable[..., PreTrainedModel], is_special: bool
) -> None:
    words = {"<pad>": 0, "<bos>": 1, "<eos>": EOS, "<end>": END_OF_TURN}
    words |= {f"w{token}": token for token in range(len(words), VOCABULARY - 2)}
    opening, closing = VOCABULARY - 2, VOCABULARY - 1
    backend = Tokenizer(
        WordLevel({**words, "<think>": opening, "</think>": closing}, unk_token="<pad>")
    )
    backend.pre_tokenizer = WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>"
    )
    marks = ["<think>", "</think>"]
    if is_special:
        tokenizer.add_special_tokens({"additional_special_tokens": marks})
    else:
        tokenizer.add_tokens(marks)
    generator = TransformersGenerator(
        build_model(), tokenizer, max_completion_tokens=40, eos_token_ids=[EOS], temperature=3.0
    )
    plain = Prompt("plain", (), (1, 5))
    opened = Prompt("opened", (), (1, 5, opening))
    rollouts = generator.sample([plain, opened], 40)
    holding = [r for r in rollouts if closing in r.token_ids]
    assert holding
    assert all("</think>" in r.completion for r in holding)
    assert not any("<bos>" in r.completion or "<pad>" in r.completion for r in rollouts)
    assert [r.begins_thinking for r in rollouts] == [False] * 40 + [True] * 40
    closed = next(r for r in holding if r.begins_thinking)
    assert closed.answer == closed.completion.split("</think>", 1)[1].strip()
    assert {r.answer for r in rollouts[40:] if closing not in r.token_ids} == {""}
