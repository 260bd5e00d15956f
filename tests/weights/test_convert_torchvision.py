"""The key table of FCOS, in both directions, and COCO's classes."""

import json

import pytest
import torch
from torchvision.models.detection import FCOS_ResNet50_FPN_Weights, fcos_resnet50_fpn

from aweigh.backbones.timm import TimmBackbone
from aweigh.errors import UsageError
from aweigh.necks.fpn import FPN
from aweigh.weights.coco import COCO_CLASSES
from aweigh.weights.convert.torchvision import fcos_from_torchvision, fcos_to_torchvision


@pytest.fixture(scope="module")
def reference():
    return fcos_resnet50_fpn(weights=None, weights_backbone=None, num_classes=91).state_dict()


def test_every_tensor_has_a_name_and_comes_back(reference):
    ours = fcos_from_torchvision(reference, keep_rows=None)
    assert len(ours) == len(reference)
    assert {key.split(".")[0] for key in ours} == {"backbone", "neck", "head"}
    assert {key.split(".")[1] for key in ours if key.startswith("head.")} == {
        "classification_tower",
        "box_tower",
        "logits",
        "distances",
        "centerness",
    }
    back = fcos_to_torchvision(ours)
    assert back.keys() == reference.keys()
    assert all(back[key] is reference[key] for key in back)


def test_backbone_and_neck_are_those_of_our_modules(reference):
    ours = fcos_from_torchvision(reference, keep_rows=None)
    backbone = TimmBackbone("resnet50")
    for name, module in (("backbone", backbone), ("neck", FPN(backbone.channels, backbone.strides))):
        prefix = f"{name}."
        given = {key.removeprefix(prefix): value.shape for key, value in ours.items() if key.startswith(prefix)}
        assert given == {key: value.shape for key, value in module.state_dict().items()}


def test_the_named_classes_are_kept(reference):
    ours = fcos_from_torchvision(reference)
    theirs = reference["head.classification_head.cls_logits.weight"]
    names = FCOS_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    assert ours["head.logits.weight"].shape[0] == ours["head.logits.bias"].shape[0] == 80
    for label, name in enumerate(COCO_CLASSES.names):
        assert torch.equal(ours["head.logits.weight"][label], theirs[names.index(name)]), name


def test_names_of_older_files(reference):
    older = {
        key.replace(".0.weight", ".weight").replace(".0.bias", ".bias")
        if "_blocks" in key and "extra" not in key
        else key: value
        for key, value in reference.items()
    }
    assert older.keys() != reference.keys()
    assert fcos_from_torchvision(older).keys() == fcos_from_torchvision(reference).keys()


def test_other_models_are_refused(reference):
    with pytest.raises(UsageError, match=r"'layer1\.weight' is not one of torchvision's fcos_resnet50_fpn"):
        fcos_from_torchvision({"layer1.weight": torch.zeros(1)})
    with pytest.raises(UsageError, match="has 7 rows, expected at least 91"):
        fcos_from_torchvision({"head.classification_head.cls_logits.bias": torch.zeros(7)})


def test_coco_classes_are_torchvisions_and_the_data_sets(shared):
    names = FCOS_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    expected = [(index, name) for index, name in enumerate(names) if name not in ("__background__", "N/A")]
    assert list(zip(COCO_CLASSES.ids, COCO_CLASSES.names, strict=True)) == expected
    file = shared / "data/cocoapi_eval/instances_val2014_100.json"
    official = [(each["id"], each["name"]) for each in json.loads(file.read_text())["categories"]]
    assert list(zip(COCO_CLASSES.ids, COCO_CLASSES.names, strict=True)) == sorted(official)
