"""What two ranks have of a model before and after it is shared out: `torchrun … rank_loading.py MODEL OUTPUT`."""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from uniapl.distributed.launch import started
from uniapl.distributed.sharding import own_part, saved_from
from uniapl.models.fingerprint import weights_fingerprint
from uniapl.models.language_model import LanguageModel, load_language_model
from uniapl.models.scalar_model import ScalarModel


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
                whole = dict(backbone.whole.named_parameters()) if ranks.is_first else {}
                same = all(torch.equal(whole[n], p) for n, p in expected.items()) if whole else None
            found[name] = {
                "numbers": sum(parts),
                "same": same,
                "dropped": all(p.is_meta for p in backbone.whole.parameters()),
                "learns": any(p.requires_grad for p in model.parameters()),
                "tied": backbone.head.weight is backbone.model.get_input_embeddings().weight,
            }
        found["head"] = own_part(scalar.head.weight).abs().sum().item()
        found["fingerprint"] = weights_fingerprint(policy.model)
    (output / f"rank{os.environ['RANK']}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
