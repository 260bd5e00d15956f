"""What was measured as tables of texts: titles and rows, for the terminal and for the page."""

from collections.abc import Sequence

import numpy as np

from aweigh.errors import counted
from aweigh.profiling.advice import Advised
from aweigh.profiling.cost import NOWHERE
from aweigh.profiling.guidelines import Found
from aweigh.profiling.machine import Machine
from aweigh.profiling.operators import Operator
from aweigh.profiling.sweep import Sweep
from aweigh.profiling.timing import Profile, Reached, Share

FEW = 4  # backbone, neck, head, and what stands outside them
CLEAN = "No part breaks a guideline."
Table = tuple[Sequence[str], list[Sequence[str]]]


def sweep_table(found: Sweep) -> Table:
    """A row for each setting, in the order in which they were asked for; the last column compares with the first."""
    titles = (
        "network", "engine", "format", "size", "batch", "threads", "p50 ms", "p95", "p99", "images/s", "first call",
        "memory", "times as fast",
    )  # fmt: skip
    rows: list[Sequence[str]] = []
    for row in found.rows:
        setting = row.setting
        rows.append(
            (
                setting.model, setting.engine, setting.shown_format, str(setting.size), str(setting.batch),
                str(setting.cores), *(f"{value:.1f}" for value in row.ms.values()), f"{row.images_per_second:.1f}",
                f"{row.first_s:.2f} s", "-" if row.memory_mib is None else f"{row.memory_mib:.0f} MiB",
                f"{row.images_per_second / found.rows[0].images_per_second:.2f}",
            )
        )  # fmt: skip
    return titles, rows


def share_table(what: str, shares: Sequence[Share]) -> Table:
    """Where the time goes. what: the rows are."""
    titles = (what, "calls", "ms", "share", "GFLOP/s", "ms at the roof", "times the roof")
    rows: list[Sequence[str]] = []
    for share in shares:
        roof = ("-", "-")
        if share.at_roof:
            roof = (f"{share.at_roof * 1000:.2f}", f"{share.seconds / share.at_roof:.1f}")
        rate = f"{share.gflops:.0f}" if share.gflops else "-"
        rows.append((share.name, str(share.calls), f"{share.seconds * 1000:.2f}", f"{share.of_whole:.0%}", rate, *roof))
    return titles, rows


def parts_of(profile: Profile) -> Sequence[Share]:
    """Of a detector, which has few parts, their parts: the stages of its backbone, and so on."""
    parts = profile.by_part()
    return parts if len(parts) > FEW else profile.by_stage()


def whole(profile: Profile) -> str:
    """In one line: the whole, how much of it the operators account for, the roof, and that it was too noisy if so."""
    seconds, roof = float(np.median(profile.runs)), profile.at_roof(profile.operators)
    said = f"{seconds * 1000:.2f} ms, of which operators take {profile.accounted:.0%}"
    said += f"; at the roof of this machine {roof * 1000:.2f} ms." if roof else "."
    return f"{said} {profile.noise}" if profile.noise.too_much else said


def reached_table(found: Sequence[Reached]) -> Table:
    """Operators beside the roof, those that lose most time first."""
    titles = (
        "lost ms", "ms", "ms at the roof", "times the roof", "limit", "GFLOP/s", "GB/s", "calls", "operator", "shape",
        "first in",
    )  # fmt: skip
    rows: list[Sequence[str]] = [
        (
            f"{each.lost * 1000:.2f}", f"{each.seconds * 1000:.2f}", f"{each.at_roof * 1000:.3f}",
            f"{each.seconds / each.at_roof:.1f}" if each.at_roof else "-", each.limit,
            f"{each.gflops:.0f}" if each.gflops else "-", f"{each.gbytes:.1f}", str(len(each.modules)),
            each.operator.name.rpartition("::")[2], _shape(each.operator), each.modules[0] or NOWHERE,
        )
        for each in found
    ]  # fmt: skip
    return titles, rows


def _shape(operator: Operator) -> str:
    """As "64x56x56 to 128x28x28, 3x3, stride 2": its largest input and output, without the batch."""

    def sides(shapes: Sequence[tuple[int, ...]]) -> str:
        return "x".join(map(str, max(shapes, key=np.prod, default=())[1:])) or "1"

    said = [f"{sides(operator.inputs)} to {sides(operator.outputs)}"]
    if operator.kernel:
        said.append("x".join(map(str, operator.kernel)))
    if any(step > 1 for step in operator.stride):
        said.append(f"stride {max(operator.stride)}")
    if operator.groups > 1:
        said.append(counted(operator.groups, "group"))
    return ", ".join(said)


def machine_table(found: Sequence[Machine]) -> Table:
    """A row for each number of threads."""
    sizes = list(found[0].gbytes)
    titles = ["threads", *(f"GFLOP/s {form}" for form in found[0].gflops)]
    titles += [f"GB/s, {size / 2**20:g} MiB" for size in sizes]
    rows: list[Sequence[str]] = [
        [
            str(each.threads),
            *(f"{value:.0f}" for value in each.gflops.values()),
            *(f"{each.gbytes[size]:.0f}" for size in sizes),
        ]
        for each in found
    ]
    return titles, rows


def guideline_table(found: Found) -> Table:
    """A row for each of the paper's: milliseconds here, and how many times as fast as the first row, here and there."""
    columns = found.experiment.columns
    titles = ["", *(f"ms {column}" for column in columns)]
    titles += [f"{where} {column}" for where in ("here", "ARM", "GPU") for column in columns]
    ratios = np.concatenate([found.here, found.paper("arm"), found.paper("gpu")], axis=1)
    rows: list[Sequence[str]] = [
        [row.name, *(f"{seconds * 1000:.2f}" for seconds in found.seconds[r]), *(f"{ratio:.2f}" for ratio in ratios[r])]
        for r, row in enumerate(found.experiment.rows)
    ]
    return titles, rows


def advice_table(found: Advised) -> Table:
    """What costs most comes first."""
    titles = ("", "costs ms", "of the whole", "parts", "ms each", "ms beside", "first part", "what it is", "beside")
    rows: list[Sequence[str]] = [
        (
            each.guideline, f"{each.cost * 1000:.2f}", f"{each.of_whole:.1%}", str(len(each.modules)),
            f"{each.seconds * 1000:.3f}", f"{each.obeying * 1000:.3f}", each.modules[0], each.what, each.form,
        )
        for each in found.advice
    ]  # fmt: skip
    return titles, rows
