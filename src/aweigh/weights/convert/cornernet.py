"""The parameter names of CornerNet's and CornerNet-Lite's authors, and of those of CenterNet's triplets, and ours.

All of them write their hourglasses as CenterNet's authors do, whose code comes from theirs; CornerNet-Squeeze and
CornerNet-Saccade put them below `hg`. Their images are BGR, so that the first convolution's input channels are turned
round.
"""

import re

from aweigh.errors import UsageError
from aweigh.weights.coco import COCO_CLASSES
from aweigh.weights.convert.centernet import HOURGLASS
from aweigh.weights.record import PublishedWeights, State

KINDS = {"tl": "top_left", "br": "bottom_right", "ct": "center"}
HEADS = {"heats": "heatmap", "tags": "embedding", "regrs": "offset", "offs": "offset"}
ATTENTION = ("large", "medium", "small")
FIRST = "backbone.stem.0.0.weight"

# Of what is before the heads of a point, theirs -> ours.
_POOLING = {
    "p1_conv1.conv": "gather.vertical.0",
    "p1_conv1.bn": "gather.vertical.1",
    "p2_conv1.conv": "gather.horizontal.0",
    "p2_conv1.bn": "gather.horizontal.1",
    "look_conv1.conv": "gather.inside_vertical.0",
    "look_conv1.bn": "gather.inside_vertical.1",
    "look_conv2.conv": "gather.inside_horizontal.0",
    "look_conv2.bn": "gather.inside_horizontal.1",
    "P1_look_conv": "gather.mix_vertical",
    "P2_look_conv": "gather.mix_horizontal",
    "p_conv1": "merge.0",
    "p_bn1": "merge.1",
    "conv1": "around.0",
    "bn1": "around.1",
    "conv2.conv": "out.0",
    "conv2.bn": "out.1",
}
# Of a fire module, whose names are otherwise those of a residual block.
_FIRE = {
    "conv1": "squeeze.0",
    "bn1": "squeeze.1",
    "conv_1x1": "plain",
    "conv_3x3": "depthwise",
    "bn2": "norm",
}


def cornernet_from_authors(state: State) -> State:
    """The weights of the authors' CornerNet, CornerNet-Squeeze, -Saccade or CenterNet of triplets under our names.

    Raises `UsageError` for a tensor of another model.
    """
    state = {re.sub(r"^(module\.)?(hg\.)?", "", key): value for key, value in state.items()}
    fires = {key.removesuffix(".conv_1x1.weight") for key in state if key.endswith(".conv_1x1.weight")}
    converted = {_name(key, fires): value for key, value in state.items()}
    if FIRST in converted:
        converted[FIRST] = converted[FIRST].flip(1)
    return converted


def cornernet_record(builder: str, file: str, place: str, licence: str, average_precision: float) -> PublishedWeights:
    """A file that its authors offer on Google Drive, at `place` there, tested in each image's own size."""
    return PublishedWeights(
        name="authors",
        url=f"https://drive.google.com/{place}",
        file=f"{file}.pth",
        sha256="",  # not published
        licence=f"{licence}; trained on COCO, whose annotations are CC BY 4.0",
        source=f"the authors, whose {file}.pkl is to be renamed, trained on COCO",
        metrics={"AP": average_precision},
        builder=builder,
        classes=COCO_CLASSES,
        resize={"short": None, "long": None},
        convert=cornernet_from_authors,
    )


def _name(key: str, fires: set[str]) -> str:
    if match := re.fullmatch(r"(tl|br|ct)_(?:cnvs|modules)\.(\d+)\.(.+)\.(\w+)", key):
        if match[3] in _POOLING:
            return f"points.{match[2]}.{KINDS[match[1]]}.{_POOLING[match[3]]}.{match[4]}"
    elif match := re.fullmatch(r"(tl|br|ct)_(heats|tags|regrs|offs)\.(\d+)\.(0\.conv|1)\.(weight|bias)", key):
        place = 0 if match[4].startswith("0") else 3
        return f"points.{match[3]}.{KINDS[match[1]]}.heads.{HEADS[match[2]]}.{place}.{match[5]}"
    elif match := re.fullmatch(r"att_modules\.(\d+)\.([0-2])\.(0\.conv|1)\.(weight|bias)", key):
        place = 0 if match[3].startswith("0") else 3
        return f"attention.{match[1]}.{ATTENTION[int(match[2])]}.{place}.{match[4]}"
    elif re.match(r"(pre|kps|hgs|cnvs_?|inters_?)\.", key):
        ours = re.sub(r"^hgs\.", "kps.", key)
        block, _, rest = key.rpartition(".")
        block, _, part = block.rpartition(".")
        if block in fires:
            ours = f"{ours.removesuffix(f'{part}.{rest}')}{_FIRE[part]}.{rest}"
        for theirs, exchanged in {r"\.up2\.": ".enlarge.", **HOURGLASS}.items():
            ours = re.sub(theirs, exchanged, ours)
        return ours
    raise UsageError(f"The tensor {key!r} is not one of CornerNet's; these weights belong to another model.")
