"""The two-node test cluster is what it says it is, and leaves nothing behind."""

import urllib.error
import urllib.request

import pytest

from tests.cluster import HEAD_IP, WORKER_IP, running, two_node_cluster


@pytest.mark.ray
def test_cluster_has_two_nodes_with_gpus_on_the_second_only_and_ends_without_trace() -> None:
    with two_node_cluster(gpus=2, cpus=2, head_cpus=1) as cluster:
        nodes = {node["node_ip"]: node for node in cluster.nodes()}
        assert {ip: node["state"] for ip, node in nodes.items()} == {HEAD_IP: "ALIVE", WORKER_IP: "ALIVE"}
        assert nodes[HEAD_IP]["is_head_node"] and not nodes[WORKER_IP]["is_head_node"]
        resources = {
            ip: {name: node["resources_total"].get(name, 0) for name in ("CPU", "GPU")}
            for ip, node in nodes.items()
        }
        assert resources == {HEAD_IP: {"CPU": 1, "GPU": 0}, WORKER_IP: {"CPU": 2, "GPU": 2}}
        with pytest.raises(urllib.error.HTTPError, match="401") as refused:
            urllib.request.urlopen(f"{cluster.address}/api/v0/nodes", timeout=5)
        refused.value.close()
        assert running(cluster.folder)
    assert not cluster.folder.exists()
    assert not running(cluster.folder)
