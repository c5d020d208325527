"""What is loaded is what the files hold, or one line says what is wrong with them."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from tiny import TEMPLATE, save_tiny_model, save_tiny_reward_model, tiny_tokenizer
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

from uniapl.errors import InputError
from uniapl.models.adapters import LoraShape
from uniapl.models.language_model import LanguageModel, load_language_model
from uniapl.models.packing import TokenSequence, pack
from uniapl.models.sequence_classifier import load_sequence_classifier

CPU = torch.device("cpu")
Weights = dict[str, Tensor]


@pytest.fixture(autouse=True)
def _single() -> None:
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_tiny_model(tmp_path / "m")


def load(path: Path | str) -> tuple[LanguageModel, PreTrainedTokenizerBase]:
    return load_language_model(str(path), torch.float32, CPU)


def refusal(path: Path | str, loader: Callable[[Path | str], object] = load) -> str:
    with pytest.raises(InputError) as caught:
        loader(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def load_reward_model(path: Path | str) -> object:
    return load_sequence_classifier(str(path), torch.float32, CPU)


def change_weights(folder: Path, change: Callable[[Weights], Weights]) -> None:
    file = folder / "model.safetensors"
    weights = {name: value.contiguous() for name, value in change(load_file(file)).items()}
    save_file(weights, file, metadata={"format": "pt"})


def change_config(folder: Path, **values: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def logprobs(policy: LanguageModel) -> Tensor:
    (packed,) = pack([TokenSequence((5, 6, 7), (8, 9, 10))], 100)
    return policy.logprobs(packed).detach()


def test_weights_under_a_prefix_are_not_replaced_by_random_ones(folder: Path) -> None:
    change_weights(folder, lambda w: {f"_orig_mod.{name}": value for name, value in w.items()})
    message = refusal(folder)
    assert message.startswith(
        f"model.path: cannot load '{folder}': its files do not hold a whole Q"
    )
    assert "no weights for lm_head.weight, model.embed_tokens.weight, model.layers.0." in message
    assert message.endswith("; their names begin with '_orig_mod.', which must go")


def test_a_layer_that_is_missing_or_one_too_many_is_noticed(folder: Path) -> None:
    change_weights(folder, lambda w: {n: v for n, v in w.items() if ".layers.1." not in n})
    assert "it has no weights for model.layers.1.input_layernorm.weight" in refusal(folder)
    save_tiny_model(folder)
    change_config(folder, num_hidden_layers=1, layer_types=["full_attention"])
    assert "it has unknown weights model.layers.1.input_layernorm.weight" in refusal(folder)


def test_constants_of_old_files_and_tied_heads_are_harmless(folder: Path) -> None:
    expected = logprobs(load(folder)[0])
    change_weights(
        folder,
        lambda w: {
            **w,
            "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4),
            "lm_head.weight": w["model.embed_tokens.weight"].clone(),
        },
    )
    assert torch.equal(logprobs(load(folder)[0]), expected)


def test_a_reward_model_needs_its_head_and_may_have_the_one_it_came_with(tmp_path: Path) -> None:
    folder = save_tiny_reward_model(tmp_path / "r")
    change_weights(folder, lambda w: {**w, "lm_head.weight": torch.ones(264, 32)})
    load_reward_model(folder)
    change_weights(folder, lambda w: {**w, "other.weight": torch.ones(2)})
    assert "it has unknown weights other.weight" in refusal(folder, load_reward_model)
    change_weights(folder, lambda w: {n: v for n, v in w.items() if n not in ("score.weight",)})
    message = refusal(folder, load_reward_model)
    assert message.startswith(f"cannot load the reward model '{folder}': ")
    assert "no weights for score.weight" in message


@pytest.mark.parametrize("loader", [load, load_reward_model])
def test_files_that_did_not_arrive_whole(tmp_path: Path, loader: Callable[..., object]) -> None:
    save = save_tiny_model if loader is load else save_tiny_reward_model
    folder = save(tmp_path / "m")
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    assert "its weights are damaged or incomplete (" in refusal(folder, loader)
    file.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    assert "model.safetensors is a Git LFS pointer and not the file" in refusal(folder, loader)
    file.write_bytes(whole)
    (folder / "config.json").write_text("{")
    assert "not a valid JSON" in refusal(folder, loader)


@pytest.mark.parametrize("loader", [load, load_reward_model])
def test_other_sizes_and_quantised_weights(tmp_path: Path, loader: Callable[..., object]) -> None:
    save = save_tiny_model if loader is load else save_tiny_reward_model
    folder = save(tmp_path / "m")
    change_config(folder, vocab_size=300)
    expected = "embed_tokens.weight has size [264, 32] in model.safetensors and [300, 32] by config"
    assert expected in refusal(folder, loader)
    change_config(
        folder,
        vocab_size=264,
        quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True},
    )
    assert "its weights are quantised (bitsandbytes); give the model" in refusal(folder, loader)


def test_every_token_that_texts_can_hold_needs_an_embedding(folder: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    assert len(tokenizer) > 261
    tokenizer.add_special_tokens({"additional_special_tokens": [f"<{i}>" for i in range(9)]})
    tokenizer.save_pretrained(folder)
    load(folder)  # nothing writes them
    tokenizer.chat_template = TEMPLATE.replace("<|end|>", "<8>")
    tokenizer.save_pretrained(folder)
    assert "no embedding for: <8>, with ids from 264 on" in refusal(folder)
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["seaside", "calmly", "blueish", "sunny"])
    tokenizer.save_pretrained(folder)
    assert "no embedding for: sunny, with ids from 264 on" in refusal(folder)


def test_a_run_folder_means_its_policy(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "checkpoints" / "step_000001").mkdir(parents=True)
    (run / "config.yaml").write_text("method: mix\n")
    message = refusal(run)
    assert f"the run has no policy/ yet; give a checkpoint's, {run}/checkpoints/" in message
    policy = save_tiny_model(run / "policy")
    shutil.copytree(policy, run / "checkpoints" / "step_000001" / "policy")
    expected = logprobs(load(policy)[0])
    for path in (run, run / "checkpoints" / "step_000001"):
        assert torch.equal(logprobs(load(path)[0]), expected)


def save_adapter(folder: Path, base: Path) -> LanguageModel:
    """An adapter that changes something, as a run with LoRA leaves it."""
    policy = load(base)[0].with_adapter("policy", LoraShape(4, 8.0))
    assert policy.role is not None
    for weight in policy.role.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    folder.mkdir()
    policy.role.save(folder)
    return policy


def test_an_adapter_is_merged_into_its_base_model(folder: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    expected = logprobs(save_adapter(adapter, folder))
    assert (expected - logprobs(load(folder)[0])).abs().max() > 0.1
    policy, tokenizer = load(adapter)
    torch.testing.assert_close(logprobs(policy), expected, rtol=1e-4, atol=1e-4)
    assert tokenizer.chat_template == TEMPLATE
    assert len(policy.trainable_parameters()) == len(load(folder)[0].trainable_parameters())
    assert type(policy.model) is type(AutoModelForCausalLM.from_pretrained(folder))


def test_adapters_that_cannot_be_merged(folder: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    save_adapter(adapter, folder)
    settings = json.loads((adapter / "adapter_config.json").read_text())

    def with_base(name: str | None) -> str:
        changed = settings | {"base_model_name_or_path": name}
        (adapter / "adapter_config.json").write_text(json.dumps(changed))
        return refusal(adapter)

    gone = str(tmp_path / "gone")
    assert f"it is an adapter of '{gone}', which cannot be loaded: check the path" in with_base(
        gone
    )
    assert "names no base model" in with_base(None)
    assert "which is an adapter too" in with_base(str(adapter))
    other = save_tiny_model(tmp_path / "other")
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    weights = load_file(adapter / "adapter_model.safetensors")
    removed = sorted(weights)[0]
    save_file(
        {n: v for n, v in weights.items() if n != removed}, adapter / "adapter_model.safetensors"
    )
    assert f"does not suit Qwen3ForCausalLM: {removed}" in refusal(adapter)
    assert "it is an adapter; merge it" in refusal(adapter, load_reward_model)
    shutil.copy(other / "model.safetensors", adapter)
    assert "it holds a model and an adapter" in refusal(adapter)


def test_damaged_checkpoints_of_weights(folder: Path, tmp_path: Path) -> None:
    policy = load(folder)[0]
    policy.save_trained(tmp_path / "saved", tiny_tokenizer())
    file = tmp_path / "saved" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:900])
    with pytest.raises(InputError, match=r"cannot load the saved model '.*damaged or incomplete"):
        policy.load(tmp_path / "saved")
    save_adapter(tmp_path / "adapter", folder)
    adapted = policy.with_adapter("policy", LoraShape(4, 8.0))
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:900])
    with pytest.raises(InputError, match=r"cannot load the adapter '.*damaged or incomplete"):
        adapted.load(tmp_path / "adapter")


def test_paths_are_not_taken_for_names_on_the_hub(folder: Path) -> None:
    for path in ("./m", "../models/m", "a/b/c", "/no/such", "~/no-such-model"):
        message = refusal(path)
        assert message.startswith(f"model.path: cannot load '{path}' (no such folder here): check")
        assert str(Path.cwd()) in message
    assert "(no such folder here): nor has it been downloaded, and HF_HUB_OFFLINE" in refusal("a/b")
    assert "it is a file; give the folder" in refusal(folder / "config.json")


@contextmanager
def hub(answers: dict[str, tuple[int, dict[str, object]]]) -> Iterator[str]:
    """A hub on this machine that knows what it has, and nothing else."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answers.get(self.path, (404, {"error": "not found"}))
            self.send_response(status)
            if status == 404:
                self.send_header("X-Error-Code", "RepoNotFound")
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def test_what_the_hub_says_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = {"id": "a/adapter", "siblings": [{"rfilename": "adapter_config.json"}]}
    answers: dict[str, tuple[int, dict[str, object]]] = {"/api/models/a/adapter": (200, adapter)}
    with hub(answers) as address:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", address)
        assert "nor does the hub have it, or it is private" in refusal("a/nothing")
        assert "on the hub it is an adapter; run `hf download a/adapter" in refusal("a/adapter")


def run_alone(code: str, **environment: str) -> str:
    """Return what another process says, which may have other rights."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


LOADING = """
import torch
from uniapl.models.language_model import load_language_model
from uniapl.errors import InputError
{before}
for path in {paths!r}:
    try:
        load_language_model(path, torch.float32, torch.device("cpu"))
    except InputError as error:
        print(error)
"""


def test_without_a_network_the_answer_takes_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    start = time.monotonic()
    message = refusal("owner/model")
    assert time.monotonic() - start < 10
    assert message.startswith(
        "model.path: cannot load 'owner/model' (no such folder here): nor has"
    )
    assert "the hub (http://127.0.0.1:9) does not answer" in message


def test_want_of_permission_is_said_as_such() -> None:
    before = "import os\nif os.getuid() == 0:\n    os.setgid(65534), os.setuid(65534)"
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        unread, closed = (
            save_tiny_model(Path(place) / "unread"),
            save_tiny_model(Path(place) / "closed"),
        )
        unread.chmod(0o755)
        (unread / "model.safetensors").chmod(0)
        closed.chmod(0)
        paths = [str(unread), str(closed)]
        said = run_alone(LOADING.format(before=before, paths=paths), HOME=place)
        closed.chmod(0o755)
    of_file, of_folder = said.splitlines()
    assert "permission denied: model.safetensors may not be read" in of_file
    assert "Permission denied" in of_folder
    assert "no such" not in said.lower()


def test_the_check_of_a_small_model_is_fast(folder: Path) -> None:
    load(folder)
    start = time.process_time()
    load(folder)
    assert time.process_time() - start < 0.5
