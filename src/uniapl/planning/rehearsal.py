"""A step without numbers: the players, and what memory each part of the step adds to them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from transformers import PreTrainedModel

from uniapl.config.recipe import Recipe
from uniapl.cpu.reordered_weights import reordered_bytes
from uniapl.distributed.ranks import buckets
from uniapl.models.footprint import Footprint, num_bytes, packed_bytes
from uniapl.models.language_model import LanguageModel
from uniapl.models.packing import Packed
from uniapl.models.scalar_model import ScalarModel
from uniapl.planning.devices import Devices
from uniapl.planning.judges import OtherModel, Scorer
from uniapl.planning.largest_step import LargestStep, answer_limit, dealt
from uniapl.rollout.decoding import decode_at_its_largest
from uniapl.runs.setup import other_roles, prepare_policy
from uniapl.types import Prompt

ADAM_STATES = 2
"""Numbers that AdamW keeps per weight: means of the gradient and of its square."""


@dataclass(slots=True)
class RoleMemory:
    """What one of the players keeps in a device's memory between the phases, bytes."""

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


class Rehearsal:
    """The players without numbers, and what each phase of a step adds to them."""

    def __init__(
        self,
        recipe: Recipe,
        model: PreTrainedModel,
        other: OtherModel | None,
        devices: Devices,
    ) -> None:
        """Make the players, on torch's device of the moment.

        Args:
            recipe: The run.
            model: The policy's, without numbers.
            other: The model of `discriminator.path`, if there is one in this process.
            devices: How many share the work.
        """
        self.config = config = recipe.config
        self.is_sharded = config.training.sharding == "full"
        self.on_cpu, self.ranks = devices.kind == "cpu", devices.ranks(self.is_sharded)
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
        self.roles: dict[str, RoleMemory] = {}
        """What each player keeps; known once `phases` has shared them out."""

    def _share_out(self) -> None:
        """Do as `build_trainer` does."""
        self.policy.shard(keeps_whole=self._keeps_whole)
        for model in {id(m): m for m in (self.reference, self.discriminator) if m}.values():
            model.shard()

    @property
    def _keeps_whole(self) -> bool:
        """Whether the whole policy stays between samplings: captured graphs read it in its place."""
        return self.config.rollout.cache == "static"

    def whole_bytes(self) -> dict[str, int]:
        """Return role → bytes of the whole model that plays it, of those that are shared out."""
        players = {
            "policy": self.policy,
            "reference": self.reference,
            "discriminator": self.discriminator,
        }
        return {
            name: num_bytes(list(player.parameters()), whole=True)
            for name, player in players.items()
            if player
        }

    def _shares(self) -> dict[str, RoleMemory]:
        """Return what each player adds to the memory: weights that two share count for the first."""
        players = {name: player for name, player in self.players.items() if player}
        learning = {name: player.trainable_parameters() for name, player in players.items()}
        seen: set[int] = set()
        roles: dict[str, RoleMemory] = {}
        for name, player in players.items():
            # a shared model holds the adapters of all its roles
            of_others = {id(p) for n, ps in learning.items() if n != name for p in ps}
            own = [p for p in player.parameters() if id(p) not in seen | of_others]
            seen.update(map(id, own))
            roles[name] = RoleMemory(num_bytes(own), num_bytes(learning[name]))
        return roles

    def phases(self, step: LargestStep, footprint: Footprint) -> dict[str, Phase]:
        """Return what each phase needs, in the order of a step; gradients stay as long as they do in a run."""
        self.footprint = footprint
        footprint.place(*(player for player in self.players.values() if player))
        if self.is_sharded:
            self._share_out()
        self.roles = self._shares()
        config, phases = self.config, dict[str, Phase]()
        if step.rolled_out and config.rollout.engine == "transformers":
            # all steps of a batch are sampled at once
            groups = step.rolled_out[:: config.rollout.group_size]
            groups = groups * config.rollout.updates_per_rollout
            phases["rollout"] = self._decode(
                groups,
                config.rollout.group_size,
                config.rollout.max_completion_tokens,
                config.rollout.temperature,
            )
        if self.discriminator:
            scored = [*step.scored, *step.measured]
            phases["judge"] = self._pass(self.discriminator, step.taught, scored)
        if self.scorer and step.texts:
            phases["judge"] = self._read(self.scorer, step.texts)
        phases["update"] = self._pass(self.policy, [*step.update, *step.pairs], [])
        if "discriminator" in self.roles:
            waiting = self.roles["discriminator"].trained
            phases["update"].needed += waiting
            phases["update"].parts["discriminator's gradients"] = waiting
        if self._keeps_whole and "rollout" in phases:
            whole = self._whole_part()
            for phase in (phases[name] for name in ("judge", "update") if name in phases):
                phase.parts |= whole
                phase.needed += sum(whole.values())
        if len(self.ranks) > 1 and not self.is_sharded:
            phases["sum"] = self._sum()
        if step.evaluated:
            phases["evaluation"] = self._evaluate(step)
        if self.policy.role:
            merged = self.roles["policy"].weights
            phases["save"] = Phase(merged, {"merged copy": merged})
        if self.is_sharded and self.on_cpu:
            whole = num_bytes(list(self.policy.parameters()), whole=True)
            phases["save"] = Phase(whole, {"whole policy": whole})
        return phases

    def _sum(self) -> Phase:
        """Sum gradients over the devices, one message after the other."""
        learning = [player.trainable_parameters() for player in self.players.values() if player]
        messages = [num_bytes(bucket) for own in learning for bucket in buckets(own)]
        gradients, message = sum(map(num_bytes, learning)), max(messages)
        return Phase(gradients + message, {"gradients": gradients, "message": message})

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
        parts = [own for own in dealt(taught, self.ranks) if own]
        needed = self._worst(model, [own[0] for own in parts])
        later = [packed for own in parts for packed in own[1:]]
        needed = max(needed, gradients + self._worst(model, later))
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

    def _decode(
        self, prompts: Sequence[Prompt], group_size: int, max_tokens: int, temperature: float
    ) -> Phase:
        """Decode the first rank's groups, which are the longest."""
        groups = sorted((p.token_ids for p in prompts), key=len, reverse=True)
        longest = [ids for ids in dealt(groups, self.ranks)[0] for _ in range(group_size)]
        num_chunks = math.ceil(len(longest) / self.config.rollout.max_rows)
        rows = longest[: math.ceil(len(longest) / num_chunks)]
        cache = 0

        def run() -> None:
            nonlocal cache
            policy = self.policy
            with policy.gathered(policy.device), policy.acting(), policy.autocast():
                cache = decode_at_its_largest(policy.whole, rows, max_tokens, temperature)

        self.policy.whole.set_attn_implementation("sdpa")
        needed, weights = self.footprint.peak_of(run), 0
        if self.on_cpu and self.config.rollout.cache == "dynamic":
            with self.policy.autocast():
                weights = reordered_bytes(self.policy.whole)
        parts = (
            {"KV cache": cache}
            | self._whole_part()
            | ({"reordered weights": weights} if weights else {})
        )
        return Phase(needed + weights, parts)

    def _whole_part(self) -> dict[str, int]:
        """Return what the whole policy takes that is there to sample from."""
        if len(self.ranks) == 1 or not self.is_sharded:
            return {}
        return {"whole policy": num_bytes(list(self.policy.parameters()), whole=True)}

    def _evaluate(self, step: LargestStep) -> Phase:
        """Sampling answers, or comparing log-probs with the model before training, which may have to be loaded."""
        config = self.config
        phase = self._decode(step.evaluated, 1, answer_limit(config), config.evaluation.temperature)
        loaded = 0 if self.reference else self.roles["policy"].weights
        with torch.no_grad():
            forward = self._worst(self.policy, step.answers) + packed_bytes(step.answers)
        whole = self._whole_part() if self._keeps_whole else {}
        needed = loaded + forward + sum(whole.values())
        if needed > phase.needed:
            return Phase(needed, {"model before training": loaded} | whole)
        return phase
