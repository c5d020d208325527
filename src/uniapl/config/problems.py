"""From pydantic's errors to lines that a person can act on: where, what is wrong, what was meant."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any, cast

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from uniapl.config.keys import Key, all_keys, describe_field

_KNOWN_ELSEWHERE = {
    "base_model": "model.path",
    "batch_size": "data.prompts_per_step",
    "beta": "objective.kl_coef",
    "epsilon": "objective.clip_low",
    "epsilon_high": "objective.clip_high",
    "kl_coefficient": "objective.kl_coef",
    "importance_sampling_level": "objective.policy_gradient",
    "learning_rate_schedule": "optimizer.schedule",
    "loss_type": "objective.reward_normalisation",
    "lr": "optimizer.learning_rate",
    "lr_scheduler_type": "optimizer.schedule",
    "mask_truncated_completions": "rollout.mask_truncated",
    "max_completion_length": "rollout.max_completion_tokens",
    "max_new_tokens": "rollout.max_completion_tokens",
    "max_steps": "training.steps",
    "model_name_or_path": "model.path",
    "num_generations": "rollout.group_size",
    "num_iterations": "rollout.updates_per_rollout",
    "output_path": "output_dir",
    "reward_funcs": "rewards",
    "scale_rewards": "objective.advantage_scale",
    "save_steps": "training.checkpoint_every",
    "eval_steps": "training.evaluate_every",
}
"""What other libraries call it."""

_GONE = {
    "discriminator.credit": "a likelihood discriminator credits tokens, a scalar one completions; remove it",
    "discriminator.demonstrations_per_step": "p_φ learns every demonstration of the step; remove it",
    "discriminator.label_smoothing": "no form uses it; remove it",
    "discriminator.likelihood_weight": "p_φ learns by likelihood alone; remove it",
    "discriminator.logit_penalty": "no form uses it; remove it",
    "discriminator.logit_scale": "p_φ learns by likelihood alone; remove it",
    "discriminator.max_grad_norm": "is now optimizer.max_grad_norm, for policy and discriminator",
    "discriminator.old_logprobs": "log π_old is the policy's own; remove it",
    "discriminator.pairs_per_prompt": "a scalar discriminator learns from all rollouts; remove it",
    "discriminator.ramp_steps": "λ rises over as many steps as discriminator.warmup_steps; remove it",
    "discriminator.replay_rollouts": "older rollouts are not learned from again; remove it",
    "discriminator.std_floor": "it is 0.1; remove it",
    "constraint.maximum": "it is 1; remove it",
    "constraint.minimum": "it is 0.01; remove it",
    "constraint.smoothing": "it is 0.8; remove it",
    "data.pairs_per_step": "it is 16; remove it",
    "evaluation.before": "uniapl compare shares the evaluation by itself; remove it",
    "optimizer.beta1": "it is 0.9; remove it",
    "optimizer.beta2": "it is 0.95; remove it",
    "optimizer.final_fraction": "it is 0.1; remove it",
    "training.logit_chunk_tokens": "it is 1024; remove it",
}
"""Keys of earlier versions, and what to do."""

_PLAIN = {
    "int_type": "must be an integer",
    "int_from_float": "must be an integer",
    "int_parsing_size": "must be a smaller integer",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "tuple_type": "must be a list",
    "dict_type": "must be a mapping",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "string_pattern_mismatch": "must be module:function or FILE.py:function",
    "model_type": "must hold keys of its own",
    "model_attributes_type": "must hold keys of its own",
}
"""Error type → words; the names in braces come with the error."""

_LIMITS = ("gt", "ge", "lt", "le")


def show(value: Any) -> str:
    """Write a value as its user would, shortened."""
    if value is None or isinstance(value, bool):
        text = {None: "null", True: "true", False: "false"}[value]
    elif isinstance(value, (list, tuple)):
        items = cast("Iterable[Any]", value)
        text = f"[{', '.join(show(item) for item in items)}]"
    elif isinstance(value, dict):
        pairs = cast("dict[str, Any]", value).items()
        text = "{" + ", ".join(f"{key}: {show(item)}" for key, item in pairs) + "}"
    else:
        text = repr(value)
    return text if len(text) <= 80 else text[:77] + "…"


def describe_problems(error: ValidationError, data: Any) -> list[str]:
    """Return one line per thing to change in `data`, in the order of the schema."""
    lines: list[str] = []
    suggested: set[str] = set()
    missing: list[str] = []
    for details in error.errors(include_url=False):
        path, key = _locate(details["loc"])
        is_in_union = key is not None and _is_union(key)
        if path in _GONE:
            lines.append(f"{path}: is no longer a key: {_GONE[path]}")
        elif details["type"] == "extra_forbidden" and not is_in_union:
            suggestions = suggest_keys(path)
            suggested.update(suggestions)
            lines.append(f"{path}: unknown key{did_you_mean(suggestions)}")
        elif details["type"] == "missing" and path == ".".join(map(str, details["loc"])):
            missing += _required_below(path, key)
        elif details["type"] == "value_error":
            lines += str(details.get("ctx", {}).get("error", details["msg"])).splitlines()
        else:
            lines.append(f"{path}: {_wrong_value(details, data, path, key)}")
    # A misspelt key is one mistake, not two: the line that suggests the right one says it all.
    lines += [
        f"{path}: required, but missing"
        for path in missing
        if not any(path == key or path.startswith(key + ".") for key in suggested)
    ]
    return list(dict.fromkeys(lines))


def suggest_keys(path: str) -> list[str]:
    """Return the keys that an unknown one may stand for, the likeliest only."""
    index = path.split(".")[1] if path.startswith("rewards.") and path.count(".") else "0"
    known = [key.path.replace("rewards.0.", f"rewards.{index}.") for key in all_keys()]
    if path in known:
        return [path]
    parent, _, name = path.rpartition(".")
    if name in _KNOWN_ELSEWHERE:
        return [_KNOWN_ELSEWHERE[name]]
    # The right name in the wrong place.
    same_name = [key for key in known if key.rpartition(".")[2] == name]
    if same_name:
        return same_name
    siblings = {key.rpartition(".")[2]: key for key in known if key.rpartition(".")[0] == parent}
    close = get_close_matches(name, siblings, n=1, cutoff=0.6)
    if close:
        return [siblings[close[0]]]
    close = get_close_matches(path, known, n=1, cutoff=0.8)
    if close:
        return close
    names = sorted({key.rpartition(".")[2] for key in known})
    close = get_close_matches(name, names, n=1, cutoff=0.75)
    return [key for key in known if close and key.rpartition(".")[2] == close[0]]


def did_you_mean(candidates: Iterable[str]) -> str:
    """Return `; did you mean A or B?`, empty without candidates."""
    listed = list(candidates)[:3]
    return f"; did you mean {' or '.join(listed)}?" if listed else ""


def _locate(location: tuple[int | str, ...]) -> tuple[str, Key | None]:
    """Return the dotted path and the known key it leads to or into.

    Pydantic adds the branch of a union (`constrained-str`) to a location; a path ends before it.
    """
    known = {key.path: key for key in all_keys()}
    parts = [str(part) for part in location]
    for depth in range(len(parts), 0, -1):
        generic = ".".join("0" if part.isdigit() else part for part in parts[:depth])
        key = known.get(generic)
        if key is None:
            continue
        is_value = key.section is None and key.path != "rewards"
        rest = parts[depth:]
        if is_value and (_is_union(key) or not all(part.isdigit() for part in rest)):
            rest = []
        return ".".join(parts[:depth] + rest), key
    return ".".join(parts), None


def _is_union(key: Key) -> bool:
    return " or " in describe_field(key.field).removesuffix(" or null") and key.section is None


def _required_below(path: str, key: Key | None) -> list[str]:
    if key is None or key.section is None:
        return [path]
    inner = all_keys(key.section, path + ".")
    return [below.path for below in inner if below.field.is_required()]


def _wrong_value(details: ErrorDetails, data: Any, path: str, key: Key | None) -> str:
    kind, value = details["type"], details["input"]
    if key is not None and _is_union(key):
        value = _value_at(data, path)
        words = _in_words(key)
        article = "a " if words.startswith("number") else ""
        return f"must be {article}{words}, got {show(value)}"
    if kind == "literal_error" and key is not None:
        close = get_close_matches(str(value), _in_words(key).split(", "), n=1)
        return f"must be one of {_in_words(key)}, got {show(value)}{did_you_mean(close)}"
    if path == "training.device":
        return f"must be auto, cpu, cuda or cuda:1 and so on, got {show(value)}"
    if kind in _PLAIN:
        limits = {
            name: f"{limit:g}" for name, limit in details.get("ctx", {}).items() if name in _LIMITS
        }
        return f"{_PLAIN[kind].format(**limits)}, got {show(value)}"
    message = details["msg"]
    return f"{message[0].lower()}{message[1:]}, got {show(value)}"


def _in_words(key: Key) -> str:
    return describe_field(key.field).replace("`", "")


def _value_at(data: Any, path: str) -> Any:
    for part in path.split("."):
        data = data[int(part) if part.isdigit() else part]
    return data
