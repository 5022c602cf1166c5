"""The list of nodes that every REFLUX has."""

import ssl

from engine.node.version import NodeVersion
from engine.nodes import flow, transform
from engine.nodes.egress import EgressPolicy
from engine.nodes.http import http_request_node


def builtin_nodes(egress: EgressPolicy, tls: ssl.SSLContext | None = None) -> list[NodeVersion]:
    """All built-in nodes. Close them with `NodeVersion.aclose`: `http.request` holds connections."""
    return [
        http_request_node(egress, tls),
        transform.map_value,
        transform.filter_items,
        flow.if_,
        flow.switch,
        flow.merge,
        flow.delay,
    ]
