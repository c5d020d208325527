"""Weights in the order in which the CPU's kernels read them, for as long as sampling lasts."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from uniapl.cpu import is_on


@contextmanager
def reordered_weights(model: nn.Module) -> Iterator[None]:
    """Let linear layers multiply with copies of their weights that oneDNN has reordered.

    A token of a few rows reads every weight once, and a product of few rows with a plain weight spends as long on
    bringing it into order as on multiplying; `torch.compile` does the same when it freezes a model. Products are in
    float32, or in bfloat16 inside such an autocast where the CPU has them. Inside, weights must not change and
    gradients do not flow.
    """
    layers = [layer for layer in _layers(model) if layer.weight.device.type == "cpu"]
    dtype = _product_dtype()
    for layer in layers:
        layer.forward = _Product(layer, dtype)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def reordered_bytes(model: nn.Module) -> int:
    """Memory that `reordered_weights` takes if the model is on a CPU."""
    return sum(layer.weight.numel() * _product_dtype().itemsize for layer in _layers(model))


class _Product:
    """A linear layer's forward."""

    def __init__(self, layer: nn.Linear, dtype: torch.dtype) -> None:
        self._layer = layer
        self._weight = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach().to(dtype))
        self._bias = None if layer.bias is None else layer.bias.detach().to(dtype)
        self._dtype = dtype

    def __call__(self, inputs: Tensor) -> Tensor:
        # a model may leave autocast for some of its layers
        if self._dtype != _product_dtype():
            return nn.functional.linear(inputs, self._layer.weight, self._layer.bias)
        product: Tensor = torch.ops.mkldnn._linear_pointwise(
            inputs.to(self._dtype), self._weight, self._bias, "none", [], ""
        )
        return product


def _product_dtype() -> torch.dtype:
    """Return the number type in which linear layers multiply here."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32


def _layers(model: nn.Module) -> list[nn.Linear]:
    """Return the linear layers whose products oneDNN can take over: none where the piece is switched off."""
    dtype = _product_dtype()
    if not (is_on("weights") and torch.backends.mkldnn.is_available()) or (
        dtype != torch.float32
        and not (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())
    ):
        return []
    return [
        module
        for module in model.modules()
        if type(module) is nn.Linear
        and "forward" not in vars(module)  # somebody's hook
        and module.weight.dtype in (torch.float32, dtype)
    ]
