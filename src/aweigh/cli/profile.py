"""`aweigh profile ...`: what a network costs, and how ShuffleNet V2 uses its features."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Group, Parameter

from aweigh.cli.tables import print_table
from aweigh.cli.terminal import output
from aweigh.errors import UsageError, check_reach, counted, did_you_mean

if TYPE_CHECKING:
    from torch import Tensor

    from aweigh.profiling.cost import Cost

app = App(
    name="profile",
    help="Count what a network costs, and see how it uses its features.",
    help_format="plaintext",
    group_commands=Group("Commands"),
)


@app.command
def cost(
    model: str,
    /,
    *,
    size: int = 416,
    layers: Annotated[bool, Parameter(negative="", show_default=False)] = False,
) -> None:
    """Count parameters, multiply-adds (FLOPs) and memory access of a network, part by part.

    Those of convolutions and linear layers, for one square picture; memory access is the number of values that they
    read and write. Nothing is computed, so it takes no time.

    Parameters
    ----------
    model
        A detector of aweigh models, a checkpoint, a network of the ShuffleNet V2 paper (as shufflenet_v2_x1_0, with
        its classifier), or a timm backbone.
    size
        Side of the picture in pixels.
    layers
        List every layer.
    """
    from aweigh.profiling.cost import shortened

    check_reach("size", size)
    if size < 1:
        raise UsageError(f"size = {size}: expected a number above 0.")
    found = costs(model, size)
    titles = ("layer" if layers else "part", "parameters", "multiply-adds", "memory access")
    rows = [
        (row.name, *map(shortened, (row.parameters, row.multiply_adds, row.memory_access)))
        for row in (*(found.layers if layers else found.parts), found.total)
    ]
    screen = output()
    screen.print(f"{model}, one picture of {size} x {size}", soft_wrap=True)
    print_table(screen, titles, rows, bold=(len(rows) - 1,))


@app.command
def reuse(
    model: str,
    /,
    *,
    output: Annotated[Path, Parameter(alias="-o")] = Path("reuse.png"),
) -> None:
    """Draw which earlier units each unit of a ShuffleNet V2 reads, and how strongly (figure 4 of the paper).

    Parameters
    ----------
    model
        A file with the weights of a body, a classifier, or a detector on it; or a name, as shufflenet_v2_x1_0, for its
        published weights.
    output
        The picture to write (.png, .pdf, .svg).
    """
    from aweigh.backbones.shufflenet_v2 import BUILDERS
    from aweigh.profiling.reuse import body_of, feature_reuse
    from aweigh.visualise import feature_reuse as draw
    from aweigh.weights.load import load_backbone, read_state

    if model in BUILDERS:
        body = BUILDERS[model]()
        load_backbone(body, "imagenet")
    elif Path(model).suffix or Path(model).exists():
        body = body_of(read_state(model), what=model)
    else:
        raise UsageError(f"{model!r} is neither a file nor a ShuffleNet V2.{did_you_mean(model, BUILDERS)}")
    found = feature_reuse(body)
    draw(found.weights.numpy(), found.channels.numpy(), found.sources, found.units, output)
    print(f"Feature reuse of {body.name}, {counted(len(found.units), 'unit')}: {output}")


def run_network(detector: Any, pixels: "Tensor") -> object:
    """On one picture, with one proposal for a detector that needs them."""
    from aweigh.models.detector import network_inputs
    from aweigh.structures import Images

    size_hw = (pixels.shape[2], pixels.shape[3])
    return detector.network(*network_inputs(detector, Images(pixels, [size_hw], pixels.new_zeros(1, 1, 4))))


def costs(model: str, size: int) -> "Cost":
    """The cost of a network by its name or file."""
    import timm
    import torch

    from aweigh.backbones.shufflenet_v2 import BUILDERS, classifier
    from aweigh.backbones.timm import TimmBackbone
    from aweigh.checkpoints.checkpoint import load_model
    from aweigh.models import DETECTORS, create
    from aweigh.profiling.cost import count

    size_hw = (size, size)
    if Path(model).suffix == ".safetensors":
        return count(load_model(model)[0], size_hw, run=run_network)
    with torch.device("meta"):
        if model in DETECTORS:
            return count(create(model), size_hw, run=run_network)
        if model in BUILDERS:
            return count(classifier(BUILDERS[model]()), size_hw)
    if timm.is_model(model):
        return count(TimmBackbone(model).body, size_hw)
    raise UsageError(
        f"{model!r} is neither a checkpoint, nor a detector, nor a backbone."
        f"{did_you_mean(model, [*DETECTORS, *BUILDERS, *timm.list_models()])} `aweigh models` lists the detectors."
    )
