"""What `uniapl plan` prints: memory by player and phase, tokens, work, and time where a run has measured it."""

import shutil
from pathlib import Path

from uniapl.config import load_config
from uniapl.errors import InputError
from uniapl.models.language_model import LOGIT_CHUNK_TOKENS
from uniapl.planning.devices_text import communication_lines, waiting_seconds
from uniapl.planning.plan import RunPlan
from uniapl.runs.metrics import read_rows

GIB = 2**30
FORWARD, BACKWARD = 2, 4
"""Floating-point operations per weight and token; the backward pass of frozen weights needs half."""


def plan_lines(plan: RunPlan, measured: Path | None = None) -> list[str]:
    """Return the lines of a plan.

    Args:
        plan: As made.
        measured: A run folder of the same model, whose speed says how long this one takes.

    Raises:
        InputError: That run is of another model, or has no steps.
    """
    return [
        *_memory(plan),
        _disk(plan),
        "",
        *_tokens(plan),
        *communication_lines(plan),
        _time(plan, measured),
    ]


def check_fits(plan: RunPlan) -> None:
    """Refuse a run that its devices cannot hold.

    Raises:
        InputError: The peak is above their memory; the line says which part, and what to do.
    """
    if not plan.fits:
        each = "" if plan.devices.count == 1 else " on each device"
        raise InputError(
            f"the run needs {_gib(plan.peak)} GiB{each}, in {plan.worst_phase}: {_verdict(plan)}"
        )


def _memory(plan: RunPlan) -> list[str]:
    config = plan.config
    lines = [
        f"{config.method}, {plan.num_weights / 1e6:.3g}M weights, {config.model.tuning} tuning, "
        f"{config.model.dtype}; {_devices(plan)}",
        "",
        f"{'GiB' if plan.devices.count == 1 else 'GiB on each':16}{'weights':>10}{'optimiser':>11}{'gradients':>11}",
    ]
    for name, role in plan.roles.items():
        sizes = (role.weights, role.optimizer, role.trained)
        shared = "" if role.weights else "   shares the policy's weights"
        lines.append(
            f"{name:16}{_gib(sizes[0]):>10}{_gib(sizes[1]):>11}{_gib(sizes[2]):>11}{shared}"
        )
    lines += ["", f"{'phase':16}{'peak':>10}   weights, optimiser and of the phase itself"]
    for name, phase in plan.phases.items():
        parts = ", ".join(f"{part} {_gib(size)}" for part, size in phase.parts.items())
        lines.append(f"{name:16}{_gib(plan.resident + phase.needed):>10}   {parts}")
    if plan.heap:
        lines.append(f"{'heap':16}{_gib(plan.heap):>10}   freed, but kept by the C library")
    vocabulary, chunk = plan.vocabulary, LOGIT_CHUNK_TOKENS
    lines += [
        f"(in activations: logits of {chunk} positions, {_gib(4 * vocabulary * chunk)} per copy)",
        "",
        f"peak {_gib(plan.peak)} GiB, in {plan.worst_phase}: {_verdict(plan)}",
    ]
    return lines


def _disk(plan: RunPlan) -> str:
    """Say what the run folder takes, and whether there is room where it will be."""
    config = plan.config
    folder = Path(config.output_dir).expanduser().absolute()
    folder = next(place for place in (folder, *folder.parents) if place.exists())
    free = shutil.disk_usage(folder).free
    if plan.disk <= free:
        verdict = f"fits the {_size(free)} that are free in {folder}"
    else:
        keep = config.training.keep_checkpoints
        knob = f"lower training.keep_checkpoints ({keep})" if keep > 1 else "set model.tuning=lora"
        verdict = f"does not fit the {_size(free)} that are free in {folder}: {knob}"
    return (
        f"disk {_size(plan.disk)}: {plan.num_checkpoints} × {_size(plan.checkpoint)} of checkpoints "
        f"(training.keep_checkpoints={config.training.keep_checkpoints}, the best one, one being written), "
        f"{_size(plan.results)} of models at the end; {verdict}"
    )


def _size(size: int) -> str:
    return f"{size / GIB:.3g} GiB" if size >= GIB / 10 else f"{size / 2**20:.3g} MiB"


def _devices(plan: RunPlan) -> str:
    devices = plan.devices
    if devices.count == 1:
        return f"device {devices.kind} with {devices.memory / GIB:.1f} GiB"
    kind = "processes that share" if devices.kind == "cpu" else f"{devices.kind} devices with"
    each = "" if devices.kind == "cpu" else " each"
    sharding = plan.config.training.sharding
    return (
        f"{devices.count} {kind} {devices.memory / GIB:.1f} GiB{each}, training.sharding {sharding}"
    )


def _verdict(plan: RunPlan) -> str:
    devices = plan.devices
    if plan.fits:
        return "fits"
    if devices.count == 1:
        where = "of the device"
    elif devices.kind == "cpu":
        where = f"that {devices.count} processes share"
    else:
        where = "of a device"
    return f"does not fit the {devices.memory / GIB:.1f} GiB {where}: {_knob(plan)}"


def _knob(plan: RunPlan) -> str:
    """Say which key to change: the one behind the largest part."""
    config, phase = plan.config, plan.phases[plan.worst_phase]
    whole = phase.parts.get("whole policy", 0)
    if whole and plan.worst_phase in ("judge", "update"):
        return "set rollout.cache=dynamic"
    share_memory = plan.devices.kind == "cpu" and plan.devices.count > 1
    room = plan.devices.memory / (plan.devices.count if share_memory else 1)
    # with nothing but the weights that stay and the whole policy it would not fit either
    is_whole = whole > 0 and plan.resident + whole > room
    if is_whole or plan.resident > phase.needed or plan.worst_phase in ("sum", "save"):
        if share_memory:
            return "start fewer processes on this host"
        if is_whole and plan.worst_phase == "evaluation":
            return "set evaluation.prompts=null and evaluate after the run"
        if is_whole and plan.worst_phase == "rollout":
            return "sample on servers (rollout.engine=vllm), or take devices with more memory"
        if plan.is_sharded:
            return f"take more devices than {plan.devices.count}"
        if config.model.tuning == "full" and plan.devices.count > 1:
            return "set training.sharding=full"
        if config.model.tuning == "full":
            return "set model.tuning=lora"
        if "discriminator" in plan.roles and config.discriminator.backbone == "copy":
            return "set discriminator.backbone=lora"
        return (
            "set model.dtype=bfloat16"
            if config.model.dtype == "float32"
            else "take a smaller model"
        )
    if plan.worst_phase in ("rollout", "evaluation"):
        return f"lower rollout.max_rows ({config.rollout.max_rows})"
    if not config.training.gradient_checkpointing:
        return "set training.gradient_checkpointing=true"
    return f"lower training.micro_batch_tokens ({config.training.micro_batch_tokens})"


def _tokens(plan: RunPlan) -> list[str]:
    steps, tokens = plan.config.training.steps, plan.tokens
    counts = {"sampled": tokens.sampled, "trained": tokens.trained, "judged": tokens.judged}
    lines = [
        f"{'tokens':16}{'per step':>10}{f'{steps} steps':>16}   if every rollout reaches its limit"
    ]
    lines += [
        f"{name:16}{count:>10,}{count * steps:>16,}" for name, count in counts.items() if count
    ]
    return [
        *lines,
        f"compute: {_operations(plan) * steps:.2g} floating-point operations, attention aside",
    ]


def _operations(plan: RunPlan) -> float:
    """Return the floating-point operations of one step in matrix products with weights."""
    config, tokens = plan.config, plan.tokens
    again = FORWARD if config.training.gradient_checkpointing else 0

    def learning(is_full: bool) -> int:
        return FORWARD + again + (BACKWARD if is_full else BACKWARD // 2)

    own = FORWARD * tokens.sampled + learning(config.model.tuning == "full") * tokens.trained
    is_full = config.discriminator.backbone == "copy"
    judging = learning(is_full) if plan.judge_learns else FORWARD
    return plan.num_weights * own + plan.num_judging * judging * tokens.judged


def _time(plan: RunPlan, measured: Path | None) -> str:
    if measured is None:
        return "time: --measured RUN takes the speed of a run of the same model"
    more = ""
    if plan.devices.count > 1:
        more = ", the busiest device's share of it and what was said of waiting"
    if not (measured / "config.yaml").exists():
        raise InputError(f"--measured: {measured} is not a run folder")
    other, own = load_config(measured / "config.yaml"), plan.config
    for key in ("path", "dtype", "tuning"):
        if getattr(other.model, key) != getattr(own.model, key):
            raise InputError(
                f"--measured: {measured} has model.{key} {getattr(other.model, key)}, "
                f"the config {getattr(own.model, key)}"
            )
    rows = read_rows(measured / "metrics.jsonl")
    if not rows:
        raise InputError(f"--measured: {measured} has no steps yet")
    done = {name: rows[-1].get(f"data/{name}_tokens") or 0 for name in ("sampled", "trained")}

    def seconds_per_token(stage: str, tokens: float) -> float:
        return sum(row.get(f"time/{stage}_seconds") or 0.0 for row in rows) / max(tokens, 1)

    tokens = plan.busiest
    # the tokens that the discriminator judges are about those that train the policy
    per_step = (
        tokens.sampled * seconds_per_token("rollout", done["sampled"])
        + tokens.trained * seconds_per_token("update", done["trained"])
        + tokens.judged * seconds_per_token("discriminator", done["trained"])
    )
    per_step += waiting_seconds(plan)
    minutes = per_step * own.training.steps / 60
    total = f"{minutes:.2g} minutes" if minutes < 100 else f"{minutes / 60:.2g} hours"
    return (
        f"time: at most {total}, {per_step:.3g} seconds a step, {3600 / per_step:.3g} steps an hour, "
        f"at the speed of {measured}{more}; evaluations not counted"
    )


def _gib(size: int) -> str:
    return f"{size / GIB:.2f}" if size else "-"
