"""Models and tokenizers as transformers reads them, with one line where something is wrong.

transformers fills what a file lacks with random numbers and tells so in a log; here that is an error.
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase
from transformers.utils import logging

from uniapl.errors import InputError, one_line
from uniapl.models.model_source import ModelSource, is_missing

_HARMLESS = re.compile(r"rotary_emb\.inv_freq$|\.attn(ention)?\.(masked_)?bias$|\.position_ids$")
"""Constants that old files hold and today's models compute."""
_NAMES_SHOWN = 3


@contextmanager
def refusing(prefix: str, path: str) -> Iterator[None]:
    """Turn whatever is raised inside into one line that begins with `prefix` and the path.

    Raises:
        InputError: Something was raised; one from inside stays as it is. Want of memory is no wrong input.
    """
    try:
        yield
    except (InputError, MemoryError, torch.OutOfMemoryError):
        raise
    # files that nobody has checked, read by libraries that raise whatever they like
    except Exception as error:
        reason = one_line(error)
        if isinstance(error, SafetensorError):
            reason = (
                f"its weights are damaged or incomplete ({reason}); copy or download them again"
            )
        missing = " (no such folder here)" if is_missing(path) else ""
        raise InputError(f"{prefix} {path!r}{missing}: {reason}") from error


def load_tokenizer(source: ModelSource) -> PreTrainedTokenizerBase:
    """Load a model's tokenizer.

    Raises:
        ValueError: It reads no text: without files, transformers makes an empty one of the architecture's kind. And
            whatever transformers raises; see `refusing`.
    """
    # False: with None transformers would ask at the terminal whether to run the model's own code
    tokenizer = AutoTokenizer.from_pretrained(
        source.place, trust_remote_code=False, **source.options
    )
    if not tokenizer.encode("a", add_special_tokens=False):
        raise ValueError("its tokenizer knows no words: tokenizer.json is missing or empty")
    return cast(PreTrainedTokenizerBase, tokenizer)


def load_config(source: ModelSource) -> Any:
    """Load a model's configuration.

    Raises:
        ValueError: Its weights are quantised. And whatever transformers raises; see `refusing`.
    """
    config = AutoConfig.from_pretrained(source.place, trust_remote_code=False, **source.options)
    if quantised := getattr(config, "quantization_config", None):
        kind = quantised.get("quant_method", "") if isinstance(quantised, dict) else ""
        raise ValueError(
            f"its weights are quantised ({kind or 'quantization_config in config.json'}); give the "
            "model that it was made from"
        )
    return config


def load_weights(
    auto: Any,
    source: ModelSource,
    config: Any,
    dtype: torch.dtype,
    *,
    harmless: Iterable[str] = (),
) -> PreTrainedModel:
    """Load a model whose every weight comes from its files.

    Args:
        auto: One of transformers' classes that load any architecture.
        source: Where it lies.
        config: Its configuration.
        dtype: The number type of the weights.
        harmless: Names of weights that the files may hold and the model need not have.

    Raises:
        ValueError: The files lack weights, hold others, or weights of other sizes. And whatever transformers raises.
    """
    with silent():
        try:
            model, report = auto.from_pretrained(
                source.place,
                config=config,
                dtype=dtype,
                output_loading_info=True,
                trust_remote_code=False,
                **source.options,
            )
        except RuntimeError as error:
            if wrong := _wrong_sizes(auto, source, config):
                raise ValueError(wrong) from error
            raise
    check_report(report, type(model).__name__, harmless)
    return cast(PreTrainedModel, model)


def check_report(report: dict[str, Any], kind: str, harmless: Iterable[str] = ()) -> None:
    """Check what transformers reports of loading.

    Args:
        report: Its `output_loading_info`.
        kind: The model's class, for the message.
        harmless: Names of weights that the files may hold and the model need not have.

    Raises:
        ValueError: Weights are missing, unknown or of other sizes.
    """
    missing, sizes = sorted(report["missing_keys"]), sorted(map(str, report["mismatched_keys"]))
    unknown = sorted(
        name
        for name in report["unexpected_keys"]
        if name not in harmless and not _HARMLESS.search(name)
    )
    if not (missing or unknown or sizes or report.get("error_msgs")):
        return
    counted = (("no weights for", missing), ("unknown weights", unknown), ("other sizes", sizes))
    found = [f"{what} {_listed(names)}" for what, names in counted if names]
    hint = _prefix_hint(missing, unknown)
    raise ValueError(
        f"its files do not hold a whole {kind}: it has "
        + "; ".join(found or [str(report["error_msgs"][0]).splitlines()[0]])
        + hint
    )


def empty_model(config: Any) -> PreTrainedModel:
    """Return a language model that has no numbers yet: on the meta device, as wide as it is loaded, float32."""
    with torch.device("meta"):
        made: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return made


def check_names(model: PreTrainedModel, place: str) -> None:
    """Refuse a model whose weights are not those of its config: an empty one would not take them all.

    Args:
        model: As it was read.
        place: Key and path, for the message.

    Raises:
        InputError: Such as a head of its own where config.json says that it is tied.
    """
    read, made = ({n for n, _ in m.named_parameters()} for m in (model, empty_model(model.config)))
    if odd := sorted(read ^ made):
        raise InputError(
            f"{place} has other weights than its config.json says, such as {odd[0]}; training.sharding full cannot "
            "share them out: save the model again with a config that fits (tie_word_embeddings?)"
        )


def check_tokens(
    tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, needed: Iterable[Any] = ()
) -> None:
    """Check that the model has an embedding for every token that texts can contain.

    Special tokens without one are harmless as long as nothing writes them: some tokenizers have a token for images.

    Args:
        tokenizer: Of the model.
        model: Any.
        needed: Ids of special tokens (or None) that are used besides those of the chat template.

    Raises:
        ValueError: It has none for a token.
    """
    num_rows = cast(Any, model.get_input_embeddings()).weight.shape[0]
    ids = {token: i for token, i in tokenizer.get_vocab().items() if i >= num_rows}
    added = tokenizer.added_tokens_decoder
    template = str(tokenizer.chat_template or "")
    used = [
        token
        for token, i in ids.items()
        if not (i in added and added[i].special) or token in template or i in needed
    ]
    if used:
        raise ValueError(
            f"its tokenizer has tokens that the model has no embedding for: {_listed(sorted(used))}, "
            f"with ids from {num_rows} on; resize the model's embeddings or take its own tokenizer"
        )


def _listed(names: list[str]) -> str:
    more = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _prefix_hint(missing: list[str], unknown: list[str]) -> str:
    """Say so if the weights are all there, under names with something before them."""
    for name in missing:
        if unknown and unknown[0].endswith(name):
            prefix = unknown[0].removesuffix(name)
            return f"; their names begin with {prefix!r}, which must go"
    return ""


def _wrong_sizes(auto: Any, source: ModelSource, config: Any) -> str | None:
    """Return which weight has another size than the configuration says, if it is that."""
    with torch.device("meta"):
        expected = auto.from_config(config).state_dict()
    for file in sorted(Path(source.place).glob("*.safetensors")):
        with safe_open(file, "pt") as weights:
            for name in weights.keys():  # noqa: SIM118 (it is no dict)
                size = list(weights.get_slice(name).get_shape())
                if name in expected and size != list(expected[name].shape):
                    return (
                        f"{name} has size {size} in {file.name} and {list(expected[name].shape)} by "
                        "config.json; one of the two is another model's"
                    )
    return None


@contextmanager
def silent() -> Iterator[None]:
    """Keep transformers' table of missing weights off the terminal, which are errors here, and its progress bars."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()  # for good: they would tear the run's own lines
    try:
        yield
    finally:
        logging.set_verbosity(before)
