"""Where weights are shared out, the first rank alone reads them, and no rank keeps them whole."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from launches import TESTS, launch
from safetensors.torch import save_file
from tiny import tiny_model, tiny_tokenizer
from tiny_runs import Tiny

from uniapl.distributed import ALONE
from uniapl.errors import InputError
from uniapl.models.language_model import load_language_model


@pytest.fixture(scope="module")
def ranks(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("loading")
    done = launch(2, str(TESTS / "rank_loading.py"), str(tiny.model), str(folder))
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]


def test_no_rank_has_weights_until_they_are_shared_out(ranks: list[dict[str, Any]]):
    assert [rank["has weights"] for rank in ranks] == [False, False]
    assert [rank["device"] for rank in ranks] == ["cpu", "cpu"]
    assert ranks[0]["words"] == ranks[1]["words"] > 0


@pytest.mark.parametrize("name", ["policy", "reference", "copy", "scalar"])
def test_all_models_have_the_files_weights(ranks: list[dict[str, Any]], name: str):
    first, second = (rank[name] for rank in ranks)
    assert first["same"] is True
    assert first["numbers"] + second["numbers"] == tiny_model().num_parameters()
    assert first["numbers"] == second["numbers"], "all sizes of the tiny model are even"
    for own in (first, second):
        assert own["dropped"], "the whole model is there only while it is needed"
        assert own["tied"], "a head that is tied stays so"
        assert own["learns"] is (name != "reference")


def test_the_first_rank_alone_reads(ranks: list[dict[str, Any]]):
    assert [rank["reads"] for rank in ranks] == [True, False]


def test_a_frozen_model_is_shared_out_in_the_number_type_it_is_stored_in(
    ranks: list[dict[str, Any]],
):
    assert [rank["stored"] for rank in ranks] == [["torch.bfloat16"], ["torch.bfloat16"]]


def test_weights_that_the_config_does_not_have_are_refused(tmp_path: Path):
    model = tiny_model()
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"] + 1.0
    model.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    alone = replace(ALONE, in_lockstep=True)
    with pytest.raises(InputError, match=r"has other weights .* such as lm_head"):
        load_language_model(str(tmp_path), torch.float32, torch.device("cpu"), ranks=alone)


def test_a_new_head_is_zero_and_the_fingerprint_is_that_of_the_whole(ranks: list[dict[str, Any]]):
    for rank in ranks:
        assert rank["head"] == 0
        assert rank["fingerprint"] == rank["plain fingerprint"]


def test_servers_that_sample_ahead_get_the_policy_as_it_is(ranks: list[dict[str, Any]]):
    first, second = (rank["ahead"] for rank in ranks)
    assert first["saw"] == first["moved"]
    assert first["moved"][0] != first["moved"][1]
    assert second["saw"] == [None, None], "the first rank alone writes for servers"
