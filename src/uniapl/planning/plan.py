"""`uniapl plan`: memory, tokens and work of a run, from its config and data alone; no weights are loaded.

One step is rehearsed on tensors without numbers (`models.footprint`), by the code that would train. Every rollout
is taken to reach its length limit, so a run that ends its completions earlier needs less.
"""

import os
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch

from uniapl.config.recipe import Recipe
from uniapl.config.schema import Config
from uniapl.data.chat import Chat
from uniapl.models.adapters import find_base
from uniapl.models.devices import find_device
from uniapl.models.footprint import counted
from uniapl.models.loading import empty_model, load_config, load_tokenizer, refusing
from uniapl.models.model_source import find_model
from uniapl.planning.devices import (
    Communication,
    Devices,
    pretended,
    sharded_traffic,
    summed_traffic,
)
from uniapl.planning.judges import OtherModel
from uniapl.planning.largest_step import LargestStep, TokenCounts
from uniapl.planning.rehearsal import Phase, Rehearsal, RoleMemory
from uniapl.runs.rollout_servers import check_ahead
from uniapl.runs.setup import load_data

HEAP_SHARE = 0.15
"""Of the tensors on a CPU: what its heap keeps between them; up to 21 % were measured (LOG.md)."""


@dataclass(slots=True)
class RunPlan:
    """What a run needs; of memory and time, what one device does."""

    config: Config
    devices: Devices
    num_weights: int
    num_judging: int
    """Weights of the discriminator's model, if there is one in this process."""
    judge_learns: bool
    vocabulary: int
    roles: dict[str, RoleMemory]
    phases: dict[str, Phase]
    tokens: TokenCounts
    """Of the step."""
    busiest: TokenCounts
    """Of them, those of the device that has most of each."""
    communication: Communication = field(default_factory=Communication)

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
    def needed(self) -> int:
        """Bytes of the memory that is there: the processes of a CPU share it."""
        return self.peak * (self.devices.count if self.devices.kind == "cpu" else 1)

    @property
    def fits(self) -> bool:
        """Whether there is enough memory."""
        return self.needed <= self.devices.memory

    @property
    def is_sharded(self) -> bool:
        """Whether weights, gradients and optimiser states are shared out."""
        return self.config.training.sharding == "full"

    @property
    def checkpoint(self) -> int:
        """Bytes of one on disk: the weights that learn, and AdamW's numbers; what is frozen is in no checkpoint."""
        parts = self.devices.count if self.is_sharded else 1
        return parts * sum(role.trained + role.optimizer for role in self.roles.values())

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
        return int(HEAP_SHARE * self.tensors) if self.devices.kind == "cpu" else 0


def plan_run(
    config: Config, overridden: frozenset[str] = frozenset(), devices: Devices | None = None
) -> RunPlan:
    """Rehearse a run.

    Args:
        config: Of the run.
        overridden: Keys that were given beside its file.
        devices: What it would run on; None: this machine's one.

    Raises:
        InputError: Config, data or model are such that the run would not start either.
    """
    recipe = Recipe.of(config, overridden)
    config = recipe.config
    devices = devices or here(config)
    check_ahead(config, devices.count)
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
    step = LargestStep.of(recipe, data, other)
    with torch.device("meta"):
        model = empty_model(model_config)
        num_weights = model.num_parameters()
        rehearsal = Rehearsal(recipe, model, other, devices)
    is_sharded = config.training.sharding == "full"
    with pretended(devices) if is_sharded else nullcontext(), counted() as footprint:
        phases = rehearsal.phases(step, footprint)
    return RunPlan(
        config=config,
        devices=devices,
        num_weights=num_weights,
        num_judging=rehearsal.num_judging,
        judge_learns=recipe.learns,
        vocabulary=model_config.get_text_config().vocab_size,
        roles=rehearsal.roles,
        phases=phases,
        tokens=step.tokens(config),
        busiest=step.tokens(config, devices.ranks(is_sharded)),
        communication=_communication(rehearsal, step, num_weights, devices),
    )


def here(config: Config, count: int = 1, memory: int | None = None) -> Devices:
    """Return devices like the one that the run would take here.

    Args:
        config: Names it.
        count: How many.
        memory: Of each, bytes, of accelerators that are elsewhere; None: this machine's.

    Raises:
        InputError: There is no such device, or a number is not above 0.
    """
    if memory is not None:
        return Devices("cuda", memory, count)
    device = find_device(config.training.device)
    if device.type == "cuda":
        return Devices("cuda", torch.cuda.mem_get_info(device)[1], count)
    return Devices("cpu", os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), count)


def _communication(
    rehearsal: Rehearsal, step: LargestStep, num_weights: int, devices: Devices
) -> Communication:
    """Return what moves between devices in a step, and to servers before a batch."""
    config = rehearsal.config
    if rehearsal.is_sharded:
        # one batch of rollouts is what that many steps learn from
        samplings = 1 / config.rollout.updates_per_rollout if step.rolled_out else 0.0
        sent = sharded_traffic(step.passes, rehearsal.whole_bytes(), devices, samplings)
    else:
        trained = {name: role.trained for name, role in rehearsal.roles.items()}
        sent = summed_traffic(trained, devices)
    is_served = config.rollout.engine == "vllm" and bool(step.rolled_out)
    return Communication(
        sent, num_weights * getattr(torch, config.model.dtype).itemsize if is_served else 0
    )
