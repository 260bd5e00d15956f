"""A detector as a service: its batcher, its limits, its metrics, and the answer to one request for detections."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from aweigh.arguments import Count, NotNegative, Share, Within, check_fields, check_value
from aweigh.detections import Detections
from aweigh.errors import AweighError, counted
from aweigh.geometry.tiles import Tiles
from aweigh.predictor import SCORE, Predictor, computes_with_torch
from aweigh.runtime.threads import usable_cores
from aweigh.scenes import STREET
from aweigh.serving.answers import answer, json_response
from aweigh.serving.batching import Asked, Batcher, BusyError, Job
from aweigh.serving.limits import Limits
from aweigh.serving.metrics import Metrics
from aweigh.serving.requests import Sent, Wanted, read_body, read_wanted, size_of

if TYPE_CHECKING:
    from aweigh.explanation.explain import Explainer

RETRY_SECONDS = 1  # ours: what a client is told to wait where the queue is full
MOST_WORKERS = 4  # ours: threads that keep an engine busy, where nobody says how many

log = logging.getLogger("aweigh.serve")


@dataclass(frozen=True)
class Batching:
    """workers: threads that compute, 0 for as many as there are cores, up to four. max_batch: images that go through
    the network together, 0 for as many as pay. max_delay: seconds that an image waits for others."""

    workers: Annotated[int, Within(0, 256)] = 0
    max_batch: Annotated[int, Within(0, 1024)] = 0
    max_delay: NotNegative = 0.0

    def __post_init__(self) -> None:
        check_fields(self)

    def of(self, predictor: Predictor) -> Batching:
        """With numbers in place of 0."""
        workers = self.workers or min(usable_cores(), MOST_WORKERS)
        return Batching(workers, self.max_batch or predictor.engine.usual_batch, self.max_delay)


class Service:
    """load: gives the detector, at the start and at each reload. name: what it is called in addresses. metrics: of
    all services of the process. explainer: gives what says where detections come from, where the detector is one of
    torch; it is asked for with the first question."""

    def __init__(
        self,
        load: Callable[[], Predictor],
        name: str,
        limits: Limits,
        batching: Batching,
        metrics: Metrics,
        explainer: Callable[[], Explainer] | None = None,
    ) -> None:
        self.name, self.limits, self.metrics, self._load = name, limits, metrics, load
        self._explainer, self._explaining = explainer, asyncio.Lock()
        self._loaded_explainer: Explainer | None = None
        predictor = self._checked(load())
        chosen = batching.of(predictor)
        self.batcher = Batcher(
            predictor,
            workers=chosen.workers,
            max_batch=chosen.max_batch,
            max_delay=chosen.max_delay,
            max_waiting=limits.waiting,
            watch=partial(metrics.computed, name),
        )
        metrics.queue.labels(name).set_function(lambda: self.batcher.waiting)
        self._reloading = threading.Lock()
        self.ready = False

    @property
    def predictor(self) -> Predictor:
        return self.batcher.predictor

    def warm_up(self) -> None:
        """A first real inference; the service is ready after it."""
        self.predictor(STREET)
        self.ready = True

    def reload(self) -> bool:
        """The model read anew, while the old one answers; it stays where the new one cannot be used."""
        with self._reloading:
            try:
                predictor = self._checked(self._load())
                predictor(STREET)
            except (AweighError, OSError, MemoryError) as error:
                self.metrics.reloads.labels(self.name, "failed").inc()
                log.error("the model was not reloaded, the old one answers: %s", error)
                return False
            self.batcher.predictor, self._loaded_explainer = predictor, None
            self.metrics.reloads.labels(self.name, "done").inc()
            log.info("the model was reloaded: %s", predictor.engine.computed_by)
            return True

    def close(self) -> None:
        """What was accepted is answered."""
        self.ready = False
        self.batcher.close()

    def about(self) -> dict[str, Any]:
        """`GET /v1/model`: what there is to know of the detector."""
        engine = self.predictor.engine
        return {
            "name": self.name,
            "detector": engine.name,
            "computed_by": engine.computed_by,
            "classes": [
                {"name": name, "category_id": number}
                for name, number in zip(engine.classes.names, engine.classes.ids, strict=True)
            ],
            "finds": ["boxes", *engine.extras],
            "explains": self._explainer is not None and computes_with_torch(engine),
            "resize": str(self.predictor.resize),
            "settings": dict(engine.settings),
        }

    async def detect(self, request: Request) -> Response:
        """`POST /v1/detect`."""
        begun = time.perf_counter()
        wanted = await read_wanted(request, self.limits, self.predictor.classes)
        begun = self._took("receive", begun)
        sizes = await asyncio.to_thread(self._sizes, wanted)
        begun = self._took("check", begun)
        found = await self.found([image.content for image in wanted.images], sizes, wanted.asked, request)
        if not wanted.several and found[0].error is not None:
            raise HTTPException(400, found[0].error)
        begun = time.perf_counter()
        response = await asyncio.to_thread(answer, wanted, found)
        self._took("write", begun)
        return response

    async def explain(self, request: Request) -> Response:
        """`POST /v1/explain?box=3&score=0.5`: where that detection of the image comes from. One at a time: 503 while
        another is explained."""
        if not self.about()["explains"]:
            raise HTTPException(404, f"{self.name} is a graph, which keeps no answers but its detections.")
        try:
            box = check_value("box", request.query_params.get("box", "1"), Count)
            score = check_value("score", request.query_params.get("score", SCORE), Share)
        except AweighError as error:
            raise HTTPException(400, str(error)) from error
        image = Sent(await read_body(request, self.limits))
        if isinstance(size := await asyncio.to_thread(self.size, image), HTTPException):
            raise size
        if self._explaining.locked():
            raise HTTPException(503, "Another detection is being explained.", {"Retry-After": str(RETRY_SECONDS)})
        async with self._explaining:
            try:
                return json_response(await asyncio.to_thread(self._explained, image.content, box, score))
            except AweighError as error:
                raise HTTPException(400, str(error)) from error

    def _explained(self, image: bytes, box: int, score: float) -> dict[str, Any]:
        if self._loaded_explainer is None:
            assert self._explainer is not None
            self._loaded_explainer = self._explainer()
        said = self._loaded_explainer.explain(image, box=box, score=score, evidence=False)
        return {"text": said.text(), "explanation": said.to_dict()}

    async def found(
        self,
        images: Sequence[bytes | np.ndarray],
        sizes: Sequence[tuple[int, int] | HTTPException],
        asked: Asked,
        request: Request,
    ) -> list[Detections]:
        """The detections of each image; of one that is no image (its size is an error) an empty result that says why.

        400 for what this detector does not take, 413 for too many tiles, 503 where too many wait, 504 where it takes
        too long. What nobody waits for any more is not computed.
        """
        self._check_tiles(asked, [size for size in sizes if not isinstance(size, HTTPException)])
        jobs = [
            None if isinstance(size_hw, HTTPException) else Job(image, size_hw, asked)
            for image, size_hw in zip(images, sizes, strict=True)
        ]
        waited = [job for job in jobs if job is not None]
        try:
            self.batcher.submit(*waited)
        except BusyError as error:
            raise HTTPException(503, str(error), {"Retry-After": str(RETRY_SECONDS)}) from error
        try:
            async with asyncio.timeout(self.limits.seconds), _while_connected(request):
                results = iter(await asyncio.gather(*(asyncio.wrap_future(job.found) for job in waited)))
        except TimeoutError as error:
            raise HTTPException(504, f"No answer within {self.limits.seconds:g} seconds.") from error
        except AweighError as error:  # of an option that this detector does not take
            raise HTTPException(400, str(error)) from error
        finally:
            for job in waited:
                job.found.cancel()
        classes = self.predictor.classes
        return [
            Detections.empty(classes, error=size.detail) if isinstance(size, HTTPException) else next(results)
            for size in sizes
        ]

    def _check_tiles(self, asked: Asked, sizes: Sequence[tuple[int, int]]) -> None:
        """413 where an image would be cut into more tiles than allowed."""
        tiles = self.predictor.tiles
        if asked.tile is not None:
            tiles = Tiles(asked.tile, asked.overlap) if asked.tile else None
        if tiles is None:
            return
        for height, width in sizes:
            if (count := tiles.count(height, width)) > self.limits.tiles:
                raise HTTPException(413, f"{counted(count, 'tile')} of an image; at most {self.limits.tiles}.")

    def _sizes(self, wanted: Wanted) -> list[tuple[int, int] | HTTPException]:
        """Of each image; the error of one alone is raised."""
        sizes = [self.size(image) for image in wanted.images]
        if not wanted.several and isinstance(sizes[0], HTTPException):
            raise sizes[0]
        return sizes

    def size(self, image: Sent) -> tuple[int, int] | HTTPException:
        try:
            return size_of(image, self.limits)
        except HTTPException as error:
            return error

    def _took(self, stage: str, begun: float) -> float:
        now = time.perf_counter()
        self.metrics.seconds.labels(self.name, stage).observe(now - begun)
        return now

    def _checked(self, predictor: Predictor) -> Predictor:
        if predictor.engine.needs_proposals:
            raise AweighError(f"{predictor.engine.name} needs proposals, which no request has; serve another detector.")
        return predictor


@asynccontextmanager
async def _while_connected(request: Request) -> AsyncIterator[None]:
    """Ends with a status of 499 as soon as who asked has gone."""
    waiting = asyncio.current_task()
    assert waiting is not None
    gone = False

    async def watch() -> None:
        nonlocal gone
        while (await request.receive())["type"] != "http.disconnect":
            pass
        gone = True
        waiting.cancel()

    watcher = asyncio.ensure_future(watch())
    try:
        yield
    except asyncio.CancelledError:
        if gone:
            waiting.uncancel()
            raise HTTPException(499, "Who asked has gone.") from None
        raise
    finally:
        watcher.cancel()
