"""LoRA adapters on one frozen backbone: policy, reference and discriminator need its weights only once.

Every role is an adapter, or none: the reference. peft puts the adapters into the transformers model in place, so
the model stays what it was to everything else; which adapter acts is switched here.
"""

import copy
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from uniapl.types import InputError

if TYPE_CHECKING:  # an extra, and slow to import: only runs that have adapters load it
    from peft import LoraModel

WEIGHTS, SETTINGS = "adapter_model.safetensors", "adapter_config.json"
_PREFIX = "base_model.model."
"""What peft's files put before the names of the model's own modules."""


@dataclass(frozen=True, slots=True)
class LoraShape:
    """How large an adapter is: W x + alpha / rank · B A x."""

    rank: int
    alpha: float
    target_modules: tuple[str, ...] = ()
    """Last parts of module names; empty: every linear layer but the language-model head."""


class AdaptedBackbone:
    """A model whose own weights are frozen, and its adapters by name; the first one acts at rest."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model.requires_grad_(False)
        self._linear_layers = _linear_layers(model)  # before adapters, which are linear layers too
        self._tuner: LoraModel | None = None
        self._acting: str | None = None

    def add(self, name: str, shape: LoraShape) -> "Role":
        """Add an adapter that changes nothing yet (B is 0), with its own float32 weights that learn.

        Raises:
            InputError: peft is missing, or the target modules do not suit the model.
        """
        try:
            from peft import LoraConfig, LoraModel
        except ImportError as error:
            raise InputError("LoRA needs peft: pip install 'uniapl[lora]'") from error
        settings = LoraConfig(
            task_type="CAUSAL_LM",
            r=shape.rank,
            lora_alpha=cast(int, shape.alpha),  # only ever divided by the rank
            target_modules=list(shape.target_modules or self._linear_layers),
            base_model_name_or_path=self.model.config.name_or_path,
        )
        try:
            if self._tuner is None:
                self._tuner = LoraModel(self.model, settings, name)
            else:
                self._tuner.peft_config[name] = settings
                self._tuner.inject_adapter(self.model, name)
        except ValueError as error:
            raise InputError(f"lora.target_modules: {str(error).splitlines()[0]}") from error
        for layer in (self.model.get_output_embeddings(), self.model.get_input_embeddings()):
            if hasattr(layer, "base_layer"):
                raise InputError(
                    "lora.target_modules: the embeddings and the language-model head take no adapter"
                )
        role = Role(self, name)
        widen(role.parameters())
        for other in self._tuner.peft_config:
            # adding one took the gradient from the others
            nn.ParameterList(Role(self, other).parameters()).requires_grad_(True)
        self._act(next(iter(self._tuner.peft_config)))
        return role

    @contextmanager
    def acting(self, name: str | None) -> Iterator[None]:
        """Let one adapter act, or none, and then what did before."""
        before = self._acting
        self._act(name)
        try:
            yield
        finally:
            self._act(before)

    def _act(self, name: str | None) -> None:
        # Not peft's set_adapter: it also takes the gradient from the other adapters, where it may be waiting
        # for its own optimiser.
        for layer in self.layers():
            layer._disable_adapters = name is None
            if name is not None:
                layer._active_adapter = [name]
        self._acting = name

    def layers(self) -> list[Any]:
        """Return the linear layers that carry adapters."""
        from peft.tuners.tuners_utils import BaseTunerLayer

        return [module for module in self.model.modules() if isinstance(module, BaseTunerLayer)]

    def plain(self, merged: str | None) -> PreTrainedModel:
        """Return a copy without adapters, one of them merged into its weights if it is named."""
        if self._tuner is None:
            return copy.deepcopy(self.model)
        tuner = copy.deepcopy(self._tuner)
        names = [] if merged is None else [merged]
        model = tuner.merge_and_unload(adapter_names=names) if names else tuner.unload()
        return cast(PreTrainedModel, model)

    def state(self, name: str) -> dict[str, Tensor]:
        """Return an adapter's weights (not copies) by their names in peft's files."""
        from peft import get_peft_model_state_dict

        # the embeddings are never part of it; asked to find out, peft would ask the hub
        own = get_peft_model_state_dict(self.model, adapter_name=name, save_embedding_layers=False)
        return {_PREFIX + key: value for key, value in own.items()}


@dataclass(frozen=True, slots=True)
class Role:
    """What one adapter makes of a backbone."""

    backbone: AdaptedBackbone
    name: str | None
    """The adapter's; None for the backbone itself, which is the reference."""

    def parameters(self) -> list[nn.Parameter]:
        """Return the adapter's weights."""
        if self.name is None:
            return []
        parts = [part for layer in self.backbone.layers() for part in (layer.lora_A, layer.lora_B)]
        return [p for part in parts for p in part[self.name].parameters()]

    def save(self, folder: Path) -> None:
        """Write the adapter as peft does, in any order of its sets the same bytes."""
        assert self.name is not None
        weights = {k: v.contiguous() for k, v in self.backbone.state(self.name).items()}
        save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
        assert self.backbone._tuner is not None
        self.backbone._tuner.peft_config[self.name].save_pretrained(str(folder))
        settings = json.loads((folder / SETTINGS).read_text())
        settings |= {"inference_mode": True, "target_modules": sorted(settings["target_modules"])}
        (folder / SETTINGS).write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")

    def load(self, folder: Path) -> None:
        """Take over a saved adapter, bit for bit.

        Raises:
            InputError: It is not there, or has another shape.
        """
        assert self.name is not None
        if not (folder / WEIGHTS).exists():
            raise InputError(f"{folder} holds no adapter")
        saved, own = load_file(folder / WEIGHTS), self.backbone.state(self.name)
        if {k: v.shape for k, v in saved.items()} != {k: v.shape for k, v in own.items()}:
            raise InputError(f"{folder} holds an adapter of another shape")
        for key, value in own.items():
            value.copy_(saved[key])


def widen(parameters: Iterable[nn.Parameter]) -> None:
    """Store weights that learn as float32 at least: bfloat16 would lose small updates."""
    for parameter in parameters:
        parameter.data = parameter.data.to(torch.promote_types(parameter.dtype, torch.float32))


def _linear_layers(model: PreTrainedModel) -> list[str]:
    """Return the last parts of the names of all linear layers but the head."""
    head = model.get_output_embeddings()
    return sorted(
        {
            name.rpartition(".")[2]
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear | Conv1D) and module is not head
        }
    )
