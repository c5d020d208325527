"""Every key of a run, typed: unknown keys and wrong values are refused before anything is loaded.

Sections mirror the folders of the package. `loading.py` turns a YAML file and `key=value` words into a
`Config`; `recipe.py` derives what it and the chosen method imply.
"""

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from uniapl.config.checks import cross_field_problems
from uniapl.config.forms import FormName
from uniapl.config.methods import METHODS
from uniapl.config.schedules import HalfCosine

if TYPE_CHECKING:  # a type checker takes no computed Literal
    MethodName = str
else:
    MethodName = Literal[*METHODS]

Fraction = Annotated[float, Field(ge=0, le=1)]
PositiveInt = Annotated[int, Field(ge=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
FunctionPath = Annotated[str, Field(pattern=r"^([\w.]+|.+\.py):\w+$")]
"""`module:function` or `FILE.py:function`; modules are looked for beside the config and where the command runs."""

Points = Annotated[tuple[tuple[Fraction, NonNegativeFloat], ...], Field(min_length=1)]
"""Piecewise linear: `[[fraction of all steps, value], …]`; the same fraction twice is a jump."""

Weight = NonNegativeFloat | Points | HalfCosine
"""A constant, points of a schedule, or `{start, peak, end, warmup, decay}`."""


HINT_TEMPLATE = "{prompt}\n\nAn expert answered:\n\n{completion}\n\nAnswer in the same way."
"""The demonstration first, then the model's own answer (self-distillation)."""


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, values cannot be changed after loading."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, validate_default=True
    )


class ModelConfig(Section):
    """The policy: any causal language model that transformers loads."""

    path: str
    """Folder or hub id of the model and its tokenizer; the reference and the discriminator start here too."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Number type of the forward and backward passes. Weights that learn stay float32 (docs/models.md)."""
    tuning: Literal["full", "lora"] = "full"
    """`full`: every weight learns; `lora`: an adapter on frozen weights, which also serve as the reference."""


class LoraConfig(Section):
    """Adapters: the policy's with `model.tuning: lora`, the discriminator's with `discriminator.backbone: lora`."""

    rank: PositiveInt = 16
    """Rank r of an adapter's two matrices."""
    alpha: PositiveFloat = 32.0
    """What they add is multiplied by alpha / rank."""
    target_modules: tuple[str, ...] = ()
    """Modules that get one, by the last part of their names; none named: every linear layer but the head."""


class SourceConfig(Section):
    """One of several sources of `data.demonstrations` or `data.prompts` (docs/data.md)."""

    path: str
    """File or hub id."""
    share: PositiveFloat | None = None
    """Part of the draws that come from it, relative to the others' shares; None, for all of them: every row."""
    columns: dict[str, str] = {}
    """As `data.columns`, for this source alone."""


Sources = str | Annotated[tuple[str | SourceConfig, ...], Field(min_length=1)]
"""A file or hub id, or a list of them, each with a share and its own columns if need be."""


class DataConfig(Section):
    """What the run learns from: JSONL, JSON, CSV or Parquet files, or hub ids (docs/data.md)."""

    demonstrations: Sources
    """Expert completions: `prompt` + `completion`, `messages`, Alpaca's, ShareGPT's or other columns."""
    prompts: Sources | None = None
    """Preference prompts, with the columns that the reward functions need."""
    columns: dict[str, str] = {}
    """Our names of columns → yours, such as `{prompt: task, completion: reply}`, in all sources of this section."""
    pairs: str | None = None
    """Chosen and rejected completions: the policy learns from them where `objective.pair_weight` is above 0, a `scalar`
    discriminator always (docs/method.md)."""
    demonstrations_per_step: PositiveInt = 24
    """Demonstrations in every step (term `sft`)."""
    prompts_per_step: PositiveInt = 22
    """Prompts that are rolled out in every step, of either kind: all methods roll out equally many."""
    demonstration_prompts_per_step: NonNegativeInt = 8
    """How many of `prompts_per_step` come from the step's demonstrations, where the method rolls out both."""
    held_out_demonstrations: NonNegativeInt | None = None
    """At least so many demonstrations, the last ones, that nothing trains on: they tell whether the discriminator is
    right. A prompt with several is held out whole. None: a twentieth where the method has a `likelihood` discriminator
    or `constraint.target` is set, else 0."""
    max_prompt_tokens: PositiveInt = 1024
    """A longer prompt is an error: no prompt is ever cut silently."""
    trained_turns: Literal["last", "all"] = "last"
    """Assistant turns of a conversation that are learned; `all`: each becomes a demonstration (docs/templates.md)."""
    system_prompt: str | None = None
    """System turn put before prompts that have none."""
    template_arguments: dict[str, bool | int | float | str] = {}
    """Passed to the chat template, such as `{enable_thinking: false}`; one that it does not read is an error."""

    def sources(self, sources: Sources) -> tuple[SourceConfig, ...]:
        """Return the entries of a key's value, with the section's columns where an entry has none of its own."""
        entries = (sources,) if isinstance(sources, str) else sources
        return tuple(
            SourceConfig(path=entry, columns=self.columns)
            if isinstance(entry, str)
            else entry.model_copy(update={"columns": entry.columns or self.columns})
            for entry in entries
        )


class RolloutConfig(Section):
    """How the policy is sampled during training."""

    group_size: Annotated[int, Field(ge=2)] = 8
    """Completions per prompt; advantages are centred inside this group."""
    temperature: PositiveFloat = 1.0
    """Sampling temperature; log-probs of rollouts are taken at the same temperature."""
    max_completion_tokens: PositiveInt = 256
    """A rollout that reaches it is truncated: if `mask_truncated`, left out of the reward term and the KL penalty."""
    mask_truncated: bool = False
    """Leave truncated rollouts out of the reward term and the KL penalty (their reward still counts in the group's
    mean)."""
    overlong_buffer_tokens: NonNegativeInt = 0
    """Above 0: a reward `overlong` falls from 0 to -1 over the last so many tokens before the limit (DAPO)."""
    updates_per_rollout: PositiveInt = 1
    """Steps that one batch of rollouts serves, each with a part of its own (`prompts_per_step` counts a step); above 1
    the clipped ratio starts to act."""
    expert_in_group: bool = False
    """The expert's completion takes the place of one of the `group_size` samples of its prompt: its reward counts in
    the group's mean, and where it is above the mean it is learned from (RIL, LUFFY)."""
    max_rows: PositiveInt = 256
    """Completions decoded at the same time; lower needs less memory."""
    cache: Literal["dynamic", "static"] = "dynamic"
    """Keys and values while sampling: `dynamic` grows and gives way to training; `static` keeps buffers of full
    length and lets CUDA replay whole decoding steps."""
    importance_cap: Annotated[float, Field(ge=1, allow_inf_nan=False)] | None = None
    """Truncated importance weight min(π_old/π_sampled, cap); for rollouts of another engine or number type. With
    `engine: vllm` it is 2 unless set."""
    engine: Literal["transformers", "vllm"] = "transformers"
    """What samples: `transformers`, on the policy itself; `vllm`, servers that get its weights before every batch
    (docs/scaling-vllm.md)."""
    servers: tuple[str, ...] = ()
    """Only `vllm`: their addresses, such as `[http://127.0.0.1:8000]`; prompts are dealt to them in turn."""
    ahead: Annotated[int, Field(ge=0, le=1)] = 0
    """Only `vllm`: 1 samples the next batch while the steps of this one train; its weights are one batch older."""
    timeout_seconds: PositiveFloat = 600.0
    """Only `vllm`: a server that is silent for longer ends the run."""


class RewardConfig(Section):
    """One reward; a run sums all of them with their weights."""

    function: Literal["instructions", "model"] | FunctionPath
    """`instructions` (share of checkable instructions satisfied), `model`, or your own `module:function` or
    `FILE.py:function` (docs/rewards.md)."""
    path: str | None = None
    """Only `model`: folder or hub id of a reward model, a sequence-classification model with one label."""
    arguments: dict[str, JsonValue] = {}
    """Only functions of your own: passed to the function by name, such as `{limit: 20}`."""
    name: str | None = None
    """Name in metrics and breakdowns; default: the function's name."""
    weight: float = Field(default=1.0, allow_inf_nan=False)
    """Factor of this reward in the total; negative makes it a penalty."""
    all_or_nothing: Fraction = 0.0
    """Only `instructions`: share of the reward paid only if every instruction is satisfied."""
    reads_thoughts: bool = False
    """Give the function whole completions, what the policy thinks (`<think>…</think>`) included."""
    timeout_seconds: PositiveFloat = 60.0
    """A call that takes longer stops the run."""


class DiscriminatorConfig(Section):
    """d(x, y), high = looks like the expert; used by the methods with an adversarial term."""

    form: FormName = "likelihood"
    """`likelihood`: log p_φ - log π_old per token, p_φ a second language model that learns the demonstrations;
    `expert`: the same with the expert's own log-probs, from a frozen model or a server; `scalar`: a head on the last
    token, ranked against the expert's completion; `reference`: a scorer that reads the expert's completion as well."""
    path: str | None = None
    """Folder or hub id. `likelihood`: another model with the same tokenizer to learn with, None: a copy of the policy;
    `expert`: the expert, None with `hint`: the policy before training; `reference`: a sequence-classification
    model with one label. With `servers`: the name of the served model, None: the only one."""
    servers: tuple[str, ...] = ()
    """Only `expert` and `reference`: URLs of vLLM servers that score instead of a local model
    (docs/discriminators.md)."""
    hint: bool = False
    """Only `expert`: it reads the demonstration in its prompt, so only demonstration prompts are credited."""
    hint_template: str = HINT_TEMPLATE
    """Only with `hint`: the last user turn, made of `{prompt}` and the demonstration, `{completion}`."""
    pair_template: str = "plain"
    """Only `reference`: `plain`, `polar`, or a text with `{prompt}`, `{reference}` and `{candidate}`."""
    frozen: bool = True
    """Only `reference`: `true`: the scorer stays as it is; `false`: it learns in every step."""
    backbone: Literal["copy", "lora"] = "copy"
    """`copy`: own weights; `lora`: an adapter on the frozen weights of the reference, or of the model in `path`."""
    learning_rate: PositiveFloat | None = None
    """AdamW's rate for the discriminator; None: the policy's."""
    warmup_steps: NonNegativeInt = 10
    """Steps in which a discriminator that learns does so while λ is still 0; over as many steps λ then rises."""
    credit_clamp: PositiveFloat = 3.0
    """Forms that credit tokens: bound of a token's log-ratio as credit, nats."""


class ConstraintConfig(Section):
    """How λ, the weight of the adversarial term, is set."""

    target: PositiveFloat | None = None
    """ε, the distance to the expert that counts as close enough; None: λ is fixed. `likelihood` and `expert`: KL(π ‖
    expert), nats per token; `scalar` and `reference`: the accuracy with which the discriminator ranks the expert first,
    between 0.5 (it cannot tell) and 1."""
    rate: PositiveFloat = 0.5
    """Only with a target: η of λ ← λ·exp(η·(distance - target)). λ stays from 0.01 (`slack`) to 1 (`saturated`)."""
    prompts_per_step: PositiveInt = 8
    """Held-out demonstrations on which a step measures the discriminator."""


class ObjectiveConfig(Section):
    """Weights of the terms; `method` may fix some of them."""

    sft_weight: Weight = 0.3
    """Weight of the negative log-likelihood of the expert's completions."""
    sft_token_weight: Literal["none", "phi"] = "none"
    """`phi`: each expert token counts by p(1 - p), p the policy's probability of it (CHORD-φ)."""
    grpo_weight: Weight = 1.0
    """Weight of the reward advantage."""
    adversarial_weight: Weight = 0.3
    """λ, weight of the adversarial advantage (its start, if `constraint.target` moves it)."""
    chord_mu: Weight = HalfCosine()
    """μ of the methods `chord` and `a-chord`: the weight of the demonstrations; that of the rewards is 1 - μ, and λ
    stays as it is."""
    pair_weight: Weight = 0.0
    """Weight of DPO's loss on `data.pairs`: chosen against rejected completions, relative to the reference."""
    pair_beta: PositiveFloat = 0.1
    """β of that loss, per nat: the larger, the closer the policy stays to the reference."""
    kl_coef: Weight = 0.0
    """Weight of the k3 estimate of KL(policy ‖ reference) on rollouts."""
    clip_low: Annotated[float, Field(gt=0, le=1)] = 0.2
    """The ratio is clipped below 1 - clip_low where the weight is negative; acts if updates_per_rollout > 1."""
    clip_high: PositiveFloat = 0.2
    """The ratio is clipped above 1 + clip_high where the weight is positive; acts if updates_per_rollout > 1."""
    advantage_scale: Literal["group", "batch", "none"] = "group"
    """Centred rewards are divided by the standard deviation of their group, of the batch, or not at all."""
    reward_normalisation: Literal["tokens", "signal", "constant"] = "tokens"
    """N_reward is, with `tokens`, the number of rewarded tokens; with `signal`, of those in groups whose rewards differ
    (DAPO drops the others); with `constant`, rewarded completions times `rollout.max_completion_tokens` (Dr. GRPO)."""
    policy_gradient: Literal["ppo", "gspo", "cispo"] = "ppo"
    """`ppo`: a clipped ratio per token; `gspo`: per completion (GSPO-token); `cispo`: clips the ratio, keeps every
    token's gradient. They differ if updates_per_rollout > 1."""


class OptimizerConfig(Section):
    """AdamW on the policy."""

    learning_rate: PositiveFloat = 1e-6
    """Peak rate."""
    weight_decay: NonNegativeFloat = 0.0
    """Decoupled decay, also the discriminator's."""
    max_grad_norm: PositiveFloat = 1.0
    """Clip of the gradient norm, also of the discriminator's."""
    warmup_steps: NonNegativeInt = 0
    """Steps in which the rate rises linearly from 0 (also the discriminator's)."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """After the warm-up: stay, or fall to a tenth of the peak at the last step."""


class TrainingConfig(Section):
    """The loop."""

    steps: PositiveInt
    """Optimiser updates of the policy."""
    micro_batch_tokens: PositiveInt = 16384
    """Tokens of one packed forward and backward; lower needs less memory and changes no result."""
    gradient_checkpointing: bool = False
    """Run each layer again in the backward pass instead of keeping its activations: less memory, slower."""
    sharding: Literal["none", "full"] = "none"
    """With several ranks (docs/scaling.md): `none`, each holds whole models; `full`, weights, gradients and optimiser
    states are shared out (FSDP2). Full tuning alone."""
    checkpoint_every: NonNegativeInt = 50
    """Steps between checkpoints; 0: only at the end."""
    keep_checkpoints: PositiveInt = 2
    """The newest so many are kept, and the best one."""
    keep_optimizer: bool = True
    """Whether checkpoints of a finished run keep AdamW's numbers, two thirds of their size; without them no more steps
    can follow."""
    evaluate_every: NonNegativeInt = 0
    """Steps between evaluations; 0: before the first and after the last step only."""
    gradients_every: NonNegativeInt = 0
    """Steps between measurements of each term's own gradient; 0: never, for it takes memory (docs/method.md)."""
    trackers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()
    """Copy every metric there as well, files in the run folder (docs/run-folder.md); needs `uniapl[trackers]`."""
    resume: str = "never"
    """`never`, `auto` (newest complete checkpoint of output_dir, else start afresh) or a checkpoint folder."""
    rollouts_logged_per_step: NonNegativeInt = 8
    """Rollouts written to rollouts/ with their reward breakdown."""
    threads: PositiveInt | None = None
    """Threads of torch on the CPU; None: OMP_NUM_THREADS, else torch's choice."""
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    """Where the models live: `cpu`, `cuda`, `cuda:1` …; `auto`: CUDA if there is one."""


class EvaluationConfig(Section):
    """What is measured before, during and after training."""

    prompts: str | None = None
    """Prompts to answer, in IFEval's format; a `completion` column is the expert's, for the match to it."""
    validation_prompts: str | None = None
    """Prompts in the same format on which `uniapl compare` chooses settings, so that `prompts` choose nothing."""
    metrics: tuple[FunctionPath, ...] = ()
    """Further metrics, `module:function` or `FILE.py:function` with a reward's signature; their first docstring line
    explains them."""
    limit: PositiveInt | None = None
    """Only the first so many prompts."""
    temperature: NonNegativeFloat = 0.0
    """0 answers greedily; above 0 samples, seeded."""
    max_completion_tokens: PositiveInt | None = None
    """Limit of an answer; None: rollout.max_completion_tokens."""
    best_metric: str = "prompt_level_strict_acc"
    """The checkpoint with the highest value of it is kept as the best."""


class Config(Section):
    """A whole run."""

    method: MethodName = "uniapl"
    """Which row of the method table (docs/method.md) the run is."""
    seed: NonNegativeInt = 0
    """Seeds data order, sampling and initialisation."""
    output_dir: str
    """The run folder."""
    model: ModelConfig
    lora: LoraConfig = LoraConfig()
    data: DataConfig
    rollout: RolloutConfig = RolloutConfig()
    rewards: tuple[RewardConfig, ...] = (RewardConfig(function="instructions"),)
    discriminator: DiscriminatorConfig = DiscriminatorConfig()
    constraint: ConstraintConfig = ConstraintConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    training: TrainingConfig
    evaluation: EvaluationConfig = EvaluationConfig()

    @model_validator(mode="after")
    def _keys_agree(self) -> Self:
        problems = cross_field_problems(self)
        if problems:
            raise ValueError("\n".join(problems))
        return self
