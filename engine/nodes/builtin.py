"""The list of nodes that every REFLUX has."""

import ssl

from engine.node.version import NodeVersion
from engine.nodes import flow, transform
from engine.nodes.egress import EgressPolicy
from engine.nodes.http import http_request_node
from engine.nodes.variables import vars_set_node
from engine.ports import SharedVariables


def builtin_nodes(
    egress: EgressPolicy, tls: ssl.SSLContext | None = None, variables: SharedVariables | None = None
) -> list[NodeVersion]:
    """All built-in nodes. Close them with `NodeVersion.aclose`: `http.request` holds connections.

    Args:
        variables: where `vars.set` keeps what outlives a run.
    """
    return [
        http_request_node(egress, tls),
        transform.map_value,
        transform.filter_items,
        flow.if_,
        flow.switch,
        flow.merge,
        flow.delay,
        flow.wait,
        flow.subworkflow,
        flow.parallel,
        flow.foreach,
        flow.loop,
        flow.end,
        vars_set_node(variables),
    ]
