"""A server of S3 and a cluster of two nodes on this machine, for as long as a test needs them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
KEYS = {
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}
ALONE = {  # nothing is told to anybody, no dashboard is served, and the nodes find this library and these tests
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "PYTHONPATH": os.pathsep.join([str(REPOSITORY / "src"), str(REPOSITORY)]),
}


@contextmanager
def environment(values: dict[str, str]) -> Iterator[None]:
    """Within it, this process and those it starts see these variables."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)


@contextmanager
def s3_server(*buckets: str) -> Iterator[None]:
    """A server on the loopback with these buckets, which `s3://` names within it."""
    from moto.server import ThreadedMotoServer
    from pyarrow.fs import S3FileSystem

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        with environment({**KEYS, "AWS_ENDPOINT_URL": f"http://{host}:{port}"}):
            system = S3FileSystem(
                region="us-east-1", endpoint_override=f"http://{host}:{port}", allow_bucket_creation=True
            )
            for bucket in buckets:
                system.create_dir(bucket)
            yield
    finally:
        server.stop()


@contextmanager
def two_nodes() -> Iterator[str]:
    """The address of a cluster with a core on each of two nodes."""
    from ray.cluster_utils import Cluster

    with environment(ALONE):
        cluster = Cluster()
        try:
            for _ in range(2):
                cluster.add_node(num_cpus=1, object_store_memory=80_000_000, include_dashboard=False)
            yield cluster.address
        finally:
            cluster.shutdown()
