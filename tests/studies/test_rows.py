"""Every row of every study that comes with the package can be built."""

import pytest

from aweigh.errors import UsageError
from aweigh.studies.rows import backbone_config_of, build, config_of
from aweigh.studies.study import Row, Study, find_study, load_study, packaged_studies
from aweigh.training.prepare import builder_arguments

BUILT: set[str] = set()
STUDIES = {name: find_study(name) for name in packaged_studies()}


def test_a_row_is_trained_with_its_recipe_its_settings_and_those_of_the_run() -> None:
    study = STUDIES["fcos/4"]
    none, *_ = study.rows
    config = config_of(study, none, {"lr": 0.5})
    assert (config.model, config.arguments) == ("fcos_resnet50_fpn_base", ("centerness=false",))
    assert (config.lr, config.iterations, config.frozen_stages) == (0.5, 90_000, 2)  # of the run, of the recipe


@pytest.mark.parametrize("name", STUDIES)
def test_every_row_builds(name: str) -> None:
    """On the meta device: no weights are made. What several rows or tables build is built once."""
    study = STUDIES[name]
    for row in study.rows:
        if (key := built_of(study, row)) not in BUILT:
            assert next(build(study, row).parameters()).is_meta
            BUILT.add(key)


def built_of(study: Study, row: Row) -> str:
    """All that decides what is built, as a text."""
    if study.kind == "backbone":
        return str(backbone_config_of(study, row))
    config = config_of(study, row)
    return str((config.model, builder_arguments(config), study.whole(row).selection))


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_has_numbers_of_its_paper(name: str) -> None:
    assert any(study_row.paper for study_row in STUDIES[name].rows)
    assert len(STUDIES[name].rows) > 1


def test_what_cannot_be_built_is_told_with_the_row(tmp_path) -> None:
    path = tmp_path / "mine.toml"
    text = packaged_studies()["fcos/4"].read_text(encoding="utf-8")
    path.write_text(text.replace("centerness = false", 'centreness = "no"'))
    study = load_study(path)
    with pytest.raises(UsageError, match=r"mine.toml, row 'none': .*no option 'centreness'.*Did you mean 'centerness'"):
        build(study, study.rows[0])
    path.write_text(text.replace("arguments = { centerness = false }", "selection = { nms_treshold = 0.5 }"))
    with pytest.raises(UsageError, match=r"row 'none': There is no setting 'nms_treshold'.*'nms_threshold'"):
        build(load_study(path), load_study(path).rows[0])
