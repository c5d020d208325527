"""`uniapl env`: versions, devices, threads and memory, for a bug report."""

import argparse
import json
from typing import Any


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command and its handler to its parser."""
    parser.add_argument("--json", action="store_true", help="the same as JSON")
    parser.set_defaults(handler=_env)


def _env(options: argparse.Namespace) -> None:
    from uniapl.machine import machine

    found = machine()
    print(json.dumps(found, indent=2) if options.json else "\n".join(_lines(found)))


def _gib(size: float | None) -> str:
    return "unknown" if size is None else f"{size} GiB"


def _lines(found: dict[str, Any]) -> list[str]:
    torch, memory = found["torch"], found["memory_gib"]
    packages = {name: text for name, text in found["packages"].items() if text}
    missing = [name for name, text in found["packages"].items() if not text]
    rows = [
        ("uniapl", f"{found['uniapl']} in {found['installed_in']}"),
        ("git commit", found["git_commit"] or "none"),
        ("python", found["python"]),
        ("platform", found["platform"]),
        ("processor", f"{found['processor']}, {found['cores']} cores for this process"),
        ("memory", f"{_gib(memory['total'])}, {_gib(memory['free'])} free"),
    ]
    if "error" in torch:
        rows.append(("torch", f"cannot be loaded: {torch['error']}"))
    else:
        build = f"CUDA {torch['cuda']}" if torch["cuda"] else "built for CPUs"
        rows += [
            ("torch", f"{torch['version']}, {build}, {torch['cpu_capability']}"),
            ("threads", torch["threads"]),
        ]
        rows += [
            (
                one["name"],
                f"{one['model']}, capability {one['capability']}, {one['memory_gib']} GiB, "
                f"{one['free_gib']} GiB free",
            )
            for one in torch["devices"]
        ] or [("devices", "cpu alone")]
    rows += [
        ("packages", ", ".join(f"{name} {text}" for name, text in packages.items())),
        ("not installed", ", ".join(missing) or "nothing"),
        ("variables", ", ".join(f"{k}={v}" for k, v in found["variables"].items()) or "none"),
    ]
    width = max(len(name) for name, _ in rows)
    return [f"{name:<{width}}  {text}" for name, text in rows]
