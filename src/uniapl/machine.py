"""What numbers depend on besides a config: versions, devices, threads, memory, where the code came from.

A run writes a part of it into its folder, `uniapl env` prints all. A package that is missing or broken is said,
never raised: this is what a bug report begins with.
"""

import os
import platform
import re
import subprocess
import sys
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from uniapl.errors import one_line

GIB = 2**30
_DEVELOPMENT = re.compile(r"extra == .(dev|bench).")


def environment(device: str) -> dict[str, Any]:
    """Return what a run's `environment.json` says of the process that trains on `device`."""
    import torch

    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "git_commit": git_commit(),
        "versions": {
            "python": platform.python_version(),
            "uniapl": uniapl_version(),
            **{name: version(name) for name in ("torch", "transformers", "numpy")},
        },
        "platform": platform.platform(),
        "device": device,
        "threads": torch.get_num_threads(),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
    }


def machine() -> dict[str, Any]:
    """Return everything that a bug report should say."""
    return {
        "uniapl": uniapl_version(),
        "git_commit": git_commit(),
        "installed_in": str(Path(__file__).parent),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": num_cores(),
        "memory_gib": _memory_gib(),
        "torch": _torch(),
        "packages": package_versions(),
        "variables": {
            name: value
            for name, value in sorted(os.environ.items())
            if name in _VARIABLES or name.startswith(("OMP_", "MKL_"))
        },
    }


_VARIABLES = (
    "CUDA_VISIBLE_DEVICES",
    "GLIBC_TUNABLES",
    "HF_HOME",
    "HF_HUB_OFFLINE",
    "PYTORCH_ALLOC_CONF",
    "PYTORCH_CUDA_ALLOC_CONF",
    "TOKENIZERS_PARALLELISM",
    "UNIAPL_DEBUG",
)
"""Environment variables that change how a run goes; none holds a secret."""


def uniapl_version() -> str:
    """Return the version of the code that runs; the metadata of an installed one may be another's."""
    # by name: an import of the package would name every room that it offers
    found: str = import_module("uniapl").__version__
    return found


def package_versions() -> dict[str, str | None]:
    """Return the version of every package that uniapl or an extra for its users asks for; None: not installed."""
    try:
        asked = requires("uniapl") or []
    except PackageNotFoundError:  # the source runs without being installed
        asked = ["torch", "transformers", "numpy"]
    names = sorted({_name(one) for one in asked if not _DEVELOPMENT.search(one)})
    return {name: _version(name) for name in names}


def _name(requirement: str) -> str:
    for end, character in enumerate(requirement):
        if not (character.isalnum() or character in "-_."):
            return requirement[:end]
    return requirement


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _torch() -> dict[str, Any]:
    """Return torch's build, threads and devices, or why it cannot be loaded."""
    try:
        import torch
    except Exception as error:  # a missing library of the system, a build for another processor
        return {"error": f"{type(error).__name__}: {one_line(error)}"}
    devices = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        found = torch.cuda.get_device_properties(index)
        free, total = torch.cuda.mem_get_info(index)
        devices.append(
            {
                "name": f"cuda:{index}",
                "model": found.name,
                "capability": f"{found.major}.{found.minor}",
                "memory_gib": round(total / GIB, 1),
                "free_gib": round(free / GIB, 1),
            }
        )
    return {
        "version": torch.__version__,
        "cuda": torch.version.cuda,
        "devices": devices,
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }


def _processor() -> str:
    """Return the name that Linux gives the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.machine()
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.machine()


def num_cores() -> int:
    """Return how many cores this process may use; where the system does not say, how many there are."""
    has_affinity = hasattr(os, "sched_getaffinity")  # macOS and Windows have none
    return len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1


def _memory_gib() -> dict[str, float | None]:
    """Return the memory; None where the system does not say: macOS knows no free pages, Windows no sysconf."""
    found: dict[str, float | None] = {}
    for name, pages in (("total", "SC_PHYS_PAGES"), ("free", "SC_AVPHYS_PAGES")):
        try:
            found[name] = round(os.sysconf(pages) * os.sysconf("SC_PAGE_SIZE") / GIB, 1)
        except (AttributeError, ValueError, OSError):
            found[name] = None
    return found


def git_commit() -> str | None:
    """Return the commit of the checkout that the code runs from; None if it is installed without one."""
    folder = Path(__file__).parent
    try:
        result = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() or None if result.returncode == 0 else None
