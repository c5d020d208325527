"""Which process of a launch this one is, by what launchers say; and what a process alone does."""

import signal
from typing import Any

import pytest
import torch
from torch import distributed as dist

from uniapl import cli
from uniapl.distributed import ALONE, Ranks
from uniapl.distributed.launch import Place, _device_index, first_host, place_of, started
from uniapl.errors import InputError, Stopped, TrainingError, is_said_elsewhere

TORCHRUN = {
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "MASTER_ADDR": "node1",
    "MASTER_PORT": "29500",
}
SRUN = {
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_NTASKS": "8",
    "SLURM_STEP_NODELIST": "gpu[003-004,9]",
    "SLURM_JOB_ID": "1234567",
}


def test_launchers_say_which_process_this_is():
    assert place_of(TORCHRUN) == Place(5, 8, 1)
    assert place_of(SRUN) == Place(5, 8, 1, ("gpu003", 20000 + 1234567 % 20000))
    assert place_of({**SRUN, "MASTER_ADDR": "a", "MASTER_PORT": "7"}).meets_at == ("a", 7)
    assert place_of({}) == Place(0, 1, 0, is_launched=False)


def test_a_plain_process_in_a_batch_script_is_alone():
    """The job's number of tasks is set there as well; nobody else would ever come."""
    job = {"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_JOB_ID": "1"}
    assert place_of(job).size == 1


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        ({"WORLD_SIZE": "2"}, "RANK and WORLD_SIZE must both be set to numbers"),
        ({"WORLD_SIZE": "two", "RANK": "0"}, "RANK and WORLD_SIZE must both be set to numbers"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "not MASTER_ADDR and MASTER_PORT: start with torchrun"),
    ],
)
def test_half_a_launch_is_refused(variables: dict[str, str], line: str):
    with pytest.raises(InputError, match=line):
        place_of(variables)


@pytest.mark.parametrize(
    ("nodes", "host"),
    [
        ("gpu[003-007,9],other", "gpu003"),
        ("a,b", "a"),
        ("node-12", "node-12"),
        ("rack1-[5,7]", "rack1-5"),
        ("", "127.0.0.1"),
    ],
)
def test_the_first_host_of_a_list(nodes: str, host: str):
    assert first_host(nodes) == host


def test_each_process_of_a_host_has_its_device():
    assert _device_index(Place(5, 8, 1), 4) == 1
    assert _device_index(Place(5, 8, 3, ("a", 7)), 1) == 0, "srun shows each task its own"
    with pytest.raises(InputError, match=r"has 2 CUDA devices, and rank 5 is its process number 4"):
        _device_index(Place(5, 8, 3), 2)


def test_a_process_alone_makes_no_group(monkeypatch: pytest.MonkeyPatch):
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    with started() as ranks:
        assert ranks is ALONE
        assert not dist.is_initialized()


def test_sharding_needs_a_launcher(monkeypatch: pytest.MonkeyPatch):
    for name in (*TORCHRUN, *SRUN):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InputError, match="start with torchrun --nproc-per-node N -m uniapl train"):
        started(shards=True).__enter__()


@pytest.mark.parametrize("given", ["soon", "0", "-3"])
def test_a_wrong_timeout_is_refused(monkeypatch: pytest.MonkeyPatch, given: str):
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("UNIAPL_COLLECTIVE_TIMEOUT_SECONDS", given)
    with pytest.raises(InputError, match="COLLECTIVE_TIMEOUT_SECONDS: must be a number of seconds"):
        started().__enter__()


def test_items_are_dealt_in_turn_and_filled_up_in_lockstep():
    def dealt(size: int, **more: Any) -> list[list[tuple[str, bool]]]:
        return [Ranks(rank, size, **more).deal("abc") for rank in range(size)]

    assert dealt(1) == [[("a", True), ("b", True), ("c", True)]]
    assert dealt(2) == [[("a", True), ("c", True)], [("b", True)]]
    assert dealt(2, in_lockstep=True)[1] == [("b", True), ("a", False)]
    assert dealt(4, in_lockstep=True)[3] == [("a", False)]
    assert Ranks(1, 2, in_lockstep=True).deal("") == []


def test_alone_everything_is_as_it_was():
    values = torch.tensor([1.0, float("nan")])
    ALONE.sum_([values], "nothing")
    assert values[0] == 1
    assert ALONE.blank(2, torch.device("cpu")).isnan().all()
    assert ALONE.sums({"a": 0.1}, "nothing") == {"a": 0.1}
    assert ALONE.spread([3, 1], lambda own: [x + 1 for x in own], "nothing") == [4, 2]
    assert ALONE.largest(7, "nothing") == 7
    assert ALONE.hosts() == []
    with pytest.raises(ZeroDivisionError):  # as it is: nobody else must hear of it
        ALONE.share(lambda: 1 // 0, "nothing")


def test_before_ranks_meet_the_first_one_speaks(monkeypatch: pytest.MonkeyPatch):
    error = InputError("a typo in a config, which all ranks find")
    monkeypatch.setenv("RANK", "0")
    assert not is_said_elsewhere(error)
    monkeypatch.setenv("RANK", "1")
    assert is_said_elsewhere(error)
    assert is_said_elsewhere(OSError("the same"))
    for settled in (TrainingError("met by this rank alone"), Stopped(signal.SIGTERM)):
        settled.is_said_elsewhere = False
        assert not is_said_elsewhere(settled)


def test_only_train_is_started_as_ranks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    for name, value in {**TORCHRUN, "RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    assert cli.main(["compare", "miniature"]) == 2
    expected = "error: uniapl compare is one process; start it without torchrun\n"
    assert capsys.readouterr().err == expected
    monkeypatch.setenv("RANK", "1")
    assert cli.main(["compare", "miniature"]) == 2
    assert capsys.readouterr().err == ""
