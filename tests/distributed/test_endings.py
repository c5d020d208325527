"""Ranks that are killed, raise, hang or get a signal, as users see it: time to the end, and the line. Minutes long."""

import os
import random
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from launches import TESTS, TORCHRUN, launch
from tiny_runs import Tiny, assert_same_run, contents, repeatable

from uniapl.runs.checkpoint import checkpoint_steps

pytestmark = pytest.mark.long

REWARD = '''
import os, signal, time
def acting(completions, trainer_state=None, **columns):
    """What the second rank does in the third step."""
    if os.environ.get("RANK") == "1" and trainer_state.global_step == 2:
        print("ACTS", time.time(), flush=True)
        how = os.environ["HOW"]
        if how == "raise":
            raise ValueError("no such thing")
        if how == "hang":
            time.sleep(100)
        os.kill(os.getpid(), getattr(signal, how))
    return [0.0] * len(completions)
'''
LIMIT = 45.0
"""Seconds on a busy machine; the reward that hangs does so for longer."""
NEVER_EVALUATED = "evaluation.prompts=null"


@pytest.mark.parametrize(
    ("how", "line"),
    [
        ("raise", r"error: reward acting raised ValueError: no such thing"),
        ("SIGKILL", r"error: rank 0 has lost another rank in rewards: it was killed"),
        ("hang", r"error: rank 0 has waited 8 seconds for the others in rewards"),
        ("SIGUSR1", r"saved step 3; go on with training.resume=auto"),
    ],
)
def test_all_end_with_one_line(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, line: str
):
    (tmp_path / "acting.py").write_text(REWARD)
    monkeypatch.setenv("HOW", how)
    monkeypatch.setenv("UNIAPL_COLLECTIVE_TIMEOUT_SECONDS", "8")
    words = ("training.steps=6", NEVER_EVALUATED, f"output_dir={tmp_path / 'run'}")
    rewards = (
        f"rewards=[{{function: instructions}}, {{function: '{tmp_path / 'acting.py'}:acting'}}]"
    )
    done = launch(2, "-m", "uniapl", "train", str(tiny.config), *words, rewards)
    ended = time.time()
    assert done.returncode != 0
    assert len(re.findall(r"^error: |saved step|^interrupted", done.stderr, re.M)) == (
        2 if how == "SIGUSR1" else 1
    ), done.stderr[-3000:]
    assert re.search(line, done.stderr), done.stderr[-3000:]
    assert "Traceback" not in done.stderr.partition("torch/distributed")[0]
    acted = re.search(r"ACTS ([\d.]+)", done.stdout)
    assert acted
    assert ended - float(acted.group(1)) < LIMIT


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_launcher_saves_once(tiny: Tiny, tmp_path: Path, number: signal.Signals):
    words = ("training.steps=4000", "training.checkpoint_every=0", NEVER_EVALUATED)
    run = tmp_path / "run"
    process = start(2, tiny, run, *words)
    wait_for_steps(run, 3)
    process.send_signal(number)
    _, error = process.communicate(timeout=300)
    assert error.count("saved step") == 1
    assert error.count("finishing the step, then saving") == 1
    assert len(checkpoint_steps(run / "checkpoints")) == 1
    assert not list(run.rglob("*.writing"))


@pytest.mark.parametrize("sharding", ["none", "full"])
def test_saved_at_two_goes_on_at_one_two_and_three(tiny: Tiny, tmp_path: Path, sharding: str):
    words = (f"training.sharding={sharding}", "training.steps=4")
    straight = trained(2, tiny, tmp_path / "straight", *words)
    for size in (1, 2, 3):
        run = tmp_path / f"on {size}"
        resume = f"training.resume={straight / 'checkpoints' / 'step_000002'}"
        trained(size, tiny, run, *words, resume)
        for row, own in zip(repeatable(straight), repeatable(run), strict=True):
            for name, value in row.items():
                assert own[name] == pytest.approx(value, abs=1e-4), name
        if size == 2:
            assert repeatable(straight) == repeatable(run)
            policy = "policy/model.safetensors"
            assert contents(straight)[policy] == contents(run)[policy]


@pytest.mark.parametrize("sharding", ["none", "full"])
def test_ranks_killed_at_random_go_on_to_the_same_end(tiny: Tiny, tmp_path: Path, sharding: str):
    words = (f"training.sharding={sharding}", "training.steps=40", "training.evaluate_every=20")
    straight = trained(2, tiny, tmp_path / "straight", *words)
    draw, run, num_kills = random.Random(0), tmp_path / "killed", 0
    for _ in range(10):
        process = start(2, tiny, run, *words, "training.resume=auto")
        time.sleep(draw.uniform(4, 16))
        ranks = [pid for pid in children(process.pid) if pid != process.pid]
        if ranks and process.poll() is None:
            os.kill(draw.choice(ranks), signal.SIGKILL)
            num_kills += 1
        process.communicate(timeout=300)
    assert num_kills >= 5, "the run must not have ended before it was killed a few times"
    trained(2, tiny, run, *words, "training.resume=auto")
    assert_same_run(run, straight)


def test_one_rank_of_a_launcher_has_the_bits_of_a_plain_process(tiny: Tiny, tmp_path: Path):
    assert_same_run(trained(1, tiny, tmp_path / "launched"), tiny.train(tmp_path / "plain"))


def trained(size: int, tiny: Tiny, run: Path, *words: str) -> Path:
    done = launch(size, "-m", "uniapl", "train", str(tiny.config), f"output_dir={run}", *words)
    assert done.returncode == 0, done.stderr[-3000:]
    return run


def start(size: int, tiny: Tiny, run: Path, *words: str) -> "subprocess.Popen[str]":
    path = os.pathsep.join(map(str, (TESTS.parent / "src", TESTS)))
    command = [*TORCHRUN, f"--nproc-per-node={size}"]
    return subprocess.Popen(
        [*command, "-m", "uniapl", "train", str(tiny.config), f"output_dir={run}", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )


def wait_for_steps(run: Path, count: int) -> None:
    deadline = time.monotonic() + 300
    metrics = run / "metrics.jsonl"
    while not metrics.exists() or len(metrics.read_text().splitlines()) < count:
        assert time.monotonic() < deadline
        time.sleep(0.2)


def children(pid: int) -> list[int]:
    """The processes that a launcher has started."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in found]
