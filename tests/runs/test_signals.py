"""Signals: the step is finished and saved, and the run that goes on is the run that was never stopped."""

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import Tiny, assert_same_run, rows

from uniapl.errors import Stopped
from uniapl.runs import run as run_module
from uniapl.runs.checkpoint import checkpoint_steps
from uniapl.runs.signals import STOPPING, interrupts
from uniapl.training.step import Trainer


@pytest.mark.parametrize("number", STOPPING)
def test_the_first_signal_is_a_flag_the_second_stops(number: signal.Signals, capsys):
    before = signal.getsignal(number)
    with interrupts() as interrupt:
        assert not interrupt.is_set
        signal.raise_signal(number)
        assert interrupt.is_set
        shown = capsys.readouterr().err
        if number == signal.SIGINT:
            assert "press Ctrl-C again to stop at once" in shown
        else:
            assert f"\n{number.name}: finishing the step, then saving; a second signal" in shown
        with pytest.raises(Stopped) as caught:
            signal.raise_signal(number)
    assert signal.getsignal(number) is before
    assert caught.value.status == 128 + number
    assert isinstance(caught.value, KeyboardInterrupt)


def test_what_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interrupts() as interrupt:
            signal.raise_signal(signal.SIGHUP)
            assert not interrupt.is_set
    finally:
        signal.signal(signal.SIGHUP, before)


def test_handlers_are_given_back_after_an_error():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(RuntimeError), interrupts():
        raise RuntimeError
    assert signal.getsignal(signal.SIGINT) is before


def test_another_thread_trains_without_signals():
    seen = []

    def work() -> None:
        with interrupts() as interrupt:
            seen.append(interrupt.is_set)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]


def interrupt_in_step(monkeypatch: pytest.MonkeyPatch, step: int, owner: Any, name: str) -> None:
    """Send SIGINT in the middle of a step (from 1)."""
    original = getattr(owner, name)
    calls = 0

    def interrupted(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == step:
            os.kill(os.getpid(), signal.SIGINT)
        return original(*arguments, **named)

    monkeypatch.setattr(owner, name, interrupted)


@pytest.mark.parametrize(
    ("words", "saved"),
    [
        ((), 3),
        (("rollout.updates_per_rollout=2",), 4),  # a half used rollout batch cannot be saved
    ],
)
def test_a_stopped_run_goes_on_to_the_same_end(
    tiny: Tiny, tmp_path: Path, monkeypatch, capsys, words: tuple[str, ...], saved: int
):
    words = (*words, "training.steps=6", "training.checkpoint_every=0")
    straight = tiny.train(tmp_path / "straight", *words)
    with monkeypatch.context() as patch:
        interrupt_in_step(patch, 3, Trainer, "_apply")
        with pytest.raises(KeyboardInterrupt):
            tiny.train(tmp_path / "stopped", *words)
    assert (
        capsys.readouterr()
        .err.splitlines()[-1]
        .endswith(f" INFO saved step {saved}; go on with training.resume=auto")
    )
    assert checkpoint_steps(tmp_path / "stopped" / "checkpoints") == [saved]
    assert len(rows(tmp_path / "stopped")) == saved
    assert not (tmp_path / "stopped" / "policy").exists()
    tiny.train(tmp_path / "stopped", *words, "training.resume=auto")
    assert_same_run(tmp_path / "stopped", straight)


def test_in_the_last_step_it_changes_nothing(tiny: Tiny, tmp_path: Path, monkeypatch):
    words = ("method=sft", "training.steps=2")
    interrupt_in_step(monkeypatch, 2, Trainer, "train_step")
    run = tiny.train(tmp_path / "run", *words)
    assert (run / "policy" / "model.safetensors").exists()


def test_twice_stops_at_once(tiny: Tiny, run_folder: Path, monkeypatch):
    """Here while a checkpoint is being written: the earlier one stays, the new one leaves nothing."""
    interrupt_in_step(monkeypatch, 3, Trainer, "train_step")
    save = run_module.save_checkpoint

    def interrupted(folder: Path, step: int, save_policy: Any, *rest: Any) -> Any:
        def interrupted_save(path: Path) -> None:
            save_policy(path)
            if step == 3:
                os.kill(os.getpid(), signal.SIGINT)

        return save(folder, step, interrupted_save, *rest)

    monkeypatch.setattr(run_module, "save_checkpoint", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tiny.train(run_folder, "method=sft")
    assert checkpoint_steps(run_folder / "checkpoints") == [2]
    assert list(run_folder.rglob(".*.writing")) == []
