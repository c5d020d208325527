"""The fixed buffers against the growing cache, which the other tests here compare with transformers."""

from collections.abc import Callable, Sequence

import pytest
import torch
from transformers import PreTrainedModel

from uniapl.errors import InputError, TrainingError
from uniapl.rollout import static_decoding
from uniapl.rollout.decoding import Decoded, decode
from uniapl.rollout.static_decoding import StaticDecoder
from uniapl.types import Prompt

Build = Callable[..., PreTrainedModel]
MAX_TOKENS = 16
ENDS = range(2, 97, 7)


@pytest.fixture(autouse=True)
def _small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several shapes in a short decoding."""
    monkeypatch.setattr(static_decoding, "COLUMN_STEP", 8)
    monkeypatch.setattr(static_decoding, "LEAST_ROWS", 2)


@pytest.fixture(params=["llama", "qwen3", "mistral", "gemma3", "gpt2"])
def model(request: pytest.FixtureRequest, build_model: Build) -> PreTrainedModel:
    return build_model(request.param)


def rows(prompts: Sequence[Prompt], group_size: int = 3) -> list[tuple[int, ...]]:
    return [prompt.token_ids for prompt in prompts for _ in range(group_size)]


def uniform(num_rows: int, seed: int = 3) -> torch.Tensor:
    return 1 - torch.rand(num_rows, MAX_TOKENS, generator=torch.Generator().manual_seed(seed))


def run(
    decoder: Callable[..., list[Decoded]],
    prompts: Sequence[tuple[int, ...]],
    temperature: float = 1.0,
    seed: int = 3,
    ends: Sequence[int] = ENDS,
) -> list[Decoded]:
    return decoder(
        prompts,
        uniform(len(prompts), seed) if temperature else None,
        max_tokens=MAX_TOKENS,
        temperature=temperature,
        eos_token_ids=ends,
    )


def dynamic(model: PreTrainedModel) -> Callable[..., list[Decoded]]:
    return lambda prompts, draws, **options: decode(model, prompts, draws, **options)


def assert_same(left: list[Decoded], right: list[Decoded]) -> None:
    assert [row.token_ids for row in left] == [row.token_ids for row in right]
    assert [row.has_ended for row in left] == [row.has_ended for row in right]
    for one, other in zip(left, right, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


@pytest.mark.parametrize("temperature", [1.0, 0.7, 0])
def test_it_samples_what_the_growing_cache_samples(
    model: PreTrainedModel, prompts: list[Prompt], temperature: float
) -> None:
    static = run(StaticDecoder(model).decode, rows(prompts), temperature)
    assert_same(static, run(dynamic(model), rows(prompts), temperature))
    assert len({len(row.token_ids) for row in static}) > 1


def test_buffers_serve_longer_and_shorter_batches(
    model: PreTrainedModel, prompts: list[Prompt]
) -> None:
    """What an earlier batch left in the buffers is never seen."""
    decoder = StaticDecoder(model)
    long, short = rows(prompts), rows([p for p in prompts if len(p.token_ids) < 6], 2)
    for seed, batch in enumerate((short, long, short, long)):
        assert_same(run(decoder.decode, batch, seed=seed), run(dynamic(model), batch, seed=seed))


def test_shapes_are_few_and_repeat(build_model: Build, prompts: list[Prompt]) -> None:
    model = build_model()
    shapes = []
    model.register_forward_pre_hook(
        lambda _module, _args, kwargs: (
            shapes.append(tuple(kwargs["static_distance"].shape))
            if "static_distance" in kwargs
            else None
        ),
        with_kwargs=True,
    )
    decoder = StaticDecoder(model)
    many_ends = range(2, 40)
    lengths = [len(row.token_ids) for row in run(decoder.decode, rows(prompts), ends=many_ends)]
    live = [sum(length > step for length in lengths) for step in range(1, max(lengths))]
    halved = [next(size for size in (2, 4, 8, 16, 32) if size >= count) for count in live]
    filled = [11 + step for step in range(1, max(lengths))]  # the longest prompt has 11 tokens
    rounded = [min(-(-count // 8) * 8, 32) for count in filled]
    assert shapes == list(zip(halved, rounded, strict=True))
    assert len(set(halved)) > 2
    first, buffers = list(shapes), decoder._buffers
    shapes.clear()
    run(decoder.decode, rows(prompts), ends=many_ends)
    assert shapes == first
    assert decoder._buffers is buffers


def test_new_weights_in_the_same_place_need_no_new_buffers(
    build_model: Build, prompts: list[Prompt]
) -> None:
    model = build_model()
    decoder = StaticDecoder(model)
    before = run(decoder.decode, rows(prompts))
    buffers = decoder._buffers
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(0.8)
    after = run(decoder.decode, rows(prompts))
    assert_same(after, run(dynamic(model), rows(prompts)))
    assert [row.token_ids for row in after] != [row.token_ids for row in before]
    assert decoder._buffers is buffers
    for weight in model.parameters():  # moved: a captured graph would read the old place
        weight.data = weight.data.clone()
    run(decoder.decode, rows(prompts))
    assert decoder._buffers is not buffers


def test_autocast_reads_a_rounded_copy_that_follows_the_weights(
    build_model: Build, prompts: list[Prompt]
) -> None:
    model = build_model()
    decoder = StaticDecoder(model)
    for factor in (1.0, 0.8):
        with torch.no_grad():
            for weight in model.parameters():
                weight.mul_(factor)
        with torch.autocast("cpu", torch.bfloat16):
            sampled = run(decoder.decode, rows(prompts))
        gaps = []
        for prompt, row in zip(rows(prompts), sampled, strict=True):
            ids = torch.tensor([[*prompt, *row.token_ids]])
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
                plain = model(ids).logits[0].float().log_softmax(-1)
            places = range(len(prompt) - 1, ids.shape[1] - 1)
            expected = [plain[at, ids[0, at + 1]].item() for at in places]
            gaps += [abs(a - b) for a, b in zip(row.logprobs, expected, strict=True)]
        # bfloat16 has 8 bits; other weights than these give gaps of whole nats
        assert sum(gaps) / len(gaps) < 0.1
    assert all(weight.dtype == torch.float32 for weight in model.parameters())


def test_attention_that_buffers_do_not_know_is_refused(
    build_model: Build, prompts: list[Prompt]
) -> None:
    model = build_model("gemma2")  # caps its scores
    implementation = model.config._attn_implementation
    with pytest.raises(
        InputError, match=r"rollout.cache static.*softcap; use rollout.cache dynamic"
    ):
        run(StaticDecoder(model).decode, rows(prompts))
    assert model.config._attn_implementation == implementation


def test_weights_that_diverged_are_reported(build_model: Build, prompts: list[Prompt]) -> None:
    model = build_model()
    with torch.no_grad():
        model.get_output_embeddings().weight[7] = float("nan")  # pyright: ignore
    with pytest.raises(TrainingError, match="not finite"):
        run(StaticDecoder(model).decode, rows(prompts))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("temperature", [1.0, 0])
def test_replayed_graphs_sample_what_the_cpu_samples(
    model: PreTrainedModel, prompts: list[Prompt], temperature: float
) -> None:
    expected = run(dynamic(model), rows(prompts), temperature)
    changed = 0.9
    decoder = StaticDecoder(model.to("cuda"))
    assert_same(run(decoder.decode, rows(prompts), temperature), expected)
    assert decoder._buffers is not None
    replays = dict(decoder._buffers._replays)
    assert len(replays) > 2
    assert_same(run(decoder.decode, rows(prompts), temperature), expected)
    assert decoder._buffers._replays == replays  # nothing was captured again
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(changed)
    replayed = run(decoder.decode, rows(prompts), temperature)
    assert_same(replayed, run(dynamic(model.to("cpu")), rows(prompts), temperature))
