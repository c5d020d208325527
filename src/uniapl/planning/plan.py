"""`uniapl plan`: memory, tokens and work of a run, from its config and data alone; no weights are loaded.

One step is rehearsed on tensors without numbers (`models.footprint`), by the code that would train. Every rollout
is taken to reach its length limit, so a run that ends its completions earlier needs less.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from uniapl.config.recipe import Recipe
from uniapl.config.schema import Config
from uniapl.cpu.reordered_weights import reordered_bytes
from uniapl.data.chat import Chat
from uniapl.data.mixture import Mixture
from uniapl.models.adapters import find_base
from uniapl.models.devices import find_device
from uniapl.models.footprint import Footprint, counted, num_bytes, packed_bytes
from uniapl.models.language_model import LanguageModel
from uniapl.models.loading import load_config, load_tokenizer, refusing
from uniapl.models.model_source import find_model
from uniapl.models.packing import Packed, TokenSequence, pack, sequence_of
from uniapl.models.scalar_model import ScalarModel
from uniapl.planning.judges import OtherModel, Scorer, hinted
from uniapl.rollout.decoding import decode_at_its_largest
from uniapl.runs.setup import Data, load_data, other_roles, prepare_policy
from uniapl.types import Demonstration, Prompt

ADAM_STATES = 2
"""Numbers that AdamW keeps per weight: means of the gradient and of its square."""


@dataclass(slots=True)
class Role:
    """What one of the players keeps in memory between the phases, bytes."""

    weights: int
    """Those that no role above it in the plan has already."""
    trained: int
    """Of the weights that learn; their gradients take as much while they exist."""

    @property
    def optimizer(self) -> int:
        """AdamW's numbers."""
        return ADAM_STATES * self.trained


@dataclass(slots=True)
class Phase:
    """What a part of the step needs on top of weights and optimiser states, bytes."""

    needed: int
    """At its worst moment, everything below included."""
    parts: dict[str, int] = field(default_factory=dict)
    """What of it has a name."""


@dataclass(slots=True)
class StepTokens:
    """Tokens of one step, where every rollout is as long as it may be."""

    sampled: int
    trained: int
    """Through the policy's forward and backward pass; a shared prompt counts once."""
    judged: int
    """Through the discriminator's forward; what it learns from also backward. 0 behind servers."""


HEAP_SHARE = 0.15
"""Of the tensors on a CPU: what its heap keeps between them; up to 21 % were measured (LOG.md)."""


@dataclass(slots=True)
class RunPlan:
    """What a run needs."""

    config: Config
    device: str
    available: int
    """Memory of the device, bytes."""
    num_weights: int
    num_judging: int
    """Weights of the discriminator's model, if there is one in this process."""
    judge_learns: bool
    vocabulary: int
    roles: dict[str, Role]
    phases: dict[str, Phase]
    tokens: StepTokens

    @property
    def resident(self) -> int:
        """Weights and optimiser states: there from the first update on."""
        return sum(role.weights + role.optimizer for role in self.roles.values())

    @property
    def worst_phase(self) -> str:
        """The phase that decides whether the run fits."""
        return max(self.phases, key=lambda name: self.phases[name].needed)

    @property
    def peak(self) -> int:
        """Bytes at the worst moment of the run, what the heap keeps among them."""
        return self.tensors + self.heap

    @property
    def tensors(self) -> int:
        """Bytes that are alive at the worst moment."""
        return self.resident + self.phases[self.worst_phase].needed

    @property
    def checkpoint(self) -> int:
        """Bytes of one on disk: the weights that learn, and AdamW's numbers; what is frozen is in no checkpoint."""
        return sum(role.trained + role.optimizer for role in self.roles.values())

    @property
    def num_checkpoints(self) -> int:
        """Most of them that are there at the same time: those that are kept, the best one and one being written."""
        training, has_best = self.config.training, self.config.evaluation.prompts is not None
        made = 1 + sum(
            training.steps // every
            for every in (training.checkpoint_every, has_best * training.evaluate_every)
            if every
        )
        return min(made, training.keep_checkpoints + has_best + 1)

    @property
    def results(self) -> int:
        """Bytes of the model folders at the end of the run: the policy's, its adapter's, the discriminator's."""
        model = self.num_weights * getattr(torch, self.config.model.dtype).itemsize
        adapter = self.roles["policy"].trained if self.config.model.tuning == "lora" else 0
        saved = self.num_judging * getattr(torch, self.config.model.dtype).itemsize
        return model + (saved if self.judge_learns else 0) + adapter

    @property
    def disk(self) -> int:
        """Bytes that the run folder may take, logs aside."""
        return self.num_checkpoints * self.checkpoint + self.results

    @property
    def heap(self) -> int:
        """Bytes that are freed by then and not given back."""
        return int(HEAP_SHARE * self.tensors) if self.device == "cpu" else 0


def plan_run(config: Config, overridden: frozenset[str] = frozenset()) -> RunPlan:
    """Rehearse a run.

    Raises:
        InputError: Config, data or model are such that the run would not start either.
    """
    recipe = Recipe.of(config, overridden)
    config = recipe.config
    with refusing("model.path: cannot load", config.model.path):
        source = find_model(config.model.path)
        if source.is_adapter:
            source = find_base(Path(source.place))
        model_config, tokenizer = load_config(source), load_tokenizer(source)
    chat = Chat(
        tokenizer,
        system_prompt=config.data.system_prompt,
        template_arguments=config.data.template_arguments,
    )
    data = load_data(recipe, chat)
    other = OtherModel.of(recipe)
    step = _Step.largest(recipe, data, other)
    device, available = _device(config)
    with torch.device("meta"):
        # as wide as `load_language_model` makes them
        model = AutoModelForCausalLM.from_config(model_config, dtype=torch.float32)
        num_weights = model.num_parameters()
        rehearsal = _Rehearsal(recipe, model, other)
        num_judging = rehearsal.num_judging
    with counted() as footprint:
        phases = rehearsal.phases(step, footprint)
    return RunPlan(
        config=config,
        device=device,
        available=available,
        num_weights=num_weights,
        num_judging=num_judging,
        judge_learns=recipe.learns,
        vocabulary=model_config.get_text_config().vocab_size,
        roles=rehearsal.roles,
        phases=phases,
        tokens=step.tokens(config),
    )


@dataclass(slots=True)
class _Step:
    """What goes through the models in one step and one evaluation."""

    rolled_out: list[Prompt] = field(default_factory=list)
    """One prompt per rollout."""
    update: list[Packed] = field(default_factory=list)
    taught: list[Packed] = field(default_factory=list)
    """What the discriminator learns from."""
    scored: list[Packed] = field(default_factory=list)
    """What it only judges."""
    texts: list[int] = field(default_factory=list)
    """Tokens of each text that a scorer reads."""
    evaluated: list[Prompt] = field(default_factory=list)
    answers: list[Packed] = field(default_factory=list)

    @classmethod
    def largest(cls, recipe: Recipe, data: Data, other: OtherModel | None) -> "_Step":
        """Draw the first step's data, and let every rollout reach the limit of its length."""
        step, config = cls(), recipe.config
        limit, room = config.training.micro_batch_tokens, config.rollout.max_completion_tokens
        mixture = Mixture(data.demonstrations, data.prompts, data.pairs, seed=config.seed)
        drawn = mixture.next_batch(
            recipe.num_demonstrations, recipe.num_preference_prompts, recipe.num_pairs
        )
        experts = list(map(sequence_of, drawn.demonstrations))
        paired = drawn.demonstrations[: recipe.num_demonstration_prompts]
        size = config.rollout.group_size
        step.rolled_out = [
            prompt for prompt in (*(d.prompt for d in paired), *drawn.prompts) for _ in range(size)
        ]
        rollouts = [_answer(prompt, room) for prompt in step.rolled_out]
        step.update = pack([*rollouts, *experts], limit)
        if recipe.form == "reference":
            step.texts = other.text_lengths(recipe, paired) if other else []
        elif recipe.form == "expert":
            step._score(recipe, rollouts, paired)
        elif recipe.has_discriminator:
            step._judge(recipe, rollouts, experts)
        if recipe.form == "scalar":
            pairs = [
                TokenSequence(pair.prompt.token_ids, ids)
                for pair in drawn.pairs
                for ids in (pair.chosen_ids, pair.rejected_ids)
            ]
            step.taught += pack(pairs, limit, split_groups=False)
        if recipe.has_discriminator:
            held_out = data.held_out[: recipe.num_held_out] if recipe.samples_held_out else []
            step.rolled_out += [d.prompt for d in held_out for _ in range(size)]
        if data.evaluation:
            step.evaluated = list(data.evaluation.prompts)
            answers = [_answer(p, _answer_limit(config)) for p in step.evaluated]
            step.answers = pack(answers, limit)
        return step

    def _score(
        self, recipe: Recipe, rollouts: list[TokenSequence], paired: Sequence[Demonstration]
    ) -> None:
        """Say what a local expert reads: with hints, demonstrations stand in the prompts of their rollouts alone."""
        config, size = recipe.config, recipe.config.rollout.group_size
        if config.discriminator.servers:
            return
        if config.discriminator.hint:
            rollouts = hinted(rollouts, paired, size)
        self.scored = pack(rollouts, config.training.micro_batch_tokens)

    def _judge(
        self, recipe: Recipe, rollouts: list[TokenSequence], experts: list[TokenSequence]
    ) -> None:
        """Say what the discriminator learns from, and what it only scores."""
        limit = recipe.config.training.micro_batch_tokens
        if recipe.form == "likelihood":
            self.taught, self.scored = pack(experts, limit), pack(rollouts, limit)
            return
        num_paired = recipe.num_demonstration_prompts
        ranked = num_paired * recipe.config.rollout.group_size
        taught = [*rollouts[:ranked], *experts[:num_paired]]
        self.taught = pack(taught, limit, split_groups=False)
        self.scored = pack(rollouts[ranked:], limit, split_groups=False)

    def tokens(self, config: Config) -> StepTokens:
        """Count them."""
        return StepTokens(
            sampled=len(self.rolled_out) * config.rollout.max_completion_tokens,
            trained=sum(len(p.input_ids) for p in self.update),
            judged=sum(len(p.input_ids) for p in (*self.taught, *self.scored)) + sum(self.texts),
        )


def _answer(prompt: Prompt, num_tokens: int) -> TokenSequence:
    return TokenSequence(prompt.token_ids, (0,) * num_tokens)


def _answer_limit(config: Config) -> int:
    return config.evaluation.max_completion_tokens or config.rollout.max_completion_tokens


class _Rehearsal:
    """The players without numbers, and what each phase of a step adds to them."""

    def __init__(self, recipe: Recipe, model: PreTrainedModel, other: OtherModel | None) -> None:
        self.config = config = recipe.config
        dtype = getattr(torch, config.model.dtype)
        plain = LanguageModel(model, dtype)
        scores = recipe.form == "reference"
        judge = other.language_model(dtype) if other and not scores else None
        self.num_judging = (judge or plain).model.num_parameters()  # before adapters come
        self.policy = prepare_policy(plain, config)
        backbone, self.reference = other_roles(recipe, self.policy, judge)
        is_scalar = recipe.form == "scalar"
        self.discriminator = ScalarModel(backbone) if backbone and is_scalar else backbone
        self.scorer = other.scorer(dtype, learns=recipe.learns) if other and scores else None
        if self.scorer:
            self.num_judging = self.scorer.model.num_parameters()
        self.players: dict[str, LanguageModel | ScalarModel | Scorer | None] = {
            "policy": self.policy,
            "reference": self.reference,
            "discriminator": self.scorer or self.discriminator,
        }
        self.roles = self._shares()

    def _shares(self) -> dict[str, Role]:
        """Return what each player adds to the memory: weights that two share count for the first."""
        players = {name: player for name, player in self.players.items() if player}
        learning = {name: player.trainable_parameters() for name, player in players.items()}
        seen: set[int] = set()
        roles: dict[str, Role] = {}
        for name, player in players.items():
            # a shared model holds the adapters of all its roles
            of_others = {id(p) for n, ps in learning.items() if n != name for p in ps}
            own = [p for p in player.parameters() if id(p) not in seen | of_others]
            seen.update(map(id, own))
            roles[name] = Role(num_bytes(own), num_bytes(learning[name]))
        return roles

    def phases(self, step: _Step, footprint: Footprint) -> dict[str, Phase]:
        """Return what each phase needs, in the order of a step; gradients stay as long as they do in a run."""
        self.footprint = footprint
        footprint.place(*(player for player in self.players.values() if player))
        config, phases = self.config, dict[str, Phase]()
        if step.rolled_out and config.rollout.engine == "transformers":
            phases["rollout"] = self._decode(
                step.rolled_out, config.rollout.max_completion_tokens, config.rollout.temperature
            )
        if self.discriminator:
            phases["judge"] = self._pass(self.discriminator, step.taught, step.scored)
        if self.scorer and step.texts:
            phases["judge"] = self._read(self.scorer, step.texts)
        phases["update"] = self._pass(self.policy, step.update, [])
        if "discriminator" in self.roles:
            waiting = self.roles["discriminator"].trained
            phases["update"].needed += waiting
            phases["update"].parts["discriminator's gradients"] = waiting
        if step.evaluated:
            phases["evaluation"] = self._evaluate(step)
        if self.policy.role:
            merged = self.roles["policy"].weights
            phases["save"] = Phase(merged, {"merged copy": merged})
        return phases

    def _read(self, scorer: Scorer, lengths: list[int]) -> Phase:
        """Forward of the largest batch of texts; where the scorer learns, backward beside its gradients."""
        parameters = scorer.trainable_parameters()
        forward = scorer.largest_batch(lengths, self.config.training.micro_batch_tokens)

        def run() -> None:
            with torch.set_grad_enabled(bool(parameters)):
                logits = forward()
                if logits.requires_grad:
                    logits.sum().backward()

        gradients, needed = num_bytes(parameters), self.footprint.peak_of(run)
        if parameters:  # a second batch finds the gradients of the first
            needed = max(needed, gradients + self.footprint.peak_of(run))
        for parameter in parameters:
            parameter.grad = None
        return Phase(needed, {"gradients": gradients, "activations": needed - gradients})

    def _pass(
        self,
        model: LanguageModel | ScalarModel,
        taught: list[Packed],
        scored: list[Packed],
    ) -> Phase:
        """Forward and backward; after the first micro-batch its gradients are there beside the next one."""
        parameters = model.trainable_parameters()
        masks = packed_bytes(taught) + packed_bytes(scored)
        gradients = num_bytes(parameters)
        needed = self._worst(model, taught[:1])
        needed = max(needed, gradients + self._worst(model, taught[1:]))
        with torch.no_grad():
            needed = max(needed, gradients + self._worst(model, scored))
        for parameter in parameters:
            parameter.grad = None
        return Phase(
            needed + masks,
            {"gradients": gradients, "activations": needed - gradients, "attention masks": masks},
        )

    def _worst(
        self,
        model: LanguageModel | ScalarModel,
        micro_batches: list[Packed],
    ) -> int:
        """Return what the largest needs on top of what is there."""
        if not micro_batches:
            return 0
        largest = max(micro_batches, key=lambda p: len(p.input_ids))
        packed = self.footprint.packed(largest)

        def run() -> None:
            values = (
                model.logits(packed) if isinstance(model, ScalarModel) else model.logprobs(packed)
            )
            if values.requires_grad:
                values.sum().backward()

        return self.footprint.peak_of(run)

    def _decode(self, prompts: Sequence[Prompt], max_tokens: int, temperature: float) -> Phase:
        num_chunks = math.ceil(len(prompts) / self.config.rollout.max_rows)
        longest = sorted((p.token_ids for p in prompts), key=len, reverse=True)
        rows = longest[: math.ceil(len(prompts) / num_chunks)]
        cache = 0

        def run() -> None:
            nonlocal cache
            with self.policy.acting(), self.policy.autocast():
                cache = decode_at_its_largest(self.policy.model, rows, max_tokens, temperature)

        self.policy.model.set_attn_implementation("sdpa")
        needed, weights = self.footprint.peak_of(run), 0
        if _device(self.config)[0] == "cpu" and self.config.rollout.cache == "dynamic":
            with self.policy.autocast():
                weights = reordered_bytes(self.policy.model)
        parts = {"KV cache": cache} | ({"reordered weights": weights} if weights else {})
        return Phase(needed + weights, parts)

    def _evaluate(self, step: _Step) -> Phase:
        """Sampling answers, or comparing log-probs with the model before training, which may have to be loaded."""
        config = self.config
        phase = self._decode(step.evaluated, _answer_limit(config), config.evaluation.temperature)
        loaded = 0 if self.reference else self.roles["policy"].weights
        with torch.no_grad():
            forward = self._worst(self.policy, step.answers) + packed_bytes(step.answers)
        if loaded + forward > phase.needed:
            return Phase(loaded + forward, {"model before training": loaded})
        return phase


def _device(config: Config) -> tuple[str, int]:
    """Return where the run would go and how much memory there is."""
    device = find_device(config.training.device)
    if device.type == "cuda":
        return "cuda", torch.cuda.mem_get_info(device)[1]
    return "cpu", os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
