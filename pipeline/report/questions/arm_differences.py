"""How arms differ apart from their results: parameters, base models, hosts."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.report.records import Member, ReportedArm

# do not affect the result, or differ in every comparison
IGNORED_PARAMS = (
    "seed", "base", "data_dir", "register_as", "dry_run", "checkpoint_every", "folder", "workers", "study",
    "params_from",
)  # fmt: skip


def differing_params(arms: Sequence[ReportedArm]) -> dict[str, list[str]]:
    """Return the parameters that all arms have but with different values, each with one value per arm."""
    shared = sorted(set.intersection(*map(_param_names, arms)))
    values = {name: [arm.parameter(name) for arm in arms] for name in shared}
    return {name: by_arm for name, by_arm in values.items() if len(set(by_arm)) > 1}


def extra_params(arms: Sequence[ReportedArm]) -> dict[str, list[str]]:
    """Return the parameters that only some arms have, as `name value` texts by the arm's label."""
    shared = set.intersection(*map(_param_names, arms))
    extra = {
        arm.label: [f"{name} {arm.parameter(name)}" for name in sorted(_param_names(arm) - shared)] for arm in arms
    }
    return {label: texts for label, texts in extra.items() if texts}


def _param_names(arm: ReportedArm) -> set[str]:
    return {name for member in arm.members for name in member.run.params} - set(IGNORED_PARAMS)


def base_arms(arms: Sequence[ReportedArm]) -> list[tuple[ReportedArm, ReportedArm]]:
    """Return (arm, base arm) for each arm that reuses weights of another of the arms.

    Arms that are trained from scratch also have a base, whose architecture they take; they are left out.
    """
    owner = {member.run.run_id: arm.name for arm in arms for member in arm.members}
    by_name = {arm.name: arm for arm in arms}
    return [
        (arm, by_name[name])
        for arm in arms
        if arm.entry_point != "scratch_cnn" and arm.parameter("reuse_layers") != "0"
        for name in dict.fromkeys(owner[run_id] for run_id in arm.base_run_ids if run_id in owner)
    ]


def incomparable_times(arms: Sequence[ReportedArm]) -> str:
    """Return why the times of arms cannot be compared; empty if all ran on one device of one known host."""
    machines = sorted({_machine(member) for arm in arms for member in arm.members})
    if len(machines) < 2 and "" not in machines:
        return ""
    cached = "cached " if any(member.reused for arm in arms for member in arm.members) else ""
    listed = ", ".join(machine or "unknown" for machine in machines)
    return f"Times are not compared: {cached}runs come from more than one host or device ({listed})."


def _machine(member: Member) -> str:
    """Return the host, and the device unless it is the CPU; empty if the host is unknown."""
    host, device = member.host, member.run.params.get("device", "cpu")
    return f"{host} ({device})" if host and device != "cpu" else host
