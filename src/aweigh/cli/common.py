"""What several commands share: one-line texts, the log console, recipes by name, a detector by file or name."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Group, Parameter

from aweigh.errors import UsageError, check_reach, did_you_mean, printable
from aweigh.training.recipes import packaged_recipes

if TYPE_CHECKING:
    from rich.console import Console

    from aweigh.annotations.proposals import Proposals
    from aweigh.prediction.tta import TTA
    from aweigh.predictor import Predictor


def one_line(text: str) -> str:
    """The text with every run of white space, line ends included, as one space, and nothing that moves a cursor."""
    return " ".join(printable(part) for part in text.split())


def log() -> "Console":
    """The console for progress and remarks: the error stream, so that the output stream carries results alone."""
    from aweigh.training.logs.screen import Screen

    return Screen(stderr=True, highlight=False, soft_wrap=True)


def find_recipe(name: str) -> Path:
    """The file of a recipe, given as a path or as the name of one that comes with the package."""
    if Path(name).is_file():
        return Path(name)
    known = packaged_recipes()
    stem = name.removesuffix(".toml")
    if stem in known:
        return known[stem]
    raise UsageError(
        f"There is no recipe {name!r}: neither a file of that path nor one of {', '.join(known) or 'none'}."
        f"{did_you_mean(stem, known)}"
    )


def sample_photograph() -> Path:
    """A photograph of a person that comes with matplotlib, one of our dependencies."""
    import matplotlib

    path = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    if not path.is_file():
        raise UsageError(f"This matplotlib came without its sample data ({path}); name a picture of your own.")
    return path


_VIEWS = Group("How pictures are looked at", sort_key=100)


def _flag(help: str) -> Parameter:
    return Parameter(group=_VIEWS, help=help, show_default=False)


def check_loading(batch: int, workers: int) -> None:
    """`UsageError` for a batch (0 is the usual one) or a number of processes that cannot be."""
    check_reach("batch", batch or 1)
    if workers < 0:
        raise UsageError(f"workers = {workers}: expected a number of processes, or 0 to read in this one.")
    check_reach("workers", workers)


@dataclass(frozen=True)
class Views:
    """How pictures are looked at: flags that several commands share."""

    resize: Annotated[
        str,
        _flag(
            "Another size than in training: original (as it is), the long side as 512, or short side and the long "
            "one's limit as 800,1333. Pictures are padded to multiples of the detector's stride."
        ),
    ] = ""
    tta: Annotated[str, _flag("Test augmentation: flip, multiscale, or both as flip,multiscale.")] = ""
    scales: Annotated[str, _flag("Factors on the size, for multiscale; 0.5,0.75,1,1.25,1.5 when not given.")] = ""
    merge: Annotated[
        Literal["nms", "soft", "weighted"] | None,
        _flag(
            "What becomes of boxes that overlap: the best stays (nms), the scores of the others are lowered (soft), "
            "their mean takes their place (weighted). When not given, soft for CenterNet, else nms."
        ),
    ] = None
    flip_pairs: Annotated[
        str,
        _flag(
            "Classes that change places in a flip, as left_hand=right_hand,left_foot=right_foot; found by name when "
            "not given, none for no pair."
        ),
    ] = ""

    def augmentation(self) -> "TTA":
        """What --tta, --scales, --merge and --flip-pairs say; a `UsageError` where they do not go together."""
        from aweigh.prediction.tta import SCALES, TTA

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


AS_TRAINED = Views()


def find_detector(model: str, weights: str, device: str, views: Views = AS_TRAINED) -> "Predictor":
    """The detector of a checkpoint, or of published weights by the detector's name.

    model: a checkpoint that training wrote, or its run folder (then the best weights), or a name that `aweigh models`
    lists; the latter needs `weights`, the name of published weights or a file of them, unless its weights come with the
    package. views: the size and the test augmentation.
    """
    tta = views.augmentation()
    predictor = _find_detector(model, weights, device)
    if views.resize:
        predictor.resize = predictor.resize.with_size(views.resize)
    predictor.tta = tta
    tta.class_order(predictor.classes)  # where a flip pair is no class
    return predictor


def _find_detector(model: str, weights: str, device: str) -> "Predictor":
    from aweigh.images.resize import Resize
    from aweigh.models import DETECTORS, PUBLISHED, create
    from aweigh.prediction.device import choose_device
    from aweigh.predictor import Predictor, load

    chosen = choose_device(device)
    if model not in DETECTORS:
        if weights:
            raise UsageError(
                f"--weights goes with the name of a detector, and {model!r} is none.{did_you_mean(model, DETECTORS)}"
            )
        if not Path(model).suffix and not Path(model).exists():
            raise UsageError(
                f"{model!r} is neither a checkpoint file nor a detector.{did_you_mean(model, DETECTORS)} "
                "`aweigh models` lists the detectors."
            )
        return load(checkpoint_of(model), device=chosen)
    if not weights and "box" not in PUBLISHED.get(model, {}):
        raise UsageError(
            f"{model} has no weights yet: add --weights NAME or FILE (`aweigh models` lists the published ones), "
            "or give a checkpoint that `aweigh train` wrote."
        )
    detector = create(model, weights=weights or "box")
    return Predictor(detector, Resize(**detector.record.resize), device=chosen)


def checkpoint_of(model: str) -> str:
    """The file of a checkpoint: of a run folder its best weights."""
    best = Path(model) / "best.safetensors"
    if Path(model).is_dir() and not best.is_file():
        raise UsageError(f"{model} is a folder without best.safetensors; name a checkpoint or the folder of a run.")
    return str(best) if Path(model).is_dir() else model


def given_proposals(detector: Any, file: Path | None) -> "Proposals | None":
    """The proposals of a file, which a detector must need, and cannot do without then."""
    from aweigh.annotations.proposals import read_proposals

    needed = getattr(detector, "needs_proposals", False)
    if needed and file is None:
        raise UsageError(
            f"{detector.builder} proposes no regions itself: add --proposals-file FILE; `aweigh proposals` makes one."
        )
    if file is not None and not needed:
        raise UsageError(f"--proposals-file {file}: {detector.builder} proposes regions itself; leave it out.")
    return None if file is None else read_proposals(file)


def run_in_processes(count: int) -> int:
    """Run this command line again in `count` processes, as `torchrun` does; the exit code."""
    check_reach("processes", count)
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    if "WORLD_SIZE" in os.environ:
        raise UsageError("--processes starts processes, and torchrun has done so already; leave one of them out.")
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    words, kept = iter(sys.argv[1:]), []
    for word in words:
        if word == "--processes":
            next(words, None)
        elif not word.startswith("--processes="):
            kept.append(word)
    try:
        torchrun(["--standalone", "--nproc-per-node", str(count), "-m", "aweigh", *kept])
    except SignalException as error:
        return 128 + error.sigval
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        return failure.exitcode if failure.exitcode > 0 else 1
    return 0


@contextmanager
def bar(description: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """A progress bar on the error stream, where that is a terminal; call it with the number done. Gone at the end."""
    from rich.progress import Progress

    console = log()
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(description, total=total)
        yield lambda done: progress.update(task, completed=done)
