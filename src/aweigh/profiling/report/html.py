"""What `aweigh profile` measured as one page that needs nothing else."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType

import numpy as np

from aweigh.errors import counted
from aweigh.page import bars, chart, head, page, paragraph, section, table
from aweigh.profiling.advice import Advised
from aweigh.profiling.guidelines import Found
from aweigh.profiling.machine import Machine
from aweigh.profiling.report.tables import (
    CLEAN,
    Table,
    advice_table,
    guideline_table,
    machine_table,
    parts_of,
    reached_table,
    share_table,
    sweep_table,
    whole,
)
from aweigh.profiling.sweep import Sweep
from aweigh.profiling.timing import Profile, points, reached
from aweigh.speed import Noise
from aweigh.visualise.charts import ratios_beside_the_paper, roofline

MOST = 20  # operators beside the roof that the page lists


def speed_page(found: Sweep, profiles: Mapping[str, Profile]) -> str:
    """Of `aweigh profile speed`."""
    parts = [
        head("Profile", "How fast networks run here", "Each ran in every round, in turn; times are of a whole batch."),
        section("All settings", _table(sweep_table(found), numbers=range(3, 13)), *map(paragraph, _left_out(found)))
        + paragraph(str(found.noise)),
    ]
    for model, profile in profiles.items():
        parts.append(
            section(
                f"Where the time of {model} goes",
                paragraph(whole(profile)),
                _bars(profile),
                _table(share_table("operator", profile.by_kind())),
                _table(share_table("part", parts_of(profile))),
            )
        )
        if profile.machine is not None:
            parts.append(_under_the_roof(model, profile, profile.machine))
    return page("Profile: speed", parts)


def machine_page(found: Sequence[Machine], profiles: Mapping[str, Profile] = MappingProxyType({})) -> str:
    """Of `aweigh profile machine`. profiles: of the models that were named, each with its machine."""
    text = "The fastest matrix product, a multiply-add counted as two, and copies by the bytes they touch."
    noise = [paragraph(f"{counted(each.threads, 'thread')}: {each.noise}") for each in found]
    parts = [
        head("Profile", "The roof of this machine", text),
        section("Peaks", _table(machine_table(found)), *noise),
        *(_under_the_roof(model, each, each.machine) for model, each in profiles.items() if each.machine is not None),
    ]
    if not profiles:
        caption = f"What {counted(found[0].threads, 'thread')} can reach, by how often each byte is used"
        parts.append(_chart(partial(roof_chart, found[0], {}), caption))
    return page("Profile: machine", parts)


def guidelines_page(found: Sequence[Found], engine: str, threads: int, noise: Noise) -> str:
    """Of `aweigh profile guidelines`."""
    text = (
        "Times as fast as the first row of each table, which all cost the same multiply-adds, here and on the machines "
        "of ShuffleNet V2's authors: one thread of a phone (ARM), and a GTX 1080 Ti (GPU)."
    )
    parts = [head("Profile", "The four guidelines on this machine", text, f"Engine {engine}, threads {threads}.")]
    for each in found:
        picture = _chart(partial(guidelines_chart, [each]), "Times as fast as the first row, here and in the paper")
        parts.append(section(each.experiment.title, paragraph(str(each)), picture, _table(guideline_table(each))))
    parts.append(paragraph(str(noise)))
    return page("Profile: guidelines", parts)


def advice_page(model: str, found: Advised) -> str:
    """Of `aweigh profile advice`."""
    text = (
        f"{model} takes {found.whole * 1000:.2f} ms here. Each row is a part that breaks a guideline of ShuffleNet V2, "
        "beside a form of equal multiply-adds that obeys; a cost below 0 says that the guideline does not hold for it."
    )
    shown = _table(advice_table(found), numbers=range(1, 6)) if found.advice else paragraph(CLEAN)
    return page("Profile: advice", [head("Profile", f"Advice on {model}", text), shown, paragraph(str(found.noise))])


def guidelines_chart(found: Sequence[Found], path: Path) -> Path:
    """The experiments side by side."""
    panels = [
        (
            each.experiment.title,
            [row.name for row in each.experiment.rows],
            {"here": each.here, "ARM, paper": each.paper("arm"), "GPU, paper": each.paper("gpu")},
        )
        for each in found
    ]
    return ratios_beside_the_paper(panels, path)


def _bars(profile: Profile) -> str:
    """Milliseconds by kind of operator, as measured and at the roof."""
    kinds = profile.by_kind()
    measured = {share.name: share.seconds * 1000 for share in kinds}
    roof = {share.name: share.at_roof * 1000 for share in kinds if share.at_roof is not None}
    return bars("Time by kind of operator", measured, roof, unit="ms", mark="at the roof of this machine")


def roof_chart(machine: Machine, operators: Mapping[str, np.ndarray], path: Path) -> Path:
    """The roof of float32. operators: from `points`."""
    gbytes = {"values in the caches": max(machine.gbytes.values()), "values in memory": machine.slowest_gbytes}
    return roofline(machine.gflops["float32"], gbytes, operators, path)


def _under_the_roof(model: str, profile: Profile, machine: Machine) -> str:
    """Where operators lie, and those that lose most time."""
    return section(
        f"{model} under the roof",
        _chart(
            partial(roof_chart, machine, points(profile)),
            "Each point is an operator, the larger, the longer it takes; the lines are the most that is reached",
        ),
        _table(reached_table(reached(profile)[:MOST]), numbers=(0, 1, 2, 3, 5, 6, 7)),
    )


def _left_out(found: Sweep) -> list[str]:
    return [f"Left out: {setting.model}, {setting.engine}, {setting.format}: {why}" for setting, why in found.left_out]


def _table(given: Table, numbers: Sequence[int] | None = None) -> str:
    """numbers: the columns aligned on the right; all but the first when not given."""
    titles, rows = given
    return table(titles, rows, numbers=numbers or range(1, len(titles)))


def _chart(draw: Callable[[Path], object], caption: str) -> str:
    """draw: writes an image to a path."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "chart.png"
        draw(path)
        return chart(path.read_bytes(), caption)
