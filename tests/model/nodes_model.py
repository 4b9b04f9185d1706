"""Two nodes of a cluster with a shard each, as a model: does one that is away close the other?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

REST, DECLARED = range(2)


class Rules(NamedTuple):
    """What the protocol demands. One that is False was taken out."""

    declares_its_node_alone: bool = True


class Node(NamedTuple):
    """A node, and the row of its shard."""

    up: bool = True
    known: bool = True
    """It still runs as the boot of its row."""
    open: bool = True
    raised: bool = False


class Cluster(NamedTuple):
    """Everything. The vetter works on some nodes until all of them are raised."""

    nodes: tuple[Node, Node]
    vetted: frozenset[int]
    restarts: int

    def with_node(self, which: int, node: Node) -> Cluster:
        """This cluster with another node in its place."""
        nodes = (node, self.nodes[1]) if which == 0 else (self.nodes[0], node)
        return self._replace(nodes=nodes)


class Nodes:
    """The model. `rules` may have some taken out."""

    hopeless = "whatever follows, a node stays closed"

    def __init__(self, rules: Rules) -> None:
        self.rules = rules

    def start(self) -> Cluster:
        return Cluster((Node(), Node()), frozenset(), 3)

    def same(self, cluster: Cluster) -> Cluster:
        return cluster

    def hoped(self, cluster: Cluster) -> bool:
        return all(node.open and node.up for node in cluster.nodes)

    def fault(self, cluster: Cluster) -> str | None:
        away = any(not cluster.nodes[which].up for which in cluster.vetted)
        for which in cluster.vetted:
            if away and cluster.nodes[which].up and cluster.nodes[which].known:
                return "a node that served is closed until another one is back"
        return None

    def steps(self, cluster: Cluster) -> Iterator[tuple[str, Cluster]]:
        for which, node in enumerate(cluster.nodes):
            name = f"node {which + 1}"
            if node.up and cluster.restarts:
                gone = Node(up=False, known=False, open=node.open)
                after = cluster.with_node(which, gone)
                yield f"{name} goes down", after._replace(restarts=cluster.restarts - 1)
            if not node.up:
                yield f"{name} is back", cluster.with_node(which, node._replace(up=True))
            if which in cluster.vetted and node.up and not node.raised:
                raised = cluster.with_node(which, node._replace(raised=True))
                yield f"the vetter raises {name}", raised
        if cluster.vetted:
            yield "the vetter gives up", self._left(cluster)
        else:
            yield from self._declare(cluster)
        if cluster.vetted and all(cluster.nodes[which].raised for which in cluster.vetted):
            opened = cluster
            for which in cluster.vetted:
                opened = opened.with_node(which, Node(up=cluster.nodes[which].up))
            yield "the vetter opens what it vetted", opened._replace(vetted=frozenset())

    def _declare(self, cluster: Cluster) -> Iterator[tuple[str, Cluster]]:
        for which, node in enumerate(cluster.nodes):
            if node.up and not (node.known and node.open):
                alone = self.rules.declares_its_node_alone
                vetted = frozenset({which}) if alone else frozenset({0, 1})
                declared = cluster._replace(vetted=vetted)
                for each in vetted:
                    closed = cluster.nodes[each]._replace(open=False, raised=False)
                    declared = declared.with_node(each, closed)
                yield f"the vetter declares a generation for node {which + 1}", declared

    @staticmethod
    def _left(cluster: Cluster) -> Cluster:
        for which in cluster.vetted:
            cluster = cluster.with_node(which, cluster.nodes[which]._replace(raised=False))
        return cluster._replace(vetted=frozenset())
