"""The 80 classes of COCO in the official order, with their official ids, which leave gaps between 1 and 90."""

from aweigh.classes import Classes

# Mean and deviation of its images' colours, RGB in `[0, 1]`, as CornerNet's and CenterNet's authors have them.
COCO_MEAN = (0.47026115, 0.44719302, 0.40789654)
COCO_STD = (0.27809835, 0.27408164, 0.28863828)

# Ids that were planned and never annotated.
_UNUSED = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}

COCO_CLASSES = Classes(
    names=(
        *("person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light"),
        *("fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow"),
        *("elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee"),
        *("skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard"),
        *("tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple"),
        *("sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch"),
        *("potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard"),
        *("cell phone", "microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors"),
        *("teddy bear", "hair drier", "toothbrush"),
    ),
    ids=tuple(category for category in range(1, 91) if category not in _UNUSED),
)

PERSON = Classes(("person",), (1,))  # its only class with keypoints
