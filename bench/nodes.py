"""A node for measuring: it has an effect as far as the engine knows, and does nothing."""

from engine.node.sdk import node


@node("bench.touch", version="1.0.0", effect="idempotent")
async def touch(n: int = 0) -> int:
    """Give back what comes in.

    Args:
        n: Any number.
    """
    return n
