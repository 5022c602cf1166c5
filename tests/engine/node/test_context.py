"""What a node says about a call, as far as a trace can hold it."""

import pytest

from core.trace import TraceRow
from infra.clickhouse.columns import SCHEMA
from tests.engine.node.step_context import make_context


@pytest.mark.parametrize(
    ("told", "kept"), [([10, 5], 15), ([-1], 0), ([10, -3], 10), ([2**70], 2**63 - 1), ([2**63, 2**63], 2**63 - 1)]
)
def test_tokens_always_fit_a_trace(told: list[int], kept: int) -> None:
    context = make_context()
    for count in told:
        context.tokens(count, count)
    assert (context.reported.tokens_in, context.reported.tokens_out) == (kept, kept)
    assert "tokens_in" in TraceRow.__dataclass_fields__
    assert str(SCHEMA.field("tokens_in").type) == "uint64"
