"""The names of the numbers: COCO's, and in front of those of masks, keypoints and objects in space a prefix."""

COCO_NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
KEYPOINT_NAMES = ("AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl")
SPACE_NAMES = ("AP",)
# Of the numbers of masks, of keypoints and of objects in space (KITTI's).
PREFIXES = {"bbox": "", "segm": "mask_", "keypoints": "keypoint_", "cuboids": "space_"}

FURTHER_NAMES = (
    *(PREFIXES["segm"] + name for name in COCO_NAMES),
    *(PREFIXES["keypoints"] + name for name in KEYPOINT_NAMES),
    *(PREFIXES["cuboids"] + name for name in SPACE_NAMES),
)
