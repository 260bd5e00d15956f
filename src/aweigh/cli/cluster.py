"""`aweigh cluster ...`: what a job on a cluster has done."""

import json

from aweigh.cli.flags import AsJson
from aweigh.cli.help import epilogue, several
from aweigh.cli.terminal import output

app = several("cluster", "Look at jobs of `aweigh predict --cluster`.", "cluster status")


@app.command(help_epilogue=epilogue("cluster status"))
def status(out: str, /, *, as_json: AsJson = False) -> None:
    """Tell how far a job is: images, parts, errors, its rate, the time left. Needs no Ray.

    Args:
        out: The folder of its output, on a disk or in a store.
        as_json: The same as JSON.
    """
    from aweigh.cluster.job import status_of

    found = status_of(out)
    output().print(json.dumps(found.to_dict(), indent=2) if as_json else str(found))
