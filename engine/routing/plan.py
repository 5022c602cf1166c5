"""A route made ready for drawing: shares for each situation, and the order in which arms take over. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from core.route import Arm, Route, StoredRoute
from engine.node.semver import Range, Version
from engine.routing.draw import normalised, with_floor

BASE = -1
"""In place of a rule's index: the weights of the arms."""

_KEPT = 256


@dataclass(frozen=True, slots=True)
class RoutePlan:
    """See the module. The route is one that `engine.routing.check` has made exact.

    Attributes:
        arms: by version number, in the order of the route.
    """

    revision: int
    route: Route
    arms: Mapping[str, Arm]
    _names: Mapping[str, str]
    _shares: dict[tuple[int, str, frozenset[str]], Mapping[str, float] | None] = field(default_factory=dict)

    @classmethod
    def of(cls, revision: int, route: Route) -> "RoutePlan":
        """The plan of a revision."""
        labels = {arm.label: arm.version for arm in route.arms if arm.label}
        arms = {arm.version: arm for arm in route.arms}
        return cls(revision, route, arms, {**labels, **{version: version for version in arms}})

    def label(self, version: str) -> str:
        """The label of an arm; empty without one."""
        arm = self.arms.get(version)
        return (arm.label or "") if arm is not None else ""

    def shares(self, rule: int, within: str, missing: frozenset[str]) -> Mapping[str, float] | None:
        """Shares that sum to 1, with the floor; None when no arm with a share is left.

        Args:
            rule: index of the rule that holds, or BASE.
            within: the range that the versions must be in.
            missing: versions that cannot be called.
        """
        key = (rule, within, missing)
        if key not in self._shares:
            if len(self._shares) >= _KEPT:
                self._shares.clear()
            weights = (
                {version: arm.weight or 0.0 for version, arm in self.arms.items()}
                if rule == BASE
                else self.route.rules[rule].weights
            )
            self._shares[key] = self._shared(weights, within, missing, self.route.floor)
        return self._shares[key]

    def overridden(
        self, weights: Mapping[str, float], within: str, missing: frozenset[str]
    ) -> Mapping[str, float] | None:
        """The shares that a step asks for by itself, by version or label; None when none of them is an arm."""
        named = {self._names[name]: weight for name, weight in weights.items() if name in self._names}
        return self._shared(named, within, missing, 0.0)

    def line(self, assigned: str, failed: Sequence[str], shares: Mapping[str, float]) -> list[str]:
        """Who may serve, best first.

        At first that is the drawn arm, its fallbacks, then the others by share. Once an arm has failed for good only
        declared fallbacks follow: another arm might do again what the failed one may have done.
        """
        if failed:
            found = dict.fromkeys([*self._fallbacks(failed[-1]), *self._fallbacks(assigned)])
            return [version for version in found if version not in failed]
        others = sorted((one for one in shares if shares[one] > 0), key=lambda one: -shares[one])
        return list(dict.fromkeys([assigned, *self._fallbacks(assigned), *others]))

    def _fallbacks(self, version: str) -> list[str]:
        found: list[str] = []
        arm = self.arms.get(version)
        while arm is not None and arm.fallback is not None and arm.fallback not in (version, *found):
            found.append(arm.fallback)
            arm = self.arms.get(arm.fallback)
        return found

    def _shared(
        self, weights: Mapping[str, float], within: str, missing: frozenset[str], floor: float
    ) -> Mapping[str, float] | None:
        usable = {
            version: 0.0 if version in missing or not is_within(version, within) else weights.get(version, 0.0)
            for version in self.arms
        }
        return with_floor(normalised(usable), floor) if any(usable.values()) else None


def is_within(version: str, within: str) -> bool:
    """Whether a version is in a range (`^1`, `~1.2`), is that version, or the range is empty."""
    if not within:
        return True
    number = Version.parse(version)
    return number in Range.parse(within) if within[0] in "^~" else number == Version.parse(within)


def plans_of(stored: Iterable[StoredRoute]) -> dict[tuple[str, str], RoutePlan]:
    """Plans by workspace and node."""
    return {(one.workspace, one.node): RoutePlan.of(one.revision, one.route) for one in stored if one.route is not None}
