"""What shares a batch, what waits, and what is not computed at all."""

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from tests.runtime.toy_engines import Spots
from tests.serving.conftest import Answer, Client, Serve, png, predictor_of

from aweigh.errors import DataError
from aweigh.predictor import Predictor
from aweigh.serving.limits import Limits
from aweigh.serving.service import Batching


@dataclass
class Held(Spots):
    """Computes small images once it is let go."""

    free: threading.Event = field(default_factory=threading.Event)
    begun: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def run(self, batch, *, flipped_classes: np.ndarray | None = None):  # type: ignore[no-untyped-def]
        if batch.sizes_hw[0][0] < 100:
            self.begun.release()
            assert self.free.wait(20)
        return super().run(batch, flipped_classes=flipped_classes)

    def sizes(self) -> list[list[tuple[int, int]]]:
        """Of the images of each batch, the first, which is not of a request, left out."""
        return [batch.sizes_hw for batch in self.batches[1:]]


def waiting(client: Client, number: int) -> None:
    for _ in range(2000):
        if client.services[0].batcher.waiting == number:
            return
        time.sleep(0.005)
    raise AssertionError(f"{client.services[0].batcher.waiting} wait, not {number}")


def ask_all(client: Client, pool: ThreadPoolExecutor, engine: Held, *images: bytes, query: str = "") -> list[Answer]:
    """Answers to images that wait together, after one that is being computed."""
    first = pool.submit(client.detect, png(33, 33))
    assert engine.begun.acquire(timeout=20)
    futures = []
    for number, image in enumerate(images, start=1):  # in this order
        futures.append(pool.submit(client.detect, image, query))
        waiting(client, number)
    engine.free.set()
    assert first.result(20).status == 200
    return [future.result(20) for future in futures]


def test_images_of_one_size_that_are_asked_the_same_go_together(serve: Serve):
    engine = Held()
    client = serve(engine, batching=Batching(workers=1, max_batch=3))
    images = [png(64, 32), png(40, 40), png(64, 32), png(64, 32, box=(0, 0, 4, 4)), png(64, 32)]
    with ThreadPoolExecutor(8) as pool:
        answers = ask_all(client, pool, engine, *images)
    assert engine.sizes() == [[(33, 33)], [(32, 64)] * 3, [(40, 40)], [(32, 64)]]
    assert [answer.json["detections"][0]["box"][2] for answer in answers] == [24, 24, 24, 4, 24]
    assert 'aweigh_batch_images_sum{model="toy"} 6.0' in client.metrics
    assert 'aweigh_images_total{model="toy"} 6.0' in client.metrics


def test_other_options_are_another_batch(serve: Serve):
    engine = Held()
    client = serve(engine, batching=Batching(workers=1, max_batch=8))
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(client.detect, png(33, 33))
        assert engine.begun.acquire(timeout=20)
        others = []
        for number, query in enumerate(("", "?score=0.9", "?classes=ball", ""), start=1):
            others.append(pool.submit(client.detect, png(), query))
            waiting(client, number)
        engine.free.set()
        assert [len(other.result(20).json["detections"]) for other in others] == [1, 1, 0, 1]
        assert first.result(20).status == 200
    assert [len(sizes) for sizes in engine.sizes()] == [1, 2, 1, 1]


def test_an_image_waits_for_others_no_longer_than_it_may(serve: Serve):
    engine = Spots()
    client = serve(engine, batching=Batching(workers=1, max_batch=2, max_delay=10))
    with ThreadPoolExecutor(2) as pool:
        assert [answer.status for answer in pool.map(client.detect, [png(), png()])] == [200, 200]
    assert [len(batch.sizes_hw) for batch in engine.batches[1:]] == [2]
    begun = time.monotonic()
    client = serve(Spots(), batching=Batching(workers=1, max_batch=2, max_delay=0.2))
    assert client.detect(png()).status == 200 and time.monotonic() - begun >= 0.2


def test_over_the_queue_a_request_is_told_to_come_again(serve: Serve):
    engine = Held()
    client = serve(engine, limits=Limits(waiting=2))
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(client.detect, png(33, 33))
        assert engine.begun.acquire(timeout=20)
        others = [pool.submit(client.detect, png()) for _ in range(2)]
        waiting(client, 2)
        refused = client.detect(png())
        assert refused.status == 503 and refused.headers["retry-after"] == "1"
        assert "2 images wait" in refused.json["error"]
        engine.free.set()
        assert [other.result(20).status for other in (first, *others)] == [200] * 3
    assert client.detect(png()).status == 200


def test_an_image_whose_time_is_over_is_not_computed(serve: Serve):
    engine = Held()
    client = serve(engine, limits=Limits(seconds=0.5))
    with ThreadPoolExecutor(8) as pool:
        both = [pool.submit(client.detect, png(33, 33)), pool.submit(client.detect, png(34, 34))]
        assert [each.result(20).status for each in both] == [504, 504]
    engine.free.set()
    assert client.detect(png(128, 128)).status == 200
    assert [sizes[0] for sizes in engine.sizes() if sizes[0] != (128, 128)] in ([(33, 33)], [(34, 34)])


def test_an_image_of_who_has_gone_is_not_computed(serve: Serve):
    engine = Held()
    client = serve(engine)
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(client.detect, png(33, 33))
        assert engine.begun.acquire(timeout=20)
        with socket.create_connection(("127.0.0.1", client.port)) as gone:
            image = png(50, 50)
            gone.sendall(b"POST /v1/detect HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(image) + image)
            waiting(client, 1)
        for _ in range(1000):
            if client.services[0].batcher._waiting[0].found.cancelled():
                break
            time.sleep(0.005)
        engine.free.set()
        assert first.result(20).status == 200 and client.detect(png(128, 128)).status == 200
    assert engine.sizes() == [[(33, 33)], [(128, 128)]]


def test_what_was_accepted_is_answered_before_the_end(serve: Serve):
    engine = Held()
    client = serve(engine)
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(client.detect, png(33, 33))
        assert engine.begun.acquire(timeout=20)
        others = [pool.submit(client.detect, png()) for _ in range(3)]
        waiting(client, 3)
        ending = pool.submit(client.services[0].close)
        time.sleep(0.05)
        assert client.ask("/readyz").status == 503 and client.detect(png()).status == 503
        engine.free.set()
        assert [other.result(20).status for other in (first, *others)] == [200] * 4
        ending.result(20)


def test_a_model_is_read_anew_without_a_lost_request_and_the_old_one_stays_where_the_new_one_is_none(serve: Serve):
    loads: list[Predictor | DataError] = [predictor_of(Spots()), predictor_of(Spots(name="new")), DataError("broken")]

    def load() -> Predictor:
        loaded = loads.pop(0)
        if isinstance(loaded, DataError):
            raise loaded
        return loaded

    client = serve(load=load)
    stop = threading.Event()
    statuses: list[int] = []

    def ask() -> None:
        while not stop.is_set():
            statuses.append(client.detect(png()).status)

    asking = threading.Thread(target=ask)
    asking.start()
    assert client.services[0].reload() and client.ask("/v1/model").json["detector"] == "new"
    assert not client.services[0].reload() and client.ask("/v1/model").json["detector"] == "new"
    stop.set()
    asking.join()
    assert set(statuses) == {200}
    assert 'aweigh_reloads_total{model="toy",outcome="failed"} 1.0' in client.metrics
