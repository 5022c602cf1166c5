"""The nodes that a process offers: built in, and loaded from modules."""

from pathlib import Path

from core.clock import Clock
from core.errors import Fault, Invalid
from engine.node.registry import NodeRegistry
from engine.nodes.ai import ai_nodes
from engine.nodes.ai_price import Price, parse_prices
from engine.nodes.builtin import builtin_nodes
from engine.nodes.egress import EgressPolicy
from engine.ports import SharedVariables
from infra.llm.models import Models
from infra.settings import Settings


def open_registry(settings: Settings, clock: Clock, variables: SharedVariables | None) -> NodeRegistry:
    """All of them; close the registry at the end. Raises Invalid for a setting that is wrong, NotFound for a module."""
    registry = NodeRegistry()
    egress = EgressPolicy(str(network) for network in settings.egress_allow)
    own = builtin_nodes(egress, variables=variables)
    for version in [*own, *ai_nodes(Models(egress, clock), _prices(settings), registry)]:
        registry.register(version)
    for source in settings.nodes:
        registry.load_module(Path(source) if source.endswith(".py") else source)
    return registry


def _prices(settings: Settings) -> dict[str, Price]:
    try:
        return parse_prices(settings.model_prices or "{}")
    except ValueError as error:
        sentence = f"REFLUX_MODEL_PRICES is wrong at {error}"
        raise Invalid(sentence, [Fault("$.model_prices", "bad_value", sentence)]) from None
