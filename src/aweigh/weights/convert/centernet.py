"""The parameter names of CenterNet's authors and ours, for the detectors on ResNet, DLA-34 and Hourglass-104.

What differs besides the names: their images are BGR, so that the first convolution's input channels are turned round.
Their deformable convolution (DCNv2) computes offsets and masks by one convolution, `conv_offset_mask`. Its 27 channels
are 18 offsets, (y, x) of each place of the kernel, and 9 masks: the order of torchvision's operator.
"""

import re
from collections.abc import Mapping

from aweigh.errors import UsageError
from aweigh.weights.coco import COCO_CLASSES
from aweigh.weights.record import PublishedWeights, State

HEADS = {"hm": "heatmap", "wh": "size", "reg": "offset"}
POSE_HEADS = {**HEADS, "hps": "joints", "hm_hp": "joint_heatmap", "hp_offset": "joint_offset"}
SPACE_HEADS = {**HEADS, "dep": "depth", "rot": "orientation", "dim": "dimensions"}
FIRST = ("backbone.body.conv1.weight", "backbone.body.base_layer.0.weight", "backbone.stem.0.0.weight")

# Parts of names, theirs -> ours, one after the other. In the backbone of an hourglass network:
HOURGLASS = {
    r"^pre\.": r"backbone.stem.",
    r"^kps\.": r"backbone.hourglasses.",
    r"^cnvs\.": r"backbone.outputs.",
    r"^inters\.": r"backbone.joined.",
    r"^inters_\.": r"backbone.from_input.",
    r"^cnvs_\.": r"backbone.from_output.",
    r"\.up1\.": r".beside.",
    r"\.low1\.": r".down.",
    r"\.low2\b": r".inner",
    r"\.low3\.": r".up.",
    r"\.conv1\.": r".main.0.0.",
    r"\.bn1\.": r".main.0.1.",
    r"\.conv2\.": r".main.1.0.",
    r"\.bn2\.": r".main.1.1.",
    r"\.conv\.": r".0.",
    r"\.bn\.": r".1.",
}
# In the others, and the necks above them:
_OTHERS = {
    r"^(conv1|bn1|layer[1-4])\.": r"backbone.body.\1.",
    r"^base\.": r"backbone.body.",
    r"^deconv_layers\.": r"neck.layers.",
    r"^dla_up\.ida_": r"neck.steps.",
    r"^ida_up\.": r"neck.last.",
    r"\.conv_offset_mask\.": r".offsets.",
    r"\.(proj|node)_(\d)\.conv\.": r".\1_\2.0.",
    r"\.(proj|node)_(\d)\.actf\.0\.": r".\1_\2.1.",
    r"\.proj_": r".project_",
    **{rf"\.(project|up|node)_{number}\.": rf".\1.{number - 1}." for number in (1, 2, 3)},
}


def centernet_from_authors(state: State) -> State:
    """The weights of the authors' CenterNet for boxes (`ctdet`) under our names.

    Raises `UsageError` for a tensor of another model.
    """
    return _converted(state, HEADS, "boxes")


def centernet_record(name: str, builder: str, run: str, average_precision: float) -> PublishedWeights:
    """A file of the authors' model zoo, for boxes of COCO."""
    return PublishedWeights(
        name=name,
        url="https://drive.google.com/drive/folders/1S3NnppRgXea_IG4WeyquJcnOB3I6G-LX",
        file=f"{run}.pth",
        sha256="",  # not published
        licence="MIT (xingyizhou/CenterNet); trained on COCO, whose annotations are CC BY 4.0",
        source=f"the authors, {run}, trained on COCO train2017",
        metrics={"AP": average_precision},
        builder=builder,
        classes=COCO_CLASSES,
        resize={"short": None, "long": None},  # tested at the size of the image
        convert=centernet_from_authors,
    )


def centernet_pose_from_authors(state: State) -> State:
    """Those of their CenterNet for human poses (`multi_pose`), likewise."""
    return _converted(state, POSE_HEADS, "poses")


def centernet_3d_from_authors(state: State) -> State:
    """Those of their CenterNet for objects in space (`ddd`), likewise."""
    return _converted(state, SPACE_HEADS, "objects in space")


def _converted(state: State, heads: Mapping[str, str], kind_of_model: str) -> State:
    state = {key.removeprefix("module."): value for key, value in state.items()}
    converted: State = {}
    for key, value in state.items():
        module, _, kind = key.rpartition(".")
        if f"{module}.conv_offset_mask.weight" in state:  # a deformable convolution's own weight and bias
            key = f"{module}.conv.{kind}"
        ours = _name(key, heads, kind_of_model)
        converted[ours] = value.flip(1) if ours in FIRST else value
    return converted


def _name(key: str, heads: Mapping[str, str], kind_of_model: str) -> str:
    head = rf"({'|'.join(heads)})\.(?:(\d)\.)?(0|2|0\.conv|1)\.(weight|bias)"
    if match := re.fullmatch(head, key):  # numbered by stack where there may be several
        place = 0 if match[3].startswith("0") else 3
        return f"heads.{match[2] or 0}.{heads[match[1]]}.{place}.{match[4]}"
    ours = key
    names = HOURGLASS if re.match(r"(pre|kps|cnvs_?|inters_?)\.", key) else _OTHERS
    for theirs, exchanged in names.items():
        ours = re.sub(theirs, exchanged, ours)
    if not ours.startswith(("backbone.", "neck.")):
        raise UsageError(
            f"The tensor {key!r} is not one of CenterNet's for {kind_of_model}; these weights belong to another model."
        )
    return ours
