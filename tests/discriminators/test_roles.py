"""Policy, discriminator and reference share weights where they can, and never move each other's."""

import copy
from typing import Any

import pytest
import torch
from exact import (
    EXPERTS,
    config,
    drawn,
    exact_policy,
    likelihood,
    mixed_batch,
    policy_logprobs,
    scalar,
    sequences_of,
)
from torch import Tensor, nn

from uniapl.config.recipe import Recipe, TermWeights
from uniapl.discriminators import build_discriminator
from uniapl.discriminators.likelihood import Likelihood
from uniapl.discriminators.scalar import Scalar
from uniapl.errors import InputError, TrainingError
from uniapl.models.packing import pack
from uniapl.runs.setup import other_roles, prepare_policy
from uniapl.training.batch import StepData
from uniapl.training.update import StepTokens, accumulate, apply, step_scale

pytestmark = pytest.mark.usefixtures("in_double")

CPU = torch.device("cpu")
ROLES = [("full", "copy"), ("full", "lora"), ("lora", "copy"), ("lora", "lora")]
FORMS = {"scalar": scalar, "likelihood": likelihood}


def judge(made: Likelihood | Scalar) -> Any:
    return made.judge(mixed_batch(), drawn(), policy_logprobs)


def bits(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name, value in before.items() if not torch.equal(value, after[name])}


@pytest.mark.parametrize("is_recomputed", [False, True])
@pytest.mark.parametrize(("tuning", "backbone"), ROLES)
@pytest.mark.parametrize("form", FORMS)
def test_policy_and_discriminator_do_not_move_each_other(
    form: str, tuning: str, backbone: str, is_recomputed: bool
) -> None:
    """As in a step: the discriminator's gradient waits while the policy learns, then it learns too."""
    batch = mixed_batch()
    recipe = Recipe.of(
        config(
            model={"tuning": tuning},
            discriminator={"form": form, "backbone": backbone},
            training={"gradient_checkpointing": is_recomputed, "micro_batch_tokens": 25},
        )
    )
    policy = prepare_policy(exact_policy(), recipe.config)
    language_model, reference = other_roles(recipe, policy)
    made = build_discriminator(recipe, language_model)
    assert isinstance(made, Likelihood | Scalar)
    (packed,) = pack(sequences_of(batch), 1000)
    policy_says = policy.logprobs(packed).tolist()
    base_says = reference and reference.logprobs(packed).tolist()
    assert base_says in (None, policy_says)
    # a base that two share is in both; what learns is not
    of_policy, of_made = bits(policy), bits(made.model)
    learns = made.learner.parameters
    assert not set(map(id, policy.trainable_parameters())) & set(map(id, learns))

    judgement = made.judge(batch, drawn(), policy_logprobs)
    assert not moved(of_policy, bits(policy)) | moved(of_made, bits(made.model))
    assert policy.logprobs(packed).tolist() == policy_says
    assert all(p.grad is None for p in policy.trainable_parameters())
    waiting = [None if p.grad is None else p.grad.clone() for p in learns]
    assert any(g is not None and g.any() for g in waiting)

    weights = TermWeights(sft=0.3, grpo=1.0, adversarial=0.5, kl=0.0)
    tokens = StepTokens.of(StepData(drawn(), batch), judgement, recipe, CPU)
    scale = step_scale(recipe, weights, EXPERTS, tokens)
    metrics = accumulate(policy, EXPERTS, tokens, scale, recipe, by_term=None).metrics
    optimizer = torch.optim.SGD(policy.trainable_parameters())
    apply(policy, optimizer, metrics["objective/loss"] or 0.0, 0.1, 1e9)
    own = names_of(policy, policy.trainable_parameters())
    assert moved(of_policy, bits(policy)) <= own
    assert moved(of_policy, bits(policy))
    assert not moved(of_made, bits(made.model)) & names_of(made.model, learns)
    for parameter, gradient in zip(learns, waiting, strict=True):
        assert (parameter.grad is None) == (gradient is None)
        assert gradient is None or torch.equal(gradient, parameter.grad)  # type: ignore[arg-type]

    of_policy, of_made, policy_says = bits(policy), bits(made.model), policy.logprobs(packed)
    made.learn(1e-3)
    assert not moved(of_policy, bits(policy)) & own
    assert moved(of_made, bits(made.model)) <= names_of(made.model, learns)
    assert moved(of_made, bits(made.model))
    assert policy.logprobs(packed).tolist() == policy_says.tolist()
    assert base_says in (None, reference and reference.logprobs(packed).tolist())


def names_of(model: nn.Module, parameters: list[nn.Parameter]) -> set[str]:
    wanted = set(map(id, parameters))
    return {name for name, p in model.named_parameters() if id(p) in wanted}


@pytest.mark.parametrize("form", FORMS)
def test_one_backbone_serves_all_roles(form: str) -> None:
    """Of an adapter policy nothing is copied; of a full one a single copy is reference and backbone."""
    for tuning, copies in (("lora", 0), ("full", 1)):
        recipe = Recipe.of(
            config(
                model={"tuning": tuning},
                discriminator={"form": form, "backbone": "lora"},
                objective={"kl_coef": 0.1},
            )
        )
        policy = prepare_policy(exact_policy(), recipe.config)
        backbone, reference = other_roles(recipe, policy)
        assert backbone is not None
        assert reference is not None
        assert len({id(m.model) for m in (policy, backbone, reference)}) == 1 + copies
        assert backbone.model is reference.model
        assert reference.trainable_parameters() == []


def test_a_method_without_a_discriminator_has_none() -> None:
    recipe = Recipe.of(config(method="mix"))
    assert other_roles(recipe, exact_policy()) == (None, None)
    assert build_discriminator(recipe, None) is None


def test_only_what_learns_is_saved_and_comes_back_bit_for_bit() -> None:
    for form, backbone in (("scalar", "lora"), ("likelihood", "lora"), ("scalar", "copy")):
        made, other = FORMS[form](backbone=backbone), FORMS[form](backbone=backbone)
        judge(made)
        made.learn(1e-2)
        state = made.state_dict()
        assert len(state["model"]) == len(made.learner.parameters)
        if backbone == "lora":
            assert all("lora_" in name or name == "head.weight" for name in state["model"])
        assert moved(bits(made.model), bits(other.model))
        other.load_state_dict(copy.deepcopy(state))  # as from a file
        assert not moved(bits(made.model), bits(other.model))
        # the optimiser and the running deviation too: both go on alike
        for one in (made, other):
            judge(one)
            one.learn(1e-2)
        assert not moved(bits(made.model), bits(other.model))
        assert made.state_dict().get("running_std") == other.state_dict().get("running_std")
    with pytest.raises(InputError, match="has other weights than this run's"):
        scalar(backbone="copy").load_state_dict(scalar(backbone="lora").state_dict())


@pytest.mark.parametrize("form", FORMS)
def test_gradient_that_is_not_finite_stops_the_run(form: str) -> None:
    made = FORMS[form]()
    judge(made)
    gradient = made.learner.parameters[-1].grad
    assert gradient is not None
    gradient.view(-1)[0] = torch.nan
    before = bits(made.model)
    with pytest.raises(TrainingError, match="discriminator: gradient norm is nan; lower"):
        made.learn(0.1)
    assert not moved(before, bits(made.model))
    assert all(p.grad is None for p in made.learner.parameters)


def test_the_gradient_is_clipped_as_the_policys() -> None:
    made = likelihood()
    made.learner.max_grad_norm = 1e-3
    judge(made)
    gradients = [p.grad for p in made.learner.parameters if p.grad is not None]
    norm = torch.cat([g.flatten() for g in gradients]).norm().item()
    assert norm > 1e-3
    seen: list[float] = []
    made.learner.optimizer.register_step_pre_hook(
        lambda *_: seen.append(torch.cat([g.flatten() for g in gradients]).norm().item())
    )
    assert made.learn(1e-3)["optimizer/discriminator_grad_norm"] == pytest.approx(norm)
    assert seen == [pytest.approx(1e-3, rel=1e-3)]
