"""What rows cost: the counter of `aweigh profile cost`, on the detector of the row."""

import pytest

import aweigh
from aweigh.errors import UsageError
from aweigh.profiling.cost import count
from aweigh.studies.cost import cost_of_rows
from aweigh.studies.study import find_study


def test_a_row_costs_what_its_detector_does(written) -> None:
    study = written('kind = "detector"\n[cost]\nsize = [60, 64]\nrelative_to = "wide"\n')
    found = cost_of_rows(study, study.chosen(["narrow"]))
    assert list(found) == ["narrow"]
    costs = []
    for channels in (16, 32):
        detector = aweigh.create("fcos_shufflenet_v2_x0_5_fpn", channels=channels, head_convs=1)
        costs.append(count(detector, (64, 64), run=lambda model, x: model.network(x)).total)  # 60: padded to 64
    narrow, wide = costs
    assert found["narrow"] == {
        "parameters": narrow.parameters,
        "flops": narrow.multiply_adds,
        "parameters_ratio": narrow.parameters / wide.parameters,
        "flops_ratio": narrow.multiply_adds / wide.multiply_adds,
    }


def test_a_part_of_the_detector(written) -> None:
    study = written('kind = "detector"\n[cost]\nsize = [64, 64]\npart = "neck"\n')
    detector = aweigh.create("fcos_shufflenet_v2_x0_5_fpn", channels=16, head_convs=1)
    assert cost_of_rows(study, study.rows)["narrow"]["parameters"] == sum(
        each.numel() for each in detector.neck.parameters()
    )
    study = written('kind = "detector"\n[cost]\npart = "nekc"\n')
    with pytest.raises(UsageError, match=r"'narrow' has no part 'nekc'; known: .*Did you mean 'neck'"):
        cost_of_rows(study, study.rows)


def test_the_cost_of_a_backbone(written) -> None:
    rows = '[[rows]]\nname = "a"\nsettings = { width = 0.5 }\n[[rows]]\nname = "b"\nsettings = { width = 1.0 }\n'
    rows += '[[rows]]\nname = "c"\nsettings = { network = "mobilenet_v2_x0_4", size = 160 }\n'
    study = written('kind = "backbone"\n', rows)
    found = cost_of_rows(study, study.rows)
    assert study.image_hw(study.rows[0]) == (224, 224) and found["b"]["flops"] == pytest.approx(144.9e6, rel=1e-3)
    assert found["c"]["flops"] == pytest.approx(41.8e6, rel=1e-3)  # at its own size
    assert found["a"].keys() == {"parameters", "flops"}


def test_rows_of_several_sizes_are_counted_at_their_own(written) -> None:
    rows = '[equal]\nmodel = "fcos_shufflenet_v2_x0_5_fpn"\narguments = { channels = 16, head_convs = 1 }\n'
    for name, sides in (("whole", ""), ("oblong", "short = 64, long = 128"), ("square", "short = 0, long = 64")):
        rows += f'[[rows]]\nname = "{name}"\nsettings = {{ {sides} }}\n'
    study = written('kind = "detector"\n', rows)
    assert [study.image_hw(row) for row in study.rows] == [(800, 1344), (64, 128), (64, 64)]
    found = cost_of_rows(study, study.rows)
    assert found["oblong"]["flops"] == pytest.approx(2 * found["square"]["flops"], rel=0.2)
    fixed = written('kind = "detector"\n[cost]\nsize = [96, 96]\n', rows)
    assert {fixed.image_hw(row) for row in fixed.rows} == {(96, 96)}


@pytest.mark.thorough  # tests/necks/test_cells.py counts the same necks by themselves
def test_table_5_of_efficientdet_is_within_five_percent_of_the_papers() -> None:
    """The feature network alone: see docs/papers/efficientdet.md."""
    study = find_study("efficientdet/5")
    for row, own in zip(study.rows, cost_of_rows(study, study.rows).values(), strict=True):
        for figure in ("parameters_ratio", "flops_ratio"):
            assert own[figure] == pytest.approx(row.paper[figure], rel=0.05), (row.name, figure)
