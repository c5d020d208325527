"""What `uniapl plan` prints of several devices and of rollout servers."""

from uniapl.planning.devices import GB
from uniapl.planning.plan import RunPlan


def communication_lines(plan: RunPlan) -> list[str]:
    """Return the lines on shares, messages between devices and weights for servers; none for one device alone."""
    devices, moved = plan.devices, plan.communication
    lines: list[str] = []
    if devices.count > 1:
        counts = {
            name: (getattr(plan.busiest, name), getattr(plan.tokens, name))
            for name in ("sampled", "trained", "judged")
        }
        shares = ", ".join(
            f"{own / all_:.0%} of the {name}" for name, (own, all_) in counts.items() if all_
        )
        parts = ", ".join(f"{name} {size / GB:.3g}" for name, size in moved.sent.items())
        seconds = moved.seconds(devices)
        lines += [
            f"busiest device: {shares} tokens",
            f"communication: {moved.total / GB:.3g} GB in and out of each device per step ({parts}), "
            f"{seconds:.3g} seconds at {devices.bandwidth:g} GB/s (--bandwidth)",
            f"    {_MODELS[plan.is_sharded]}, in a ring: × (N - 1)/N; latency is left out, and nothing "
            "overlaps with computing",
        ]
        if seconds:
            lines.append(f"    alone it allows {3600 / seconds:.3g} steps an hour")
    if moved.folder:
        lines.append(
            f"servers: {moved.folder / GB:.3g} GB of weights before every batch, written into a folder and read "
            f"from it: {moved.folder_seconds(devices):.3g} seconds at {devices.folder_bandwidth:g} GB/s "
            "(--folder-bandwidth)"
        )
    return lines


_MODELS = {
    False: "each gradient is summed over all devices once a step: 2 × its bytes",
    True: "each micro-batch gathers its model's weights, twice where it learns, and sums gradients: 1 or 3 × the "
    "model's bytes; a batch of rollouts gathers the policy once",
}
"""Whether weights are shared out → what is sent."""


def waiting_seconds(plan: RunPlan) -> float:
    """Return how long a step waits for other devices and for servers to take over weights."""
    batch = plan.communication.folder_seconds(plan.devices)
    updates = plan.config.rollout.updates_per_rollout
    return plan.communication.seconds(plan.devices) + batch / updates
