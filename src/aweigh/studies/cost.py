"""What the rows of a study cost: parameters and multiply-adds of one image, counted on the meta device.

Of a detector with a second stage multiply-adds are those before it, as `aweigh profile cost` counts them.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from aweigh.errors import UsageError, did_you_mean
from aweigh.profiling.cost import PartCost, count
from aweigh.profiling.networks import run_network
from aweigh.studies.rows import build
from aweigh.studies.study import Row, Study


def cost_of_rows(study: Study, rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """Figures of each row by its name: `parameters`, `flops`, and their ratios where the paper prints any."""
    totals: dict[str, PartCost] = {}
    reference = study.cost.relative_to or study.rows[0].name
    wanted = {row.name: row for row in rows}
    ratios = bool(study.cost.relative_to) or any("ratio" in figure for row in rows for figure in row.paper)
    if ratios and reference not in wanted:
        wanted[reference] = next(row for row in study.rows if row.name == reference)
    for name, row in wanted.items():
        totals[name] = cost_of_row(study, row)
    figures = {}
    for row in rows:
        own, first = totals[row.name], totals[reference] if ratios else None
        figures[row.name] = {"parameters": float(own.parameters), "flops": float(own.multiply_adds)}
        if first is not None:
            figures[row.name] |= {
                "parameters_ratio": own.parameters / first.parameters,
                "flops_ratio": own.multiply_adds / first.multiply_adds,
            }
    return figures


def cost_of_row(study: Study, row: Row) -> PartCost:
    """Of the whole network, or of the part of it that the study counts; sides are rounded up to the detector's."""
    network: Any = build(study, row)
    divisor = getattr(network, "stride_divisor", 1)
    height, width = (divisor * math.ceil(side / divisor) for side in study.image_hw(row))
    run = None if study.kind == "backbone" else run_network
    found = count(network, (height, width), run=run)
    if not study.cost.part:
        return found.total
    parts: Mapping[str, PartCost] = {part.name: part for part in found.parts}
    if study.cost.part not in parts:
        raise UsageError(
            f"{study.path}, cost: {row.name!r} has no part {study.cost.part!r}; known: {', '.join(parts)}."
            f"{did_you_mean(study.cost.part, parts)}"
        )
    return parts[study.cost.part]
