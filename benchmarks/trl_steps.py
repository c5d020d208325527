"""TRL's two trainers, one step of each at a time, so that they can take turns with ours.

A trainer runs in a thread of its own and waits at the beginning of every optimiser step: only public API, and
what TRL does between steps (its logging) is not counted.
"""

import os
import tempfile
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import torch
from transformers import Trainer, TrainerCallback

from benchmarks.shapes import build_model

# TRL reports every trainer that is built unless told not to.
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"


class TrlSteps:
    """One optimiser step of GRPOTrainer and one of SFTTrainer per `step`, set as README.md says."""

    def __init__(self, work: Any, learning_rate: float) -> None:
        self._folder = tempfile.TemporaryDirectory()
        from benchmarks.step import num_steps_of

        options = work.options
        device = torch.device(options.device)
        # the tuned preset: weights in bfloat16 where there is a GPU for it
        self._dtype = getattr(torch, options.dtype)
        self._common: dict[str, Any] = {
            "output_dir": self._folder.name,
            "learning_rate": learning_rate,
            "lr_scheduler_type": "constant",
            "max_steps": num_steps_of(options),
            "bf16": self._dtype == torch.bfloat16,
            "gradient_checkpointing": False,
            "use_cpu": device.type == "cpu",
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "dataloader_pin_memory": False,
        }
        self._build_model: Callable[[], Any] = lambda: build_model(
            options.shape, self._dtype, device
        )
        self.trainers = (self._grpo(work), self._sft(work))
        self._turns = [_Paused(trainer) for trainer in self.trainers]

    def step(self) -> None:
        """Let both trainers take one step, one after the other."""
        for turn in self._turns:
            turn.step()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        for turn in self._turns:
            turn.close()
        self._folder.cleanup()

    def _grpo(self, work: Any) -> Trainer:
        from datasets import Dataset  # pyright: ignore[reportMissingImports]
        from trl import GRPOConfig, GRPOTrainer  # pyright: ignore[reportMissingImports]

        from benchmarks.step import distinct_words

        options = work.options
        num_rollouts = options.prompts * options.group_size
        size = _micro_batch(
            num_rollouts, options.micro_batch_tokens, options.prompt_length + options.tokens
        )
        config = GRPOConfig(
            **self._common,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=num_rollouts // size,
            num_generations=options.group_size,
            max_completion_length=options.tokens,
            # nothing ends a turn, as on our side; no processor of logits is added for it
            generation_kwargs={"eos_token_id": None},
        )
        return GRPOTrainer(
            model=self._build_model(),
            reward_funcs=distinct_words,
            args=config,
            train_dataset=Dataset.from_dict({"prompt": [work.text(p) for p in work.prompts]}),
            processing_class=work.tokenizer,
        )

    def _sft(self, work: Any) -> Trainer:
        from datasets import Dataset  # pyright: ignore[reportMissingImports]
        from trl import SFTConfig, SFTTrainer  # pyright: ignore[reportMissingImports]

        options = work.options
        size = _micro_batch(
            options.demonstrations,
            options.micro_batch_tokens,
            options.prompt_length + options.tokens,
        )
        config = SFTConfig(
            **self._common,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=options.demonstrations // size,
        )
        # a leading space keeps the last word of the prompt and the first of the completion apart
        rows = [
            {"prompt": work.text(prompt), "completion": " " + work.text(completion)}
            for prompt, completion in work.shown
        ]
        return SFTTrainer(
            model=self._build_model(),
            args=config,
            train_dataset=Dataset.from_list(rows),
            processing_class=work.tokenizer,
        )


def _micro_batch(num_sequences: int, max_tokens: int, length: int) -> int:
    """Return the greatest divisor of the number of sequences whose tokens stay within the limit."""
    fitting = [n for n in range(1, num_sequences + 1) if num_sequences % n == 0]
    return max(n for n in fitting if n == 1 or n * length <= max_tokens)


class _Over(Exception):
    """Ends a trainer that waits for its turn."""


class _Paused(TrainerCallback):
    """A trainer that takes one optimiser step when it is told to."""

    def __init__(self, trainer: Trainer) -> None:
        trainer.add_callback(self)
        self._may_begin, self._has_ended = threading.Semaphore(0), threading.Semaphore(0)
        self._is_over = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._train, args=(trainer,), daemon=True)
        self._thread.start()

    def step(self) -> None:
        self._may_begin.release()
        self._has_ended.acquire()
        if self._error:
            raise self._error

    def close(self) -> None:
        self._is_over = True
        self._may_begin.release()
        self._thread.join()

    def on_step_begin(self, *_args: Any, **_kwargs: Any) -> None:
        self._may_begin.acquire()
        if self._is_over:
            raise _Over

    def on_step_end(self, *_args: Any, **_kwargs: Any) -> None:
        self._has_ended.release()

    def _train(self, trainer: Trainer) -> None:
        try:
            trainer.train()
        except _Over:
            pass
        except BaseException as error:  # raised again where the step was asked for
            self._error = error
            self._has_ended.release()
