"""For all tests: no network, one thread, no hub; a place for a run folder."""

import gc
import os
import socket
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# A busy machine is no failure, and every run draws the same examples.
settings.register_profile(
    "uniapl",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("uniapl")

# Before numpy or torch is imported, and inherited by every command a test starts.
os.environ.update(
    HF_DATASETS_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    HF_HUB_OFFLINE="1",
    MKL_NUM_THREADS="1",
    OMP_NUM_THREADS="1",
    TOKENIZERS_PARALLELISM="false",
    TRANSFORMERS_OFFLINE="1",
)
os.environ.pop("UNIAPL_DEBUG", None)


def pytest_collection_finish() -> None:
    """What is loaded by now stays: a collection of garbage, which every saved adapter asks for, looks elsewhere."""
    gc.freeze()


LOOPBACK = ("127.", "::1", "localhost")


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let sockets reach this machine only."""
    for name in ("connect", "connect_ex"):
        original = getattr(socket.socket, name)

        def guarded(self: socket.socket, address: Any, original: Any = original) -> Any:
            is_remote = self.family != socket.AF_UNIX and not str(address[0]).startswith(LOOPBACK)
            if is_remote:
                raise AssertionError(f"a test reached for the network: {address}")
            return original(self, address)

        monkeypatch.setattr(socket.socket, name, guarded)


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """An empty place for a run."""
    return tmp_path / "run"
