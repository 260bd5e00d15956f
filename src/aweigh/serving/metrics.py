"""What a service counts and times, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.3, 0.5, 1, 2, 5, 10, 30)
IMAGES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Of one process. Requests are counted by the path of their route, images by the model that they went through."""

    def __init__(self) -> None:
        self.answered = 0
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "aweigh_requests", "Requests by place and status.", ["path", "status"], registry=registry
        )
        self.errors = Counter("aweigh_errors", "Requests that failed inside the service.", ["path"], registry=registry)
        self.images = Counter("aweigh_images", "Images that were computed.", ["model"], registry=registry)
        self.reloads = Counter("aweigh_reloads", "Reloads of the model.", ["model", "outcome"], registry=registry)
        self.seconds = Histogram(
            "aweigh_stage_seconds",
            "Seconds of a request: receive (what it sends), check (heads of images), queue (of the first of a batch), "
            "detect (read, network and selection of a batch), write (the answer).",
            ["model", "stage"],
            buckets=SECONDS,
            registry=registry,
        )
        self.batches = Histogram(
            "aweigh_batch_images",
            "Images that went through the network together.",
            ["model"],
            buckets=IMAGES,
            registry=registry,
        )
        self.queue = Gauge("aweigh_queue_images", "Images that wait to be computed.", ["model"], registry=registry)

    def answer(self, path: str, status: int) -> None:
        """A request is answered."""
        self.answered += 1
        self.requests.labels(path, str(status)).inc()
        if status == 500:
            self.errors.labels(path).inc()

    def computed(self, model: str, images: int, queued: float, seconds: float) -> None:
        """A batch is computed, whose first image waited `queued` seconds."""
        self.images.labels(model).inc(images)
        self.batches.labels(model).observe(images)
        self.seconds.labels(model, "queue").observe(queued)
        self.seconds.labels(model, "detect").observe(seconds)

    def text(self) -> bytes:
        """In Prometheus' format."""
        return generate_latest(self.registry)
