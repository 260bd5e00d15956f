"""`aweigh profile ...`: what a network costs, and how ShuffleNet V2 uses its features."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from aweigh.cli.help import epilogue, several
from aweigh.cli.tables import print_table
from aweigh.cli.terminal import output
from aweigh.errors import UsageError, check_reach, counted, shortened

app = several("profile", "Count what a network costs, and see how it uses its features.", "profile cost")


@app.command(help_epilogue=epilogue("profile cost"))
def cost(
    model: str,
    /,
    *,
    arguments: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative="")] = (),
    size: int = 416,
    layers: Annotated[bool, Parameter(negative="", show_default=False)] = False,
) -> None:
    """Count parameters, multiply-adds (FLOPs) and memory access of a network, part by part.

    Those of convolutions and linear layers, for one square image; memory access is the number of values that they
    read and write. Nothing is computed, so it takes no time.

    Args:
        model: A detector of aweigh models, a checkpoint, the folder of a run, box, a network of the ShuffleNet V2 paper
            (as shufflenet_v2_x1_0 or densenet_small_x0_5, with its classifier), or a timm backbone.
        arguments: Options of the detector's builder, each as name=value, for example channels=128.
        size: Side of the image in pixels.
        layers: List every layer.
    """
    from aweigh.arguments import given_by_name
    from aweigh.profiling.networks import cost_of

    check_reach("size", size)
    if size < 1:
        raise UsageError(f"size = {size}: expected a number above 0.")
    found = cost_of(model, size, given_by_name(arguments, of="--arguments", example="channels=128"))
    titles = ("layer" if layers else "part", "parameters", "multiply-adds", "memory access")
    rows = [
        (row.name, *map(shortened, (row.parameters, row.multiply_adds, row.memory_access)))
        for row in (*(found.layers if layers else found.parts), found.total)
    ]
    screen = output()
    screen.print(f"{' '.join((model, *arguments))}, one image of {size} x {size}", soft_wrap=True)
    print_table(screen, titles, rows, bold=(len(rows) - 1,))


@app.command(help_epilogue=epilogue("profile reuse"))
def reuse(model: str, /, *, output: Annotated[Path, Parameter(alias="-o")] = Path("reuse.png")) -> None:
    """Draw which earlier units each unit of a ShuffleNet V2 reads, and how strongly (figure 4 of the paper).

    Args:
        model: A file with the weights of a backbone, a classifier, or a detector on it; or a name, as
        shufflenet_v2_x1_0,
            for its published weights.
        output: The image to write (.png, .pdf, .svg).
    """
    from aweigh.profiling.networks import shufflenet_of
    from aweigh.profiling.reuse import feature_reuse
    from aweigh.visualise.charts import feature_reuse as draw

    body = shufflenet_of(model)
    found = feature_reuse(body)
    draw(found.weights.numpy(), found.channels.numpy(), found.sources, found.units, output)
    print(f"Feature reuse of {body.name}, {counted(len(found.units), 'unit')}: {output}")
