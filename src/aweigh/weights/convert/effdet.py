"""effdet's parameter names and ours, for every EfficientDet it has published.

effdet codes boxes as y, x, log height, log width and classes as COCO's ids from 1 to 90; ours are x, y, log width, log
height, and the 80 named classes. The rows of the two predictions are put in our order.
"""

import re
from collections.abc import Sequence

from torch import Tensor

from aweigh.errors import UsageError, counted
from aweigh.weights.coco import COCO_CLASSES
from aweigh.weights.record import State

ANCHORS = 9  # in each cell
XYXY_ROWS = (1, 0, 3, 2)  # of effdet's four deltas

# Beginnings of names, effdet's -> ours; what follows them stays.
_NAMES = {
    r"backbone\.": r"backbone.body.",
    r"fpn\.resample\.3\.conv\.conv\.": r"neck.top.0.",
    r"fpn\.resample\.3\.conv\.bn\.": r"neck.top.1.",
    r"(class|box)_net\.conv_rep\.(\d+)\.conv_dw\.": r"\1_net.convolutions.\2.0.",
    r"(class|box)_net\.conv_rep\.(\d+)\.conv_pw\.": r"\1_net.convolutions.\2.1.",
    r"(class|box)_net\.bn_rep\.(\d+)\.(\d+)\.bn\.": r"\1_net.norms.\2.\3.",
    r"(class|box)_net\.predict\.conv_dw\.": r"\1_net.prediction.0.",
    r"(class|box)_net\.predict\.conv_pw\.": r"\1_net.prediction.1.",
}
# The same behind that of a node of the pyramid.
_NODE = r"fpn\.cell\.(\d+)\.fnode\.(\d+)\."
_NODE_NAMES = {
    r"combine\.edge_weights$": r"weights",
    r"combine\.resample\.\d+\.conv\.conv\.": r"lateral.0.",
    r"combine\.resample\.\d+\.conv\.bn\.": r"lateral.1.",
    r"after_combine\.conv\.conv_dw\.": r"convolution.0.",
    r"after_combine\.conv\.conv_pw\.": r"convolution.1.",
    r"after_combine\.conv\.bn\.": r"norm.",
}


def efficientdet_from_effdet(state: State, *, keep_ids: Sequence[int] | None = COCO_CLASSES.ids) -> State:
    """The weights of effdet's EfficientDet under our names.

    keep_ids: the category ids, from 1 on, that become our labels 0, 1, ...; by default the 80 named of the 90 that its
    COCO weights have. None keeps every row.
    """
    nodes = [int(match[2]) for key in state if (match := re.match(_NODE, key))]
    levels = (max(nodes, default=7) + 1) // 2 + 1  # a cell has two nodes for each level but one each for the ends
    converted = {_renamed(key, levels): value for key, value in state.items()}
    for kind in ("weight", "bias"):
        classes, boxes = f"class_net.prediction.1.{kind}", f"box_net.prediction.1.{kind}"
        if boxes in converted:
            converted[boxes] = _per_anchor(converted[boxes], XYXY_ROWS)
        if keep_ids is not None and classes in converted:
            converted[classes] = _per_anchor(converted[classes], [category - 1 for category in keep_ids])
    return converted


def _renamed(key: str, levels: int) -> str:
    place, rest, names = "", key, _NAMES
    if found := re.match(_NODE, key):
        node, down = int(found[2]), levels - 1  # so many nodes go down, coarse to fine; those behind them go up
        place = f"neck.cells.{found[1]}." + (f"down.{down - 1 - node}." if node < down else f"up.{node - down}.")
        rest, names = key[found.end() :], _NODE_NAMES
    for theirs, ours in names.items():
        if re.match(theirs, rest):
            return place + re.sub("^" + theirs, ours, rest)
    raise UsageError(f"The tensor {key!r} is not one of effdet's EfficientDet; these weights belong to another model.")


def _per_anchor(prediction: Tensor, rows: Sequence[int]) -> Tensor:
    """The rows of each anchor's part of a prediction `[ANCHORS * R, ...]`, in this order."""
    each = len(prediction) // ANCHORS
    if len(prediction) % ANCHORS or each <= max(rows):
        raise UsageError(
            f"The prediction has {counted(len(prediction), 'row')}, expected at least {max(rows) + 1} for each of "
            f"{counted(ANCHORS, 'anchor')}; these weights were trained on other classes or anchors."
        )
    return prediction.unflatten(0, (ANCHORS, each))[:, list(rows)].flatten(0, 1)
