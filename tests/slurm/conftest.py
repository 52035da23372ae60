"""The test cluster, once a session."""

import pytest

from slurm.cluster import Cluster, ClusterError


@pytest.fixture(scope="session")
def cluster():
    """A running cluster; where none can be had, a skip that says why."""
    cluster = Cluster()
    try:
        cluster.start()
    except ClusterError as error:
        pytest.skip(f"no SLURM cluster here: {error}")
    yield cluster
    cluster.stop()
