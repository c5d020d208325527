"""Checks that need two keys at once; every message begins with the key to change and names the other one.

`schema.Config` runs them after each key is valid by itself, for configs from files and from Python alike.
"""

from collections.abc import Callable, Iterable, Iterator
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from uniapl.config.forms import FORMS, TUNING
from uniapl.config.methods import CONFIGURED
from uniapl.config.recipe import GREATEST_WEIGHT, LEAST_WEIGHT, Recipe
from uniapl.config.schedules import Weight, greatest, is_ever_positive
from uniapl.config.values import unusable_values
from uniapl.errors import InputError
from uniapl.known_metrics import INSTRUCTION_METRICS
from uniapl.servers import check_address

if TYPE_CHECKING:  # the schema imports this module
    from uniapl.config.schema import Config, RewardConfig, Sources

PAIR_TEMPLATES = {
    "plain": "{prompt}\n{reference}\n\n{prompt}\n{candidate}",
    "polar": "{prompt}\n{reference}<|reward|>{prompt}\n{candidate}[UNUSED_TOKEN_130]",
}
"""Names of `discriminator.pair_template` → texts; `polar` is how POLAR (arXiv 2507.05197) was trained to read."""

COLUMN_NAMES = (
    "messages",
    "conversations",
    "prompt",
    "completion",
    "response",
    "instruction",
    "output",
    "input",
    "history",
    "query",
    "question",
    "answer",
    "system",
    "chosen",
    "rejected",
    "key",
    "instruction_id_list",
    "kwargs",
)
"""Names that `data.columns` may map: `data/shapes.py` gives them their meaning."""


def cross_field_problems(config: "Config") -> list[str]:
    """Return `key: what is wrong` for every rule that the keys break together."""
    rules = (
        unusable_values,
        _paths,
        _sources,
        _data,
        _multiples,
        _sharding,
        _discriminator,
        _constraint,
        _policy_gradient,
        _servers,
        _schedules,
        _rewards,
        _evaluation,
        _trackers,
    )
    recipe = Recipe.of(config)
    problems = [problem for rule in rules for problem in rule(config, recipe)]
    ineffective = keys_without_effect(config).items()
    return problems + [f"{key}: {reason}; remove it" for key, reason in ineffective]


def keys_without_effect(config: "Config", *, explicit_only: bool = True) -> dict[str, str]:
    """Return key → reason for options that another option switches off.

    Those that were set explicitly are errors, but for null, which asks for nothing. A dump leaves all of them out,
    so that it loads again.
    """
    found: dict[str, str] = {}
    discriminator = config.discriminator
    for key, (applies, reason) in _discriminator_options(config).items():
        is_asked_for = (
            key in discriminator.model_fields_set
            and getattr(discriminator, key) is not None
            and key not in TUNING  # of these the recipe refuses what the command line gives
        )
        if not applies and (is_asked_for or not explicit_only):
            found[f"discriminator.{key}"] = reason
    found |= _idle_rollout_keys(config, explicit_only=explicit_only)
    if config.model.tuning != "lora" and discriminator.backbone != "lora":
        for key in type(config.lora).model_fields:
            if not explicit_only or key in config.lora.model_fields_set:
                found[f"lora.{key}"] = (
                    "has no effect without model.tuning lora or discriminator.backbone lora"
                )
    for index, reward in enumerate(config.rewards):
        is_own = reward.function not in ("instructions", "model")
        for key, applies, reason in (
            (
                "all_or_nothing",
                reward.function == "instructions",
                "only `instructions` counts instructions",
            ),
            ("path", reward.function == "model", "only `model` loads one"),
            ("arguments", is_own, "only functions of your own take them"),
        ):
            explicit = key in reward.model_fields_set
            if not applies and (explicit or not explicit_only):
                found[f"rewards.{index}.{key}"] = (
                    f"has no effect with rewards.{index}.function {reward.function}: {reason}"
                )
    return found


def _idle_rollout_keys(config: "Config", *, explicit_only: bool) -> dict[str, str]:
    """Return key → reason for options of another engine than the one that samples."""
    rollout = config.rollout
    others = ("servers", "ahead", "timeout_seconds") if rollout.engine != "vllm" else ("cache",)
    return {
        f"rollout.{key}": f"has no effect with rollout.engine {rollout.engine}"
        for key in others
        if not explicit_only or key in rollout.model_fields_set
    }


def _discriminator_options(config: "Config") -> dict[str, tuple[bool, str]]:
    """Return option → (does it act, why not)."""
    discriminator = config.discriminator
    form = Recipe.of(config).config.discriminator.form
    row, own = FORMS[form], f"has no effect with discriminator.form {form}"
    every = {key for other in FORMS.values() for key in other.keys}
    found = {key: (key in row.keys, own) for key in sorted(every)}
    if form == "expert":
        found["hint_template"] = (discriminator.hint, "has no effect without discriminator.hint")
    if row.learns == "unless frozen":
        for key in ("learning_rate", "warmup_steps"):
            found[key] = (
                not discriminator.frozen,
                "has no effect where discriminator.frozen is true",
            )
    return found


def _paths(config: "Config", recipe: Recipe) -> Iterator[str]:
    paths: dict[str, str | None] = {
        "output_dir": config.output_dir,
        "model.path": config.model.path,
        "data.pairs": config.data.pairs,
        "discriminator.path": config.discriminator.path,
        "evaluation.prompts": config.evaluation.prompts,
        "evaluation.validation_prompts": config.evaluation.validation_prompts,
        "training.resume": config.training.resume,
        **{f"rewards.{i}.path": reward.path for i, reward in enumerate(config.rewards)},
    }
    for key, value in paths.items():
        if value is not None and not value.strip():
            yield f"{key}: must not be empty"


def _sources(config: "Config", recipe: Recipe) -> Iterator[str]:
    data = config.data
    named = [("data.columns", data.columns)]
    for key in ("demonstrations", "prompts"):
        value: Sources | None = getattr(data, key)
        entries = () if value is None else data.sources(value)
        paths = [entry.path for entry in entries]
        if not all(path.strip() for path in paths):
            yield f"data.{key}: must not be empty"
        if len(set(paths)) < len(paths):
            yield f"data.{key}: must not name a source twice: its rows would be repeated"
        if len({entry.share is None for entry in entries}) > 1:
            yield f"data.{key}: give every source a share, or none"
        if not isinstance(value, str):
            named += [(f"data.{key}.{i}.columns", entry.columns) for i, entry in enumerate(entries)]
    for key, columns in named:
        yield from unknown_columns(key, columns)


def unknown_columns(key: str, columns: Iterable[str]) -> Iterator[str]:
    """Yield a line for each name that is none of `COLUMN_NAMES`; `key` is what holds them."""
    for name in columns:
        if name not in COLUMN_NAMES:
            close = get_close_matches(name, COLUMN_NAMES, n=1)
            known = f"known are {', '.join(COLUMN_NAMES)}"
            hint = f"did you mean {close[0]}?" if close else known
            yield f"{key}: unknown name {name}; {hint}"


def _data(config: "Config", recipe: Recipe) -> Iterator[str]:
    data, method = config.data, config.method
    if recipe.rollouts_on in ("preference", "both") and data.prompts is None:
        yield f"data.prompts: required by method {method}, which rolls out preference prompts"
    if is_ever_positive(config.objective.pair_weight) and data.pairs is None:
        yield "objective.pair_weight: needs data.pairs, which is null"
    reads_pairs = recipe.form is not None and FORMS[recipe.form].reads_pairs
    if data.pairs is not None and not recipe.has_pairs and not reads_pairs:
        yield (
            "data.pairs: nothing learns from them; set objective.pair_weight above 0, or discriminator.form to "
            "scalar in a method with an adversarial term, or remove them"
        )
    if recipe.rollouts_on == "both":
        own = "demonstration_prompts_per_step"
        if data.demonstration_prompts_per_step == 0:
            yield f"data.{own}: must be at least 1 for method {method}, got 0"
        limits = ("demonstrations_per_step", "prompts_per_step")
    elif recipe.rollouts_on == "demonstration":
        own, limits = "prompts_per_step", ("demonstrations_per_step",)
    else:
        return
    for other in limits:
        limit: int = getattr(data, other)
        if recipe.num_demonstration_prompts > limit:
            yield (
                f"data.{own}: must be at most data.{other} ({limit}) for method {method}, "
                f"got {recipe.num_demonstration_prompts}"
            )


def _discriminator(config: "Config", recipe: Recipe) -> Iterator[str]:
    is_configured = recipe.row.adversarial == CONFIGURED
    if is_configured and not recipe.has_discriminator:
        yield (
            f"objective.adversarial_weight: must be above 0 for method {config.method}: without its "
            "adversarial term it is another method"
        )
    if not recipe.has_discriminator:
        return
    discriminator = recipe.config.discriminator
    if recipe.form == "expert" and not (
        discriminator.path or discriminator.servers or discriminator.hint
    ):
        yield (
            "discriminator.path: form expert needs the expert's model, or discriminator.servers, or "
            "discriminator.hint=true, with which the policy before training is the expert"
        )
    if recipe.form == "reference" and not (discriminator.path or discriminator.servers):
        yield "discriminator.path: form reference needs a scorer's model, or discriminator.servers"
    if recipe.reads_demonstration and not recipe.num_demonstration_prompts:
        yield f"discriminator.form: method {config.method} rolls out no demonstration prompts to credit"
    yield from _discriminator_servers(config)
    yield from _templates(config)


def _discriminator_servers(config: "Config") -> Iterator[str]:
    discriminator = config.discriminator
    if not discriminator.servers:
        return
    for url in discriminator.servers:
        try:
            check_address(url, "discriminator.servers", "VLLM_API_KEY", "http://127.0.0.1:8000")
        except InputError as error:
            yield str(error)
    if discriminator.form == "expert" and config.rollout.temperature != 1:
        yield (
            "rollout.temperature: must be 1 with discriminator.servers, whose log-probs are those at "
            f"temperature 1, got {config.rollout.temperature}"
        )
    if discriminator.form == "reference" and not discriminator.frozen:
        yield "discriminator.frozen: a scorer behind discriminator.servers cannot learn; remove it"


def _templates(config: "Config") -> Iterator[str]:
    discriminator = config.discriminator
    texts: dict[str, tuple[str, tuple[str, ...]]] = {
        "hint_template": (discriminator.hint_template, ("prompt", "completion"))
    }
    if discriminator.pair_template not in PAIR_TEMPLATES:
        texts["pair_template"] = (discriminator.pair_template, ("prompt", "reference", "candidate"))
    for key, (text, fields) in texts.items():
        missing = [f"{{{field}}}" for field in fields if f"{{{field}}}" not in text]
        if missing:
            named = "" if key == "hint_template" else f"be {' or '.join(PAIR_TEMPLATES)}, or "
            yield f"discriminator.{key}: must {named}contain {', '.join(missing)}"


def _multiples(config: "Config", recipe: Recipe) -> Iterator[str]:
    updates = config.rollout.updates_per_rollout
    for name in ("steps", "checkpoint_every", "evaluate_every"):
        value: int = getattr(config.training, name)
        if value % updates:
            yield f"training.{name}: must be a multiple of rollout.updates_per_rollout ({updates}), got {value}"
    if config.training.evaluate_every and config.evaluation.prompts is None:
        yield "training.evaluate_every: needs evaluation.prompts, which is null"


def _sharding(config: "Config", recipe: Recipe) -> Iterator[str]:
    if config.training.sharding == "none":
        return
    why = "with training.sharding full"
    if config.model.tuning == "lora":
        yield f"model.tuning: must be full {why}, got lora; an adapter needs little memory: leave training.sharding out"
    if recipe.has_discriminator and config.discriminator.backbone == "lora":
        yield f"discriminator.backbone: must be copy {why}, got lora"
    if recipe.form == "reference" and not config.discriminator.frozen:
        yield f"discriminator.frozen: must be true {why}: a scorer that learns is never shared out"
    if config.training.gradients_every:
        yield f"training.gradients_every: must be 0 {why}: a term's own gradient is never whole there"
    if not config.training.keep_optimizer:
        yield f"training.keep_optimizer: must be true {why}: weights and optimisers share their files"


def _constraint(config: "Config", recipe: Recipe) -> Iterator[str]:
    constraint = config.constraint
    held_out = config.data.held_out_demonstrations
    if recipe.num_held_out and held_out is not None and 0 < held_out < recipe.num_held_out:
        yield (
            f"data.held_out_demonstrations: must be 0 or at least constraint.prompts_per_step "
            f"({recipe.num_held_out}), got {held_out}"
        )
    if constraint.target is None or not recipe.moves_lambda:
        return
    if recipe.row.adversarial == 1:
        yield f"constraint.target: method {config.method} fixes λ to 1; remove it, for it would move λ"
        return
    if recipe.ranks and not 0.5 < constraint.target < 1:
        yield (
            f"constraint.target: with discriminator.form {recipe.form} it is a pair accuracy between 0.5 and 1, "
            f"got {constraint.target}"
        )
    if held_out == 0 and (recipe.ranks or recipe.learns):
        yield "data.held_out_demonstrations: constraint.target is measured on them; must not be 0"
    weight = config.objective.adversarial_weight
    if not isinstance(weight, float | int):
        yield (
            "objective.adversarial_weight: must be one number where constraint.target is set "
            "(the controller moves it), got a schedule"
        )
    elif not LEAST_WEIGHT <= weight <= GREATEST_WEIGHT:
        yield (
            f"objective.adversarial_weight: must be from {LEAST_WEIGHT} to {GREATEST_WEIGHT} where "
            f"constraint.target is set, got {weight}"
        )


def _policy_gradient(config: "Config", recipe: Recipe) -> Iterator[str]:
    objective, updates = config.objective, config.rollout.updates_per_rollout
    if updates == 1 and objective.policy_gradient != "ppo":
        yield (
            f"objective.policy_gradient: {objective.policy_gradient} equals ppo where "
            "rollout.updates_per_rollout is 1; raise that, or leave it out"
        )
    if config.rollout.overlong_buffer_tokens > config.rollout.max_completion_tokens:
        yield (
            "rollout.overlong_buffer_tokens: must be at most rollout.max_completion_tokens "
            f"({config.rollout.max_completion_tokens}), got {config.rollout.overlong_buffer_tokens}"
        )


def _servers(config: "Config", recipe: Recipe) -> Iterator[str]:
    rollout = config.rollout
    if rollout.engine != "vllm":
        return
    if not rollout.servers:
        yield "rollout.servers: required by rollout.engine vllm, such as [http://127.0.0.1:8000]"
    for url in rollout.servers:
        try:
            check_address(url, "rollout.servers", "VLLM_API_KEY", "http://127.0.0.1:8000")
        except InputError as error:
            yield str(error)
        if url.rstrip("/").endswith("/v1"):
            yield f"rollout.servers: must be the root of a server, without /v1, got {url}"
    if len({url.rstrip("/") for url in rollout.servers}) < len(rollout.servers):
        yield "rollout.servers: must not name a server twice"
    if rollout.ahead and recipe.config.rollout.importance_cap is None:
        yield (
            "rollout.importance_cap: rollout.ahead samples by older weights, which importance weights make up for; "
            "must not be null"
        )


def _schedules(config: "Config", recipe: Recipe) -> Iterator[str]:
    if greatest(config.objective.chord_mu) > 1:
        yield f"objective.chord_mu: must be at most 1, got {greatest(config.objective.chord_mu):g}"
    names = (
        "sft_weight",
        "grpo_weight",
        "adversarial_weight",
        "kl_coef",
        "pair_weight",
        "chord_mu",
    )
    for name in names:
        points: Weight = getattr(config.objective, name)
        if not isinstance(points, tuple):
            continue
        fractions = [fraction for fraction, _ in points]
        if fractions != sorted(fractions):
            yield f"objective.{name}: the fractions of its points must ascend, got {fractions}"


def _rewards(config: "Config", recipe: Recipe) -> Iterator[str]:
    if is_ever_positive(recipe.config.objective.grpo_weight) and not config.rewards:
        yield f"rewards: required by method {config.method}, got none"

    def name(reward: "RewardConfig") -> str:
        return reward.name or function_name(reward.function)

    for index, reward in enumerate(config.rewards):
        if reward.function == "model" and reward.path is None:
            yield f"rewards.{index}.path: required by function `model`"
    yield from _duplicates(config.rewards, name, lambda index: f"rewards.{index}.name")


def _evaluation(config: "Config", recipe: Recipe) -> Iterator[str]:
    evaluation = config.evaluation
    yield from _duplicates(
        evaluation.metrics, function_name, lambda index: f"evaluation.metrics.{index}"
    )
    names = list(dict.fromkeys((*INSTRUCTION_METRICS, *map(function_name, evaluation.metrics))))
    if evaluation.best_metric not in names:
        yield (
            f"evaluation.best_metric: must be one of {', '.join(names)} "
            f"(evaluation.metrics adds to them), got '{evaluation.best_metric}'"
        )


def _trackers(config: "Config", recipe: Recipe) -> Iterator[str]:
    yield from _duplicates(
        config.training.trackers, str, lambda index: f"training.trackers.{index}"
    )


def function_name(function: str) -> str:
    """Return the name under which `module:function` is reported."""
    return function.rpartition(":")[2]


def _duplicates(
    entries: tuple[Any, ...], name_of: Callable[[Any], str], key_of: Callable[[int], str]
) -> Iterator[str]:
    first: dict[str, int] = {}
    for index, entry in enumerate(entries):
        name = name_of(entry)
        if name in first:
            yield f"{key_of(index)}: {name} is already the name of {key_of(first[name])}"
        first.setdefault(name, index)
