"""Builders that differ in their body and their widths alone are the same detector as the one that is run in full."""

import re

import pytest
import torch
from tests.contract.forms import FORMS, REPEATS, SISTERS, form_of, parts, settings, without_weights
from torch import nn

from aweigh.models import DETECTORS


def test_every_builder_is_run_in_full_or_compared_with_one_that_is() -> None:
    assert all(form in FORMS for form in SISTERS)
    assert {form_of(name) for name in DETECTORS} == set(FORMS)
    compared = [name for sisters in SISTERS.values() for name in sisters]
    assert sorted([*FORMS, *compared]) == sorted(DETECTORS)


def test_a_repeat_has_no_part_of_its_own() -> None:
    run = set().union(*(parts(name) for name in FORMS if name not in REPEATS))
    for name in REPEATS:
        assert not parts(name) - run, f"{name} is no repeat of the other forms: take it out of REPEATS"


@pytest.mark.parametrize("form", SISTERS)
def test_sisters_differ_in_their_body_alone(form: str) -> None:
    first = without_weights(form)
    for name in SISTERS[form]:
        other = without_weights(name)
        assert settings(other) == settings(first), name
        assert heads(other, wide=False) == heads(first, wide=False), name
        if getattr(other.neck, "channels", None) == getattr(first.neck, "channels", None):
            assert heads(other, wide=True) == heads(first, wide=True), name
        check_maps(other)


def heads(model: nn.Module, *, wide: bool) -> dict[str, object]:
    """The parameters behind the neck, by name, with their shapes; or (not `wide`) without numbers of channels and of
    equal layers that follow one another."""
    behind = {name: value for name, value in model.named_parameters() if name.split(".")[0] not in ("backbone", "neck")}
    if wide:
        return {name: tuple(value.shape) for name, value in behind.items()}
    return {re.sub(r"\d+", "0", name): value.ndim for name, value in behind.items()}


def check_maps(model: nn.Module) -> None:
    """Body and neck give the maps that they announce."""
    side = 4 * model.stride_divisor
    given = model.backbone(torch.zeros(1, 3, side, side, device="meta"))
    assert_announced(model.backbone, given, side)
    if not isinstance(model.neck, nn.Identity):
        assert_announced(model.neck, model.neck(given), side)


def assert_announced(part: nn.Module, maps: list[torch.Tensor], side: int) -> None:
    assert [value.shape[1] for value in maps] == list(part.channels)
    assert [side / value.shape[2] for value in maps] == [float(stride) for stride in part.strides]
