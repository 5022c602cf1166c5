"""Which arm a unit gets: a matter of its name alone, so that the same unit always gets the same arm. Pure."""

import hashlib
from collections.abc import Mapping

_BITS = 53
_STEPS = float(1 << _BITS)


def position(node: str, revision: int, unit: str) -> float:
    """Where a unit stands in [0, 1): fixed for a revision, and unrelated to where it stands in another."""
    name = f"{node}\x1f{revision}\x1f{unit}"
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    # No more bits than a float holds: rounding up could give 1.0.
    return (int.from_bytes(digest, "big") >> (64 - _BITS)) / _STEPS


def normalised(weights: Mapping[str, float]) -> dict[str, float]:
    """Shares that sum to 1. Raises ValueError when there is nothing to share out."""
    whole = sum(weights.values())
    if whole <= 0:
        raise ValueError("the weights sum to nothing")
    return {version: weight / whole for version, weight in weights.items()}


def with_floor(shares: Mapping[str, float], floor: float) -> dict[str, float]:
    """The shares with nobody who has any below `floor`; the others pay in proportion. The sum stays 1.

    A floor that is too high for so many is lowered to equal parts.
    """
    live = [version for version, share in shares.items() if share > 0]
    if floor <= 0 or not live:
        return dict(shares)
    floor = min(floor, 1 / len(live))
    raised: set[str] = set()
    while True:
        rest = sum(shares[version] for version in live if version not in raised)
        left = 1 - floor * len(raised)
        below = {one for one in live if one not in raised and shares[one] * left < floor * rest}
        if not below:
            break
        raised |= below
    return {
        version: 0.0 if share <= 0 else floor if version in raised else share * left / rest
        for version, share in shares.items()
    }


def draw(shares: Mapping[str, float], at: float) -> tuple[str, float]:
    """The arm at a position in [0, 1), and with which probability it is drawn.

    Args:
        shares: by version, in the order of the route; they sum to 1.

    Raises:
        ValueError: nobody has a share.
    """
    reached = 0.0
    last: str | None = None
    for version, share in shares.items():
        if share <= 0:
            continue
        last = version
        reached += share
        if at < reached:
            break
    if last is None:
        raise ValueError("nobody has a share")
    return last, shares[last]
