"""`aweigh profile ...`: what a network costs, how long it takes here, and how ShuffleNet V2 uses its features."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from aweigh.cli.flags import JsonFile
from aweigh.cli.help import epilogue, several
from aweigh.cli.profile_time import advice, guidelines, machine, speed
from aweigh.cli.tables import print_table
from aweigh.cli.terminal import log, output, write_numbers
from aweigh.errors import UsageError, check_reach, counted, shortened

if TYPE_CHECKING:
    from aweigh.profiling.cost import Cost

app = several("profile", "What a network costs, how long it takes on this machine, and why.", "profile speed")
for _command in (speed, machine, guidelines, advice):
    app.command(_command, help_epilogue=epilogue(f"profile {_command.__name__}"))


@app.command(help_epilogue=epilogue("profile cost"))
def cost(
    model: str,
    /,
    *,
    arguments: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative="")] = (),
    size: int = 416,
    by: Literal["part", "stage", "layer", "operator"] = "part",
    json_file: JsonFile = None,
) -> None:
    """Count parameters, multiply-adds (FLOPs) and memory access of a network, part by part.

    For one square image. Multiply-adds are those of convolutions and matrix products; memory access is the number of
    values that these read and write, activations are those they write, and intensity is multiply-adds for each value of
    memory access. --by operator also shows what the rest reads and writes. Nothing is computed, so it takes no
    time; an ONNX file alone is run once.

    Args:
        model: A detector of aweigh models, a checkpoint, the folder of a run, box, a network of the ShuffleNet V2 paper
            (as shufflenet_v2_x1_0 or densenet_small_x0_5, with its classifier), a model of timm, or an exported file
            (.onnx, .xml), which is counted as it is, decoding and suppression included.
        arguments: Options of the detector's builder, each as name=value, for example channels=128.
        size: Side of the image in pixels.
        by: What the rows are: part (backbone, neck, head), stage, layer, or kind of operator.
    """
    from aweigh.arguments import given_by_name
    from aweigh.profiling.networks import cost_of

    check_reach("size", size)
    if size < 1:
        raise UsageError(f"size = {size}: expected a number above 0.")
    found = cost_of(model, size, given_by_name(arguments, of="--arguments", example="channels=128"))
    screen = output()
    screen.print(f"{' '.join((model, *arguments))}, one image of {size} x {size}", soft_wrap=True)
    if by == "operator":
        show_kinds(found)
    else:
        show_parts(found, by)
    if found.unknown:
        log().print(f"Not known, and counted without multiply-adds: {', '.join(found.unknown)}")
    if json_file is not None:
        write_numbers(json_file, {"model": model, "arguments": list(arguments), "size": size, **found.to_dict()})


def show_parts(found: "Cost", by: Literal["part", "stage", "layer"]) -> None:
    """A row for each, and one for all."""
    parts = {"part": found.parts, "stage": found.stages, "layer": found.layers}[by]
    titles = (by, "parameters", "multiply-adds", "memory access", "activations", "intensity")
    rows = [
        (
            row.name,
            *map(shortened, (row.parameters, row.multiply_adds, row.memory_access, row.activations)),
            f"{row.intensity:.1f}",
        )
        for row in (*parts, found.total)
    ]
    print_table(output(), titles, rows, bold=(len(rows) - 1,))


def show_kinds(found: "Cost") -> None:
    """A row for each kind of operator."""
    titles = ("operator", "calls", "multiply-adds", "values read", "written", "weights", "intensity")
    rows = [
        (
            row.kind,
            str(row.calls),
            *map(shortened, (row.multiply_adds, row.read, row.written, row.weights)),
            f"{row.intensity:.1f}",
        )
        for row in found.kinds
    ]
    print_table(output(), titles, rows)


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
