"""Prediction of many images on a cluster, by Ray Data: a pool of processes, each of which does part after part.

    counts = aweigh.cluster.predict_files("s3://bucket/photos", "s3://bucket/out", address="auto")

Stopped at any moment and called again, it does what is missing. See `aweigh.cluster.job` for what it writes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from aweigh.arguments import Share, check_value
from aweigh.cluster.attempts import Attempts
from aweigh.cluster.job import Counts, Job, Manifest, begin_job, check_free, check_same, find_job
from aweigh.cluster.loader import Loader
from aweigh.cluster.part import FORMATS_OF_PARTS, count_part, predict_part
from aweigh.cluster.ray_cluster import FOR_EVER, Workers, done_on_cluster, joined_cluster
from aweigh.errors import UsageError, check_reach
from aweigh.images.decode import ValueRange
from aweigh.images.sources import images_of, together
from aweigh.images.sources.source import Images
from aweigh.images.stored import StoredImage
from aweigh.predictor import SCORE, load

Progress = Callable[[Job, Counts], object]


def predict_files(
    source: str | Path | Sequence[str | Path],
    output: str | Path,
    model: str | Path = "box",
    *,
    address: str = "",
    workers: Workers = Workers(),
    format: Literal["jsonl", "parquet"] = "jsonl",
    recursive: bool = False,
    allow_net: bool = False,
    score: float = SCORE,
    classes: Sequence[str] = (),
    batch: int = 0,
    exif: Literal["apply", "ignore"] = "apply",
    value_range: ValueRange = "auto",
    progress: Progress = lambda job, counts: None,
    **loading: Any,
) -> Counts:
    """Find objects in all images of a source on a cluster of Ray, and write them in parts; what is there is not done
    again.

    source: files, folders, patterns, lists (`@list.txt`), on a disk that all machines see by the same name, or in a
    store (`s3://...`); addresses with `allow_net`. output: a folder on such a disk or in a store. model, loading: as
    `aweigh.load` takes them; a file is sent along. address: see `joined_cluster`. format: of the parts. batch: images
    at a time, 0 for what pays. The rest as `Predictor.stream` has it. progress: called with the job and what is done of
    it, whenever a part is. Returns what is in all parts.

    `UsageError` where the folder holds another job or other files. `StoreError` where a store does not answer or gives
    no right; what is written stays.
    """
    sources = [str(each) for each in ([source] if isinstance(source, str | Path) else source)]
    make = partial(load, **{"threads": workers.cpus, **loading})
    about = {name: value if isinstance(value, str | int | float) else str(value) for name, value in loading.items()}
    return predict_on_cluster(
        sources,
        str(output),
        Loader.of(model, make, loading.get("weights", "")),
        about=about,
        address=address,
        workers=workers,
        format=format,
        recursive=recursive,
        allow_net=allow_net,
        reading={"exif": exif, "value_range": value_range},
        score=score,
        classes=classes,
        batch=batch,
        progress=progress,
    )


def predict_on_cluster(
    sources: Sequence[str],
    output: str,
    loader: Loader,
    *,
    about: Mapping[str, Any],
    address: str,
    workers: Workers,
    format: str,
    recursive: bool,
    allow_net: bool,
    score: float,
    classes: Sequence[str],
    batch: int,
    reading: Mapping[str, Any],
    progress: Progress,
) -> Counts:
    """`predict_files` with a detector of any making. about: what its detections depend on beside its file. reading:
    `exif` and `value_range`."""
    if format not in FORMATS_OF_PARTS:
        raise UsageError(
            f"--format {format} cannot be written in parts; a cluster writes {' or '.join(FORMATS_OF_PARTS)}."
        )
    check_value("score", score, Share)
    check_reach("batch", batch or 1)
    looking = {"score": score, "classes": [*classes], **reading}
    asked = {"model": loader.model, "digest": loader.digest, **about, **looking, "batch": batch}
    job = find_job(output)
    if job is not None:
        check_same(job, tuple(sources), format, asked)
    else:
        check_free(output)
        images = together([images_of(name, recursive=recursive, allow_net=allow_net) for name in sources])
        job = begin_job(output, tuple(sources), _names(images), format=format, asked=asked)
    done, manifest = job.done(), Manifest(job)
    for part in manifest.load(done):
        manifest.add(count_part(job, part, done[part]))
    progress(job, manifest.counts)
    missing = [part for part in range(job.parts) if part not in done]
    try:
        if missing:
            with joined_cluster(address):
                import ray

                attempts = ray.remote(num_cpus=0, max_restarts=FOR_EVER)(Attempts).remote()
                begin = _Begin(job, loader, batch, allow_net, looking, attempts)
                for _, entry in done_on_cluster(begin, missing, workers):
                    manifest.add(entry)
                    progress(job, manifest.counts)
    finally:
        manifest.write()
    return manifest.counts


def _names(images: Images) -> Iterator[str]:
    """What the images are called; `UsageError` for those that cannot be found by it on another machine."""
    for image in images.each():
        if not isinstance(image, Path | StoredImage) or (isinstance(image, StoredImage) and "://" not in image.name):
            raise UsageError(f"{image}: a cluster opens no archives and videos. Unpack it, and name the folder.")
        yield str(image)


@dataclass(frozen=True)
class _Begin:
    """What each process needs to do parts; called, it makes its detector."""

    job: Job
    loader: Loader
    batch: int
    allow_net: bool
    looking: Mapping[str, Any]
    attempts: Any

    def __call__(self) -> Callable[[int], dict[str, Any]]:
        predictor = self.loader()
        predictor.with_images([], **self.looking).close()  # where it is asked for what there is not
        batch = self.batch or predictor.engine.usual_batch
        how = {"batch": batch, "allow_net": self.allow_net, **self.looking}
        return lambda part: predict_part(self.job, part, predictor, _Remote(self.attempts), **how)


class _Remote:
    """`Attempts` of another process; each call is there before it returns."""

    def __init__(self, attempts: Any) -> None:
        self._attempts = attempts

    def begin(self, part: int) -> tuple[set[int], set[int]]:
        alone, lost = self._ask("begin", part)
        return alone, lost

    def at(self, part: int, images: range) -> None:
        self._ask("at", part, images)

    def done(self, part: int) -> None:
        self._ask("done", part)

    def _ask(self, name: str, *given: Any) -> Any:
        import ray

        return ray.get(getattr(self._attempts, name).remote(*given))
