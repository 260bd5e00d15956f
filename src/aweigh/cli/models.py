"""`aweigh models`: every detector that can be built, its size, and the weights others have published for it."""


def command() -> None:
    """List the detectors that can be built, and what is known of each.

    Parameters are counted with 80 classes. Metrics of published weights are those their source states.
    """
    from rich.console import Console
    from rich.table import Table

    from aweigh.models import DETECTORS, PUBLISHED

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("detector", min_width=max(map(len, DETECTORS)))  # whole, for one has to type it
    table.add_column("parameters", justify="right", no_wrap=True)
    table.add_column("--weights: metrics")
    for name in DETECTORS:
        published = [
            f"{record.name}: {', '.join(f'{key} {value:g}' for key, value in record.metrics.items())}"
            for record in PUBLISHED.get(name, {}).values()
        ]
        table.add_row(name, f"{parameters(name) / 1e6:.1f} M", "\n".join(published) or "-")
    screen = Console(highlight=False)
    screen.print(table)
    records = {record.file: record for published in PUBLISHED.values() for record in published.values()}
    for record in records.values():
        screen.print(
            f"\n{record.name}: {record.source}\n  licence: {record.licence}\n  file: {record.file}", markup=False
        )
    screen.print("\nBuild one: aweigh.create(NAME, num_classes=3). Train one: aweigh train DATA --model NAME.")


def parameters(name: str) -> int:
    """The number of parameters of a detector with 80 classes, counted without making them."""
    import torch

    from aweigh.models import create

    with torch.device("meta"):
        return sum(parameter.numel() for parameter in create(name).parameters())
