"""`train(config)`: one run, one run folder. Builds the players, drives the loop, saves, evaluates."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from json import loads
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch.utils import deterministic

from uniapl.config import ConfigSource, load_config, overridden_keys
from uniapl.config.recipe import Recipe
from uniapl.cpu.heap import tuned_heap
from uniapl.discriminators import hint_line
from uniapl.distributed import ALONE, Ranks
from uniapl.distributed.launch import started
from uniapl.distributed.sharding import load_shards, save_shards, saved_from
from uniapl.errors import InputError, Stopped
from uniapl.evaluation import EvaluationSet, evaluate
from uniapl.files import remove_leftovers
from uniapl.models.fingerprint import weights_fingerprint
from uniapl.models.language_model import LanguageModel
from uniapl.models.packing import completion_offsets, pack, sequence_of
from uniapl.models.saving import write_model_folder
from uniapl.rewards import NamedReward
from uniapl.rollout import TransformersGenerator
from uniapl.runs.checkpoint import (
    ADAPTER,
    DISCRIMINATOR,
    PENDING_SHARDS,
    POLICY,
    SHARDS,
    drop_optimizers,
    save_checkpoint,
    step_name,
)
from uniapl.runs.evaluation_before import Evaluated, EvaluationBefore
from uniapl.runs.live_rewards import LiveReward, read_rewards
from uniapl.runs.metrics import definitions, peak_gib
from uniapl.runs.model_card import model_card
from uniapl.runs.progress import RunProgress, results_table
from uniapl.runs.result import Run
from uniapl.runs.run_folder import RunFolder, join_run_folder
from uniapl.runs.run_log import RunLog
from uniapl.runs.setup import build_trainer, load_data, load_policy, load_rewards
from uniapl.runs.signals import interrupts
from uniapl.runs.trackers import check_installed
from uniapl.training.step import StepResult
from uniapl.types import Demonstration, Rollout

OnStep = Callable[[StepResult], object]
"""Called after every step; the run stops and saves itself where it returns False."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a run takes besides its config: nothing here changes what is written into the run folder's config."""

    rewards: Sequence[NamedReward] | None = None
    """Functions in the place of the config's rewards."""
    on_step: OnStep | None = None
    quiet: bool = False
    json: bool = False


def train(
    config: ConfigSource,
    overrides: Sequence[str] = (),
    *,
    rewards: Sequence[LiveReward] | None = None,
    on_step: OnStep | None = None,
    overridden: frozenset[str] = frozenset(),
    quiet: bool = False,
    json: bool = False,
) -> Run:
    """Run a config to its last step (docs/python.md).

    Args:
        config: A YAML file, the name of a packaged config, a dictionary or a config.
        overrides: As `load_config`'s; a key that the method ignores is an error.
        rewards: In the place of the config's: functions with TRL's signature, `NamedReward`s for a weight or a limit
            of time, `instructions` or `module:function`.
        on_step: Called with every step's `StepResult` once its metrics are written. Where it returns False, the run
            saves itself as after Ctrl-C, and `train` returns; `training.resume=auto` goes on. Of several ranks the
            first one calls it.
        overridden: Keys of overrides that the config contains already.
        quiet: Say nothing but warnings and results.
        json: Print a line of JSON per step, evaluation and result on standard output.

    Raises:
        InputError: Something in the config or the data is wrong; nothing has been trained.
        TrainingError: The run cannot go on; its last checkpoint is kept.
        Stopped: Ctrl-C or another signal; the step was finished and saved. It is a KeyboardInterrupt.
        Exception: Whatever `on_step` has raised; the last checkpoint is kept.
    """
    config, live = load_config(config, overrides), None
    overridden |= overridden_keys(overrides)
    if rewards is not None:
        config, live = read_rewards(config, rewards)
        overridden |= {"rewards"}
    recipe = Recipe.of(config, overridden)
    config = recipe.config
    check_installed(config.training.trackers)
    with started(shards=config.training.sharding == "full") as ranks:
        folder = join_run_folder(config, ranks)
        try:
            with _deterministic(), _threads(config.training.threads):
                run = _Run(recipe, folder, Options(live, on_step, quiet, json), ranks)
                try:
                    run.go()
                finally:
                    if run.log:
                        run.log.close()
        finally:
            folder.close()
    return Run(folder.path)


@contextmanager
def _threads(wanted: int | None) -> Iterator[None]:
    """Let torch use so many threads inside."""
    before = torch.get_num_threads()
    torch.set_num_threads(wanted or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _deterministic() -> Iterator[None]:
    """Make gradients on the CPU the same bits every time, for exact resumption.

    Sums over tokens that share a key would otherwise be added in the order in which threads finish.
    """
    before = torch.are_deterministic_algorithms_enabled()
    warned_only = torch.is_deterministic_algorithms_warn_only_enabled()
    fills_memory = deterministic.fill_uninitialized_memory  # pyright: ignore[reportAttributeAccessIssue]
    torch.use_deterministic_algorithms(True, warn_only=True)
    # NaN in every new tensor costs a pass over it and shows only code that reads before it writes
    deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        deterministic.fill_uninitialized_memory = fills_memory  # pyright: ignore[reportAttributeAccessIssue]
        torch.use_deterministic_algorithms(before, warn_only=warned_only)


class _Run:
    """One call of `train`: the trainer, its files, and the evaluations around it."""

    def __init__(
        self, recipe: Recipe, folder: RunFolder, options: Options, ranks: Ranks = ALONE
    ) -> None:
        self.folder, self.options, self.ranks = folder, options, ranks
        config = recipe.config
        torch.manual_seed(config.seed)
        self.policy, self.chat = load_policy(config, ranks)
        self.data = load_data(recipe, self.chat)
        self.before = EvaluationBefore(config)
        self.config = config
        rewards = load_rewards(recipe, self.policy.device, options.rewards)
        self.trainer = build_trainer(recipe, self.policy, self.chat, self.data, rewards, ranks)
        self.best: dict[str, Any] | None = None
        learning = self.policy.trainable_parameters() if self.policy.role else ()
        self.base_weights = weights_fingerprint(self.policy.model, learning)
        if folder.state and folder.checkpoint:
            self._check_base(folder.state)
            if self.trainer.is_sharded:
                load_shards(folder.checkpoint / SHARDS, self.trainer.learning())
            else:
                self.policy.load(folder.checkpoint / POLICY)
            self.trainer.load_state_dict(folder.state)
            self.best = folder.state["best"]
        meanings = definitions(r.name for r in rewards)
        evaluated = self.data.evaluation.definitions() if self.data.evaluation else {}
        self.log: RunLog | None = None
        if ranks.is_first:
            self.log = RunLog(config, folder, meanings, evaluated, self.policy.device)

    def _check_base(self, state: dict[str, Any]) -> None:
        """Refuse to go on from other weights than the run's: an adapter is nothing without them, nor a reference."""
        if state.get("base_weights", self.base_weights) != self.base_weights:
            raise InputError(
                f"cannot resume: model.path {self.config.model.path} holds other weights than when the run "
                "began; bring them back, or start a new run in another output_dir"
            )

    def go(self) -> None:
        """Train to the last step, or until somebody asks to stop."""
        config, trainer, options, ranks = self.config, self.trainer, self.options, self.ranks
        steps = config.training.steps
        showing: AbstractContextManager[None] = nullcontext()
        if self.log:
            showing = self.log.showing(trainer.step, quiet=options.quiet, json=options.json)
        with self._heap(), showing, interrupts(is_silent=not ranks.is_first) as interrupt:
            self._announce()
            if trainer.step == 0:
                self._evaluate()
            is_asked_to_stop = False
            while trainer.step < steps:
                is_asked_to_stop |= self._take_step()
                is_last = trainer.step == steps
                is_best = self._is_due(config.training.evaluate_every) or is_last
                is_best = is_best and self._evaluate()
                number = ranks.largest(interrupt.number or 0, "signals")
                stops = (is_asked_to_stop or number > 0) and trainer.is_between_batches
                if is_best or is_last or stops or self._is_due(config.training.checkpoint_every):
                    self._save()
                if stops and not is_last:
                    self._stop(number)
                    return
            self._finish()

    def _take_step(self) -> bool:
        """Train a step and tell everybody; return whether `on_step` has asked to stop."""
        done = self.trainer.train_step()
        peak = peak_gib(self.policy.device)
        done.metrics["memory/peak_gib"] = self.ranks.largest(peak, "memory")
        asks = False
        if self.log:
            self.log.step(done)
            on_step = self.options.on_step
            asks = on_step is not None and on_step(done) is False
        return self.ranks.any(asks, "what `on_step` asks")

    def _stop(self, number: int) -> None:
        """Say that the run is saved and not finished; pass on the signal, if it was one (not 0)."""
        if self.log:
            self.log.progress.stopped(self.trainer.step)
        if number:
            stop = Stopped(number)
            stop.is_said_elsewhere = not self.ranks.is_first
            raise stop

    def _heap(self) -> AbstractContextManager[None]:
        """Return the context that suits the run's memory: who trains an adapter, or shares out, wants little of it."""
        if self.policy.device.type != "cpu":
            return nullcontext()
        return tuned_heap(for_speed=not (self.policy.role or self.policy.is_sharded))

    def _is_due(self, every: int) -> bool:
        return bool(every) and self.trainer.step % every == 0

    def _announce(self) -> None:
        config, data = self.config, self.data
        hosts = self.ranks.hosts()
        hint = hint_line(self.trainer.players.discriminator, data.demonstrations)
        if self.log is None:
            return
        progress = self.log.progress
        size = self.policy.model.num_parameters() / 1e6
        trained = sum(p.numel() for p in self.policy.trainable_parameters()) / 1e6
        share = f", {trained:.3g}M of them train" if self.policy.role else ""
        progress.say(
            f"{config.method}, seed {config.seed}: {config.model.path} ({size:.3g}M parameters{share}), "
            f"{len(data.demonstrations)} demonstrations, {len(data.prompts)} prompts"
            f"{f', {len(data.pairs)} pairs' if data.pairs else ''} → {self.folder.path}"
        )
        for line in [*hosts, *data.notes]:
            progress.say(line)
        if hint:
            (progress.say if hint[1] else progress.warn)(hint[0])
        for line in [*self.trainer.recipe.idle_terms(), *self.chat.warnings()]:
            progress.warn(line)
        if self.folder.step:
            progress.say(f"going on from step {self.folder.step}")
        for line in self.folder.changes:
            progress.warn(line)
        self.log.trackers.tell_again(self.folder.path, self.folder.step)

    def _save(self) -> None:
        state = self.trainer.state_dict() | {"best": self.best, "base_weights": self.base_weights}
        pending = self.folder.checkpoints / PENDING_SHARDS
        if self.trainer.is_sharded:
            self.ranks.on_first(lambda: remove_leftovers(pending.parent), "writing a checkpoint")
            save_shards(pending, self.trainer.learning())

        def save_weights(policy: Path) -> None:
            if self.trainer.is_sharded:
                pending.rename(policy.with_name(SHARDS))
            else:
                self.policy.save_trained(policy, self.chat.tokenizer)

        def write() -> None:
            assert self.log
            save_checkpoint(
                self.folder.checkpoints,
                self.trainer.step,
                save_weights,
                state | self.log.state_dict(),
                self.config.training.keep_checkpoints,
            )

        self.ranks.on_first(write, "writing a checkpoint")

    def _evaluate(self) -> bool:
        """Evaluate now; return whether this is the best so far."""
        data, config = self.data.evaluation, self.config.evaluation
        if data is None:
            return False
        step = self.trainer.step
        shared = self.ranks.on_first(self.before.read, "an evaluation") if step == 0 else None
        results, rows = shared or self._answer(data)
        if step == 0 and shared is None and self.log:
            self.before.write((results, rows))
        results["step"] = step
        if self.log:
            self.log.evaluation(step, results, rows)
        value = results.get(config.best_metric)
        if value is None or step == 0 or (self.best and self.best["value"] >= value):
            return False
        self.best = {"step": step, "metric": config.best_metric, "value": value}
        return True

    def _answer(self, data: EvaluationSet) -> Evaluated:
        """Return results and samples of the policy as it is now."""
        config = self.config.evaluation
        data = replace(data, trainer_state=self.trainer.state)
        temperature = config.temperature
        limit = config.max_completion_tokens or self.config.rollout.max_completion_tokens
        # a generator of its own: evaluating more or less often must not change the training
        generator = TransformersGenerator(
            self.policy.whole,
            self.chat.tokenizer,
            max_completion_tokens=limit,
            eos_token_ids=self.chat.eos_token_ids,
            temperature=temperature,
            max_rows=self.config.rollout.max_rows,
            seed=self.config.seed,
        ).among(self.ranks)
        settings = {"temperature": temperature, "max_completion_tokens": limit}
        # sampling keeps log-probs at its temperature, greedily at 1
        is_known = self.config.model.dtype == "float32" and temperature in (0, 1)
        own = self._sampled_logprobs if is_known else partial(self._mean_logprobs, self.policy)
        base = self._base_logprobs if self.trainer.step else own
        with self.policy.gathered(self.policy.device), self.policy.autocast():
            rollouts = generator.sample(data.prompts, 1)
        return evaluate(rollouts, data, settings, own, base, self.ranks)

    def _base(self) -> LanguageModel:
        """Return the model before training; where no reference holds it, it is loaded for the occasion.

        A copy that waits in memory all the time would cost as much as the policy.
        """
        if self.trainer.players.reference:
            return self.trainer.players.reference
        base, _ = load_policy(self.config, self.ranks)
        if self.trainer.is_sharded:
            base.shard()
        return base

    def _mean_logprobs(
        self, model: LanguageModel, samples: Sequence[Demonstration | Rollout]
    ) -> list[float]:
        """Return the mean log-prob per token of each completion, nats, at temperature 1."""
        sequences = [sequence_of(s) for s in samples]
        offsets = completion_offsets(sequences)
        packed = pack(sequences, self.config.training.micro_batch_tokens)
        flat = model.flat_logprobs(packed, offsets[-1], ranks=self.ranks)
        return [flat[a:b].mean().item() for a, b in pairwise(offsets)]

    def _base_logprobs(self, samples: Sequence[Demonstration | Rollout]) -> list[float]:
        return self._mean_logprobs(self._base(), samples)

    def _sampled_logprobs(self, samples: Sequence[Demonstration | Rollout]) -> list[float]:
        """As `_mean_logprobs` of the policy, but only demonstrations are forwarded."""
        demonstrations = [s for s in samples if isinstance(s, Demonstration)]
        forwarded = iter(self._mean_logprobs(self.policy, demonstrations))
        return [
            mean(s.sampling_logprobs) if isinstance(s, Rollout) else next(forwarded)
            for s in samples
        ]

    def _finish(self) -> None:
        """Write the models, one after the other; the other ranks wait for the first one."""
        place = saved_from(self.ranks)
        with self.policy.gathered(place):
            self.ranks.on_first(self._write_policies, "writing the policy")
        shared_out = self.trainer.learning() if self.trainer.is_sharded else {}
        learned = shared_out.get("discriminator")
        with learned[0].gathered(place) if learned else nullcontext():
            self.ranks.on_first(self._write_rest, "writing the discriminator")

    def _write_policies(self) -> None:
        columns = self._first_and_last()
        write_model_folder(
            self.folder.path / POLICY, lambda path: self._write_policy(path, columns)
        )
        if role := self.policy.role:
            write_model_folder(self.folder.path / ADAPTER, role.save)

    def _write_rest(self) -> None:
        assert self.log
        progress, columns = self.log.progress, self._first_and_last()
        self._save_discriminator(progress)
        if not self.config.training.keep_optimizer:
            drop_optimizers(self.folder.checkpoints)
        table = None
        if columns and self.data.evaluation:
            table = results_table(columns, self.data.evaluation.headline)
        progress.result(table, self.folder.path / POLICY)

    def _write_policy(self, folder: Path, evaluations: Mapping[str, Mapping[str, Any]]) -> None:
        self.policy.save(folder, self.chat.tokenizer, getattr(torch, self.config.model.dtype))
        data = self.data
        card = model_card(
            self.config,
            loads((self.folder.path / "environment.json").read_text()),
            {
                "data.demonstrations": len(data.demonstrations) + len(data.held_out),
                "data.prompts": len(data.prompts),
                "evaluation.prompts": len(data.evaluation.prompts) if data.evaluation else 0,
            },
            evaluations,
            data.evaluation.headline if data.evaluation else (),
        )
        (folder / "README.md").write_text(card, encoding="utf-8")

    def _first_and_last(self) -> dict[str, Mapping[str, Any]]:
        """Return the evaluations before and after training, and the expert's own."""
        columns: dict[str, Mapping[str, Any]] = {}
        for title, step in (("before", 0), ("after", self.config.training.steps)):
            file = self.folder.path / "evaluations" / step_name(step) / "results.json"
            if file.exists():
                columns[title] = loads(file.read_text())
        if columns:
            columns["expert"] = next(iter(columns.values())).get("expert", {})
        return columns

    def _save_discriminator(self, progress: RunProgress) -> None:
        discriminator = self.trainer.players.discriminator
        if discriminator is None:
            return
        dtype = getattr(torch, self.config.model.dtype)
        is_saved = write_model_folder(
            self.folder.path / DISCRIMINATOR,
            lambda path: discriminator.save(path, self.chat, dtype),
        )
        if not is_saved and self.trainer.recipe.learns:
            kind = type(self.policy.model).__name__
            progress.say(
                f"no {DISCRIMINATOR}/: transformers has no sequence-classification model for {kind}"
            )
