"""What one GPU can show: NCCL with one rank, and FSDP2 in bfloat16 beside a plain process."""

from pathlib import Path

import pytest
import torch
from launches import launch
from tiny_runs import Tiny, repeatable

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("form", ["likelihood", "scalar"])
def test_one_sharded_rank_is_a_plain_process(tiny: Tiny, tmp_path: Path, form: str):
    words = ("model.dtype=bfloat16", f"discriminator.form={form}", "training.steps=2")
    plain = tiny.train(tmp_path / "plain", *words)
    own = (*words, "training.sharding=full", f"output_dir={tmp_path / 'full'}")
    done = launch(1, "-m", "uniapl", "train", str(tiny.config), *own)
    assert done.returncode == 0, done.stderr[-3000:]
    first, expected = repeatable(tmp_path / "full")[0], repeatable(plain)[0]
    for name in ("objective/loss", "objective/sft", "optimizer/grad_norm"):
        assert first[name] == pytest.approx(expected[name], rel=2e-2), name
