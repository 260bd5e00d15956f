"""Flags that several commands share, each declared once: the same name, help and meaning in all of them.

Flags whose values travel together are a dataclass, taken as `files: Files = Files()`; any other is a type. Nothing
heavy is imported before a command runs.
"""

import math
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Group, Parameter

from aweigh.arguments import NMS, Precision
from aweigh.errors import UsageError, check_reach, did_you_mean

if TYPE_CHECKING:
    from aweigh.cluster.ray_cluster import Workers
    from aweigh.geometry.tiles import Tiles
    from aweigh.runtime.tta import TTA
    from aweigh.tracking.tracker import Tracker
    from aweigh.video.frames import FrameChoice


def _flag(help: str, show_default: bool = False, **rest: Any) -> Parameter:
    return Parameter(help=help, show_default=show_default, **rest)


# One of a group of the help.
_data = partial(_flag, group=Group("Where the data lie", sort_key=100))
_detector = partial(_flag, group=Group("Detector", sort_key=101))
_loading = partial(_flag, group=Group("How it is computed", sort_key=102))
_frames = partial(_flag, group=Group("Frames of a video", sort_key=102))
_cluster = partial(_flag, group=Group("On several machines", sort_key=104))
_views = partial(_flag, group=Group("Size and test-time augmentation", sort_key=103))
_tracks = partial(_flag, group=Group("Tracks", sort_key=104))


# --- one by one -----------------------------------------------------------------------------------------------------

DATA_SET = _flag(
    "Folder of the data set: COCO, VOC, YOLO, KITTI, DOTA, labelme, VIA, Label Studio, CVAT, Create ML or CSV, "
    "recognised by looking at it."
)
SEVERAL = Parameter(consume_multiple=True, negative="")  # --split train val

Batch = Annotated[
    int, _loading("Images that go through the network together; 1 on a CPU and 8 on a GPU when not given.")
]
ProposalsFile = Annotated[
    Path | None,
    _detector(
        "File of proposals for these images, found by their names, for a detector that proposes none itself (Fast "
        "R-CNN)."
    ),
]
WeightsName = Annotated[
    str, _detector("Published weights by name (box, which come with aweigh, or torchvision), or a file of them.")
]
Settings = Annotated[
    tuple[str, ...],
    _detector(
        "A threshold or count of the detector, as score_threshold=0.1 or nms=soft; may be given several times.",
        name="--set",
        negative="",
    ),
]
Size = Annotated[
    str,
    _views(
        "Another size than in training: original (as it is), the long side as 512, or short side and the long one's "
        "limit as 800,1333. Images are padded to multiples of the detector's stride."
    ),
]
JsonFile = Annotated[Path | None, _flag("Write the numbers, with all they depend on, to this file.", name="--json")]
AsJson = Annotated[bool, Parameter(name="--json", negative="", show_default=False)]  # what is printed, each says itself
OwnIds = Annotated[
    bool,
    _flag(
        "The image ids of results in COCO's format are those of DATA, though nothing beside them says so.", negative=""
    ),
]
Layout = Annotated[
    str, _flag("The layout to write: coco, voc, yolo; a word that is none lists all there are.", show_default=True)
]
OutFolder = Annotated[Path, _flag("The folder to write; it must not hold anything yet.")]
OutFile = Annotated[Path, _flag("The file to write.", alias="-o")]
Link = Annotated[bool, _flag("Link to the images instead of copying them.", show_default=True)]
Recipe = Annotated[
    str,
    _flag(
        "Start from these values: the path of a TOML file, or the name of a recipe that comes with aweigh.", alias="-r"
    ),
]
Processes = Annotated[
    int,
    _flag("Train in so many processes on this machine, as torchrun starts them: one for each GPU.", show_default=True),
]


# --- together -------------------------------------------------------------------------------------------------------


@Parameter(name="*")
@dataclass(frozen=True)
class Files:
    """Where annotations and images lie, when it cannot be seen by looking at the folder."""

    annotations: Annotated[Path | None, _data("COCO file, when the folder is no known layout.")] = None
    images: Annotated[Path | None, _data("Image folder that goes with --annotations.")] = None

    def to_dict(self) -> dict[str, Any]:
        """As arguments of `load_split` and `load_splits`."""
        return asdict(self)


@Parameter(name="*")
@dataclass(frozen=True)
class Weights:
    """What a detector computes with: weights, thresholds and counts, device, number format, threads."""

    weights: WeightsName = ""
    settings: Settings = ()
    nms: Annotated[
        NMS | None,
        _detector(
            "What suppresses what, in place of the detector's own setting: boxes of one class (class) or of any "
            "(agnostic) that overlap a better one, their scores alone (soft), or nothing (none)."
        ),
    ] = None
    nms_threshold: Annotated[
        float | None, _detector("From which overlap (IoU) on, in place of the detector's own setting, as 0.6.")
    ] = None
    device: Annotated[
        str,
        _loading(
            "auto, cpu, cuda, cuda:1 or mps; of a graph cpu, cuda, coreml or directml by onnxruntime, cpu or gpu by "
            "OpenVINO.",
            show_default=True,
        ),
    ] = "auto"
    runtime: Annotated[
        Literal["torch", "onnxruntime", "openvino"] | None,
        _loading(
            "What computes: torch a checkpoint; a graph, when not given, onnxruntime (.onnx) or OpenVINO (.xml). The "
            "detector that comes with aweigh is a graph, and a checkpoint where torch is asked for: here, by --device, "
            "--precision, or a setting that a graph has inside."
        ),
    ] = None
    precision: Annotated[
        Precision,
        _loading(
            "Number format of the network: float32, bf16 (on a GPU or a processor that has it) or float16 (on a GPU). "
            "auto is bf16 on a processor that has it where the checkpoint says that it costs less than 0.2 AP, else "
            "float32.",
            show_default=True,
        ),
    ] = "auto"
    threads: Annotated[
        int, _loading("Threads of the CPU; 0 for as many as there are cores to use.", show_default=True)
    ] = 0

    def changes(self) -> dict[str, str]:
        """What --set, see `changed`, --nms and --nms-threshold change."""
        changes = changed(self.settings)
        for name, value in (("nms", self.nms), ("nms_threshold", self.nms_threshold)):
            if value is not None and name in changes:
                raise UsageError(f"--set {name}={changes[name]} and a flag say the same; leave one out.")
            changes |= {} if value is None else {name: str(value)}
        return changes


@Parameter(name="*")
@dataclass(frozen=True)
class Loading:
    """How the images of a split are read."""

    batch: Batch = 0
    workers: Annotated[int, _loading("Processes that read images; 0 reads in this one.", show_default=True)] = 0
    strict: Annotated[
        bool,
        _loading(
            "Refuse data with problems, images that cannot be read among them, which are else left out of the numbers.",
            negative="",
        ),
    ] = False

    def check(self) -> None:
        """`UsageError` for a batch (0 is the usual one) or a number of processes that cannot be."""
        check_reach("batch", self.batch or 1)
        if self.workers < 0:
            raise UsageError(f"workers = {self.workers}: expected a number of processes, or 0 to read in this one.")
        check_reach("workers", self.workers)

    @property
    def max_bad(self) -> float:
        """The share of images that cannot be read above which nothing is measured."""
        return 0.0 if self.strict else 1.0


@Parameter(name="*")
@dataclass(frozen=True)
class Frames:
    """Which frames of a video are meant."""

    every: Annotated[int, _frames("Each so many frames one, as 5: those with the numbers 0, 5, 10 and so on.")] = 1
    start: Annotated[str, _frames("From which second on, as 90, 1:30 or 0:01:30.5.")] = ""
    end: Annotated[str, _frames("Until before which second.")] = ""

    def choice(self) -> "FrameChoice":
        """Checked."""
        from aweigh.video.frames import FrameChoice

        return FrameChoice.of(self.every, self.start or 0, self.end or math.inf)


@Parameter(name="*")
@dataclass(frozen=True)
class Cluster:
    """Whether a cluster of Ray computes, and which."""

    cluster: Annotated[
        tuple[str, ...] | None,
        _cluster(
            "Compute on a cluster of Ray: HOST:PORT, or auto for the one this machine is part of; with no address on "
            "processes of this machine. What is done stays when it is stopped; the same command goes on.",
            consume_multiple=(0, 1),
            negative="",
        ),
    ] = None
    processes: Annotated[
        int, _cluster("So many processes on the cluster; as many as it has room for when not given.")
    ] = 0

    @property
    def wanted(self) -> bool:
        """Whether a cluster computes; `UsageError` for flags that need one."""
        if self.cluster is None and self.processes:
            raise UsageError(f"--processes {self.processes} goes with --cluster; add it.")
        check_reach("processes", self.processes or 1)
        return self.cluster is not None

    @property
    def address(self) -> str:
        """Where it is; empty for this machine."""
        return "".join(self.cluster or ())

    def workers(self, chosen: Weights) -> "Workers":
        """The processes of it: each has as many cores as threads are asked for, one when none are, or a GPU."""
        from aweigh.cluster.ray_cluster import Workers

        return Workers(self.processes, max(1, chosen.threads), int(chosen.device.startswith("cuda")))


@Parameter(name="*")
@dataclass(frozen=True)
class Views:
    """The size of images, tiles, and test-time augmentation."""

    resize: Size = ""
    tile: Annotated[
        int | None,
        _views(
            "Look at images in squares of so many of their pixels, as 640, for small objects in large images; what is "
            "found on the seams is joined. When not given, as the detector was trained; 0 looks at whole images."
        ),
    ] = None
    overlap: Annotated[
        float, _views("How much of a tile the next one sees as well; of its side 0.2 when not given.")
    ] = 0.2
    tta: Annotated[str, _views("Test-time augmentation: flip, multiscale, or both as flip,multiscale.")] = ""
    scales: Annotated[str, _views("Factors on the size, for multiscale; 0.5,0.75,1,1.25,1.5 when not given.")] = ""
    merge: Annotated[
        Literal["nms", "soft", "weighted"] | None,
        _views(
            "What becomes of boxes that overlap: the best stays (nms), the scores of the others are lowered (soft), "
            "their mean takes their place (weighted). When not given, soft for CenterNet, else nms."
        ),
    ] = None
    flip_pairs: Annotated[
        str,
        _views(
            "Classes that change places in a flip, as left_hand=right_hand,left_foot=right_foot; found by name when "
            "not given, none for no pair."
        ),
    ] = ""

    def tiles(self) -> "Tiles | Literal['own'] | None":
        """What --tile and --overlap say; `"own"` for what the detector was trained in, None for whole images."""
        from aweigh.geometry.tiles import OVERLAP, Tiles

        if not self.tile and self.overlap != OVERLAP:
            raise UsageError(f"--overlap {self.overlap:g} goes with --tile; add it or leave --overlap out.")
        if self.tile is None:
            return "own"
        return Tiles(self.tile, self.overlap) if self.tile else None

    def augmentation(self) -> "TTA":
        """What --tta, --scales, --merge and --flip-pairs say; a `UsageError` where they do not go together."""
        from aweigh.runtime.tta import SCALES, TTA

        known = ("flip", "multiscale")
        words = [word.strip() for word in self.tta.split(",")] if self.tta else []
        if unknown := [word for word in words if word not in known]:
            raise UsageError(
                f"--tta {self.tta}: expected flip, multiscale or flip,multiscale.{did_you_mean(unknown[0], known)}"
            )
        needs = {"--scales": (self.scales, "multiscale"), "--flip-pairs": (self.flip_pairs, "flip")}
        for flag, (given, word) in needs.items():
            if given and word not in words:
                raise UsageError(f"{flag} {given} goes with --tta {word}; add it or leave {flag} out.")
        if self.merge and not words:
            raise UsageError(f"--merge {self.merge} goes with --tta; without it there is nothing to merge.")
        scales: tuple[float, ...] = SCALES if "multiscale" in words else (1.0,)
        if self.scales:
            try:
                scales = tuple(float(part) for part in self.scales.split(","))
            except ValueError:
                raise UsageError(f"--scales {self.scales}: expected numbers above 0, as 0.5,1,1.5.") from None
        pairs = tuple(self.flip_pairs.split(",")) if self.flip_pairs else ()
        return TTA(flip="flip" in words, scales=scales, merge=self.merge, flip_pairs=pairs)


@Parameter(name="*")
@dataclass(frozen=True)
class Tracks:
    """Whether objects have an id from frame to frame, and by which thresholds."""

    track: Annotated[
        bool,
        _tracks(
            "Of a video, or of images that are frames in the order of their names: give each object an id from frame "
            "to frame, and leave out what is on no track.",
            negative="",
        ),
    ] = False
    track_high: Annotated[float | None, _tracks("From this score on a detection is sure; 0.6 when not given.")] = None
    track_low: Annotated[
        float | None,
        _tracks("A detection of at least this score goes on with a track of the frame before; 0.1 when not given."),
    ] = None
    track_new: Annotated[
        float | None, _tracks("A detection of at least this score begins a track; 0.7 when not given.")
    ] = None
    track_iou: Annotated[
        float | None,
        _tracks("The least overlap of a sure detection and the place where its track is expected; 0.2 when not given."),
    ] = None
    track_lost: Annotated[
        int | None, _tracks("For so many frames a track waits to be seen again; 30 when not given.")
    ] = None

    def tracker(self) -> "Tracker | None":
        """What these flags say; None without --track."""
        from aweigh.tracking.tracker import Tracker

        values = {name: getattr(self, f"track_{name}") for name in ("high", "low", "new", "iou", "lost")}
        given = {name: value for name, value in values.items() if value is not None}
        if given and not self.track:
            name, value = next(iter(given.items()))
            raise UsageError(f"--track-{name} {value:g} goes with --track; add it or leave it out.")
        return Tracker(**given) if self.track else None


def changed(settings: tuple[str, ...]) -> dict[str, str]:
    """What --set changes, by name; whether a detector has it, and the value fits, is seen where it is changed."""
    changes = {}
    for entry in settings:
        name, equals, value = (part.strip() for part in entry.partition("="))
        if not (name and equals and value):
            raise UsageError(f"--set {entry}: expected NAME=VALUE, such as score_threshold=0.1.")
        changes[name] = value
    return changes
