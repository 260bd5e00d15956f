"""The file of a study: what it says, how it is found, and what each mistake in it is told as."""

from pathlib import Path

import pytest

from aweigh.errors import UsageError
from aweigh.runtime.tta import TTA
from aweigh.studies.study import Part, checked_views, find_study, load_study, packaged_studies

PLAIN = """
title = "Centre-ness"
paper = "FCOS"
table = "4"
varies = "centre-ness"
kind = "detector"

[equal]
model = "fcos_resnet50_fpn_base"
arguments = { head_norm = "gn" }
settings = { lr = 0.02 }

[[rows]]
name = "none"
arguments = { centerness = false }
paper = { AP = 33.5 }

[[rows]]
name = "branch"
selection = { nms_threshold = 0.5 }
"""


@pytest.fixture
def file(tmp_path: Path):
    def write(text: str) -> Path:
        path = tmp_path / "mine.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_a_row_is_laid_over_what_all_have(file) -> None:
    study = load_study(file(PLAIN))
    none, branch = study.rows
    assert (study.name, study.kind, study.metric, study.recipe) == ("mine", "detector", "AP", "")
    assert study.whole(none).arguments == {"head_norm": "gn", "centerness": False}
    assert study.whole(branch).arguments == {"head_norm": "gn"} and study.whole(branch).settings == {"lr": 0.02}
    assert study.whole(branch).selection == {"nms_threshold": 0.5} and study.whole(none).selection == {}
    assert none.paper == {"AP": 33.5} and branch.paper == {}
    assert none.own.over(Part("other", {"head_norm": "bn", "centerness": True}, {}, {}, {})) == Part(
        "other", {"head_norm": "bn", "centerness": False}, {}, {}, {}
    )


def test_studies_are_found_by_name_and_by_path(file) -> None:
    assert find_study("fcos/4").name == "fcos/4"
    assert find_study(str(packaged_studies()["fcos/4"])).rows == find_study("fcos/4").rows
    assert find_study(str(file(PLAIN))).title == "Centre-ness"
    with pytest.raises(UsageError, match=r"no study 'fcos/44'.*Did you mean 'fcos/4'\?.*`aweigh study list`"):
        find_study("fcos/44")


MISTAKES = {
    "an unknown key": ('kind = "detector"', 'kind = "detector"\nvary = 1', "mine.toml: unknown key 'vary'.*'varies'"),
    "an unknown key of a row": ('name = "none"', 'name = "none"\nargument = {}', "row 'none': unknown key 'argument'"),
    "an unknown model": ("resnet50_fpn_base", "resnet50_base", "equal: unknown model 'fcos_resnet50_base'.*Did you"),
    "an unknown setting": ("lr = 0.02", "lrr = 0.02", "Unknown setting 'lrr' from the .*mine.toml, row 'none'"),
    "a setting of the run": ("lr = 0.02", 'output = "runs"', "equal: settings.output is none of a study's"),
    "a wrong type": ("lr = 0.02", 'lr = "high"', "lr = 'high' from the .*row 'none': expected a number"),
    "two rows of one name": ('"branch"', '"none"', "rows 1 and 2 are both called 'none'"),
    "a row without a name": ('name = "none"\n', "", "row 1: name = None: expected a text"),
    "an unknown figure": ("AP = 33.5", "Ap = 33.5", "row 'none': unknown figure of the paper 'Ap'.*Did you mean 'AP'"),
    "a figure that is no number": ("AP = 33.5", 'AP = "high"', "row 'none': AP = 'high': expected a number"),
    "an unknown kind": ('"detector"', '"training"', "unknown kind 'training'; known: detector, backbone"),
    "no title": ('title = "Centre-ness"', "", "title = None: expected a text"),
    "a table that is none": ("arguments = { centerness = false }", "arguments = 3", "row 'none': arguments = 3: expec"),
    "no rows": (PLAIN[PLAIN.index("[[rows]]") :], "", "expected rows"),
    "no TOML": ("[equal]", "[equal", "is not valid TOML"),
    "training of one detector": ('"detector"', '"evaluation"', "row 'none': .*expected selection or views only"),
    "a model of backbones": ('"detector"', '"backbone"', "equal: a study of kind backbone has settings alone"),
    "an unknown recipe": ("[equal]", '[equal]\nrecipe = "no_such"', "There is no recipe 'no_such'"),
    "an unknown view": ("selection = { nms_threshold", "views = { flipped", "row 'branch': unknown view 'flipped'"),
    "an unknown row of the cost": (
        "[equal]",
        '[cost]\nrelative_to = "x"\n[equal]',
        "cost: unknown row 'x'; known: none",
    ),
    "an unknown metric": ('kind = "detector"', 'kind = "detector"\nmetric = "AP5"', "unknown metric 'AP5'"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_told_with_the_file_and_the_row(mistake: str, file) -> None:
    before, after, said = MISTAKES[mistake]
    assert before in PLAIN
    with pytest.raises(UsageError, match=said) as told:
        load_study(file(PLAIN.replace(before, after)))
    assert "\n" not in str(told.value)


def test_views_are_a_size_and_test_time_augmentation() -> None:
    assert checked_views({}) == ("", TTA())
    assert checked_views({"resize": "original", "flip": True, "scales": [0.5, 1.0], "merge": "soft"}) == (
        "original",
        TTA(flip=True, scales=(0.5, 1.0), merge="soft"),
    )
    with pytest.raises(UsageError, match="resize = 'large'"):
        checked_views({"resize": "large"})
