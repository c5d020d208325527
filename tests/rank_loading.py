"""What two ranks have of a model before and after it is shared out: `torchrun … rank_loading.py MODEL OUTPUT`."""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from trainers import make_trainer
from transformers import AutoModelForCausalLM

from uniapl.distributed import Ranks
from uniapl.distributed.launch import started
from uniapl.distributed.sharding import own_part, saved_from, whole
from uniapl.models.fingerprint import weights_fingerprint
from uniapl.models.language_model import LanguageModel, load_language_model, store_weights
from uniapl.models.scalar_model import ScalarModel
from uniapl.rollout.vllm_generator import VllmGenerator
from uniapl.types import Prompt


class Watched(VllmGenerator):
    """Stands in for servers: notes whether the policy that they would get is whole, and whether as it is now."""

    def __init__(self, policy: LanguageModel) -> None:
        self.policy = policy
        self.saw: list[float | None] = []

    def begin(self, prompts: Sequence[Prompt], group_size: int) -> Any:
        weight = next(self.policy.whole.parameters())
        self.saw.append(None if weight.is_meta else weight.sum().item())


def sampled_ahead(ranks: Ranks) -> dict[str, Any]:
    """What servers would get before and after the policy has moved, beside its weights then."""
    served = {"engine": "vllm", "servers": ["http://127.0.0.1:1"], "importance_cap": 2.0}
    trainer = make_trainer("mix", ranks=ranks, rollout={**served, "ahead": 1})
    policy = trainer.players.policy
    trainer.players.generator = watched = Watched(policy)
    moved: list[float] = []
    for _ in range(2):
        trainer.sampler._begin(0, 0)
        first = next(policy.model.parameters())
        moved.append(whole(first.detach()).sum().item())
        with torch.no_grad():
            own_part(first).add_(1.0)
    return {"saw": watched.saw, "moved": moved}


def main() -> None:
    path, output = sys.argv[1], Path(sys.argv[2])
    plain = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    expected = dict(plain.named_parameters())
    found: dict[str, Any] = {"plain fingerprint": weights_fingerprint(plain)}
    with started(shards=True) as ranks:
        ranks = replace(ranks, in_lockstep=True)
        policy, tokenizer = load_language_model(
            path, torch.float32, torch.device("cpu"), ranks=ranks
        )
        found["words"] = len(tokenizer)
        found["has weights"] = not all(p.is_meta for p in policy.parameters())
        found["device"] = str(policy.device)
        reference, copy = policy.reference(), policy.trainable_copy()
        scalar = ScalarModel(policy.trainable_copy())
        models: dict[str, LanguageModel | ScalarModel] = {
            "policy": policy,
            "reference": reference,
            "copy": copy,
            "scalar": scalar,
        }
        for name, model in models.items():
            model.shard()
            backbone = model.backbone if isinstance(model, ScalarModel) else model
            parts = [own_part(p).numel() for p in backbone.model.parameters()]
            with backbone.gathered(saved_from(ranks)):
                own = dict(backbone.whole.named_parameters()) if ranks.is_first else {}
                same = all(torch.equal(own[n], p) for n, p in expected.items()) if own else None
            found[name] = {
                "numbers": sum(parts),
                "same": same,
                "dropped": all(p.is_meta for p in backbone.whole.parameters()),
                "learns": any(p.requires_grad for p in model.parameters()),
                "tied": backbone.head.weight is backbone.model.get_input_embeddings().weight,
            }
        frozen, _ = load_language_model(path, torch.bfloat16, torch.device("cpu"), ranks=ranks)
        unloaded = frozen._unloaded
        assert unloaded
        found["reads"] = unloaded.weights is not None
        store_weights(frozen.model, torch.bfloat16)  # as a frozen expert is stored
        frozen.shard()
        found["stored"] = sorted({str(own_part(p).dtype) for p in frozen.model.parameters()})
        found["head"] = own_part(scalar.head.weight).abs().sum().item()
        found["ahead"] = sampled_ahead(ranks)
        found["fingerprint"] = weights_fingerprint(policy.model)
    (output / f"rank{os.environ['RANK']}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
