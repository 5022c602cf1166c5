"""What is wrong with a route, and the exact form of one that is right."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from core.errors import Fault, Invalid
from core.manifest import NodeStatus
from core.route import Arm, Route, Rule
from core.spec import StepRoute
from engine.expression.errors import ExpressionSyntaxError
from engine.expression.program import compile_expression
from engine.json_path import child
from engine.node.version import NodeVersion
from engine.routing.draw import normalised
from engine.wording import did_you_mean, listed, nearest, sentence

RULE_ROOTS = ("input", "context", "features", "hour", "weekday")

_TOLERANCE = 0.001
"""How far shares may miss 1: a third is written with a few digits."""
_EXACT = 1e-9

_ALLOWED = (NodeStatus.STAGING, NodeStatus.PRODUCTION)


def check_route(route: Route, versions: Sequence[NodeVersion]) -> Route:
    """The route with version numbers in place of labels, shares that sum to 1, and an arm for every version that it
    names anywhere.

    Args:
        versions: all versions of the node, oldest first.

    Raises:
        Invalid: with all faults.
    """
    check = _Check(route, versions)
    exact = check.exact()
    if check.faults:
        worded = [Fault(one.path, one.code, sentence(one.message), one.suggestion) for one in check.faults]
        raise Invalid(f"the route has {len(worded)} fault{'s' * (len(worded) > 1)}", worded)
    return exact


def step_route_faults(step: StepRoute, versions: Sequence[NodeVersion], path: str) -> Iterator[Fault]:
    """What is wrong with the weights that a step sets for itself. `path` is that of the step's `route`."""
    if step.weights:
        check = _Check(None, versions)
        check.shares(step.weights, f"{path}.weights")
        yield from check.faults


@dataclass(slots=True)
class _Check:
    route: Route | None
    versions: Sequence[NodeVersion]
    faults: list[Fault] = field(default_factory=list)

    def exact(self) -> Route:
        route = self.route
        assert route is not None
        numbers = [self._number(arm.version, f"$.arms[{index}].version") for index, arm in enumerate(route.arms)]
        self._twice(numbers)
        weights = self._weights(route.arms)
        arms: dict[str, Arm] = {}
        for index, (arm, number, weight) in enumerate(zip(route.arms, numbers, weights, strict=True)):
            fallback = self._number(arm.fallback, f"$.arms[{index}].fallback") if arm.fallback is not None else None
            changed = {"version": number, "weight": weight, "fallback": fallback, "label": self._label(number)}
            arms[number] = arm.model_copy(update=changed)
        self._circles(arms, numbers)
        rules = [self._rule(rule, f"$.rules[{index}]") for index, rule in enumerate(route.rules)]
        named = [one.fallback for one in arms.values() if one.fallback is not None]
        for number in [*named, *(one for rule in rules for one in rule.weights)]:
            if number not in arms:
                arms[number] = Arm(version=number, weight=0.0, label=self._label(number))
        self._floor(route, arms)
        return route.model_copy(update={"arms": tuple(arms.values()), "rules": tuple(rules)})

    def shares(self, weights: Mapping[str, float], path: str) -> dict[str, float]:
        """Shares by version number that sum to 1."""
        exact: dict[str, float] = {}
        for name, weight in weights.items():
            number = self._number(name, child(path, name))
            if number in exact:
                self._fault(child(path, name), "duplicate", f"the version {number} is named twice")
            exact[number] = weight
        return self._summed(exact, path)

    def _summed(self, weights: Mapping[str, float], path: str) -> dict[str, float]:
        whole = sum(weights.values())
        if not any(abs(whole - wanted) <= wanted * _TOLERANCE for wanted in (1, 100)):
            self._fault(path, "bad_sum", f"the weights sum to {whole:g}; they must sum to 1 (or to 100)")
            return dict(weights)
        # Shares that are right already stay as they are: a route that is put again must be equal to itself.
        return dict(weights) if abs(whole - 1) < _EXACT else normalised(weights)

    def _weights(self, arms: Sequence[Arm]) -> list[float]:
        silent = [index for index, arm in enumerate(arms) if arm.weight is None]
        if len(silent) == len(arms):
            return [1 / len(arms)] * len(arms)
        for index in silent:
            self._fault(
                f"$.arms[{index}].weight", "missing_field", "the other arms have a weight, so this one needs one"
            )
        if silent:
            return [arm.weight or 0.0 for arm in arms]
        summed = self._summed({str(index): arm.weight or 0.0 for index, arm in enumerate(arms)}, "$.arms")
        return list(summed.values())

    def _number(self, name: str, path: str) -> str:
        """The version that a number or label means; of equal labels the newest that may be used."""
        known = {one.manifest.version: one for one in self.versions}
        found = known.get(name)
        labelled = [one for one in self.versions if one.label == name]
        if found is None and labelled:
            found = next((one for one in reversed(labelled) if one.manifest.status in _ALLOWED), labelled[-1])
        if found is None:
            names = [*known, *(one.label for one in self.versions if one.label)]
            suggestion = nearest(name, names)
            hint = did_you_mean(suggestion) or f"; there are {listed(names[::-1])}"
            self._fault(path, "unknown_version", f"there is no version `{name}`{hint}", suggestion)
            return name
        status = found.manifest.status
        if status not in _ALLOWED:
            hint = "; promote it first" if status is NodeStatus.DRAFT else ""
            self._fault(path, "bad_status", f"`{name}` is {status.value} and cannot be in a route{hint}")
        return found.manifest.version

    def _label(self, number: str) -> str | None:
        return next((one.label for one in self.versions if one.manifest.version == number), None)

    def _twice(self, numbers: Sequence[str]) -> None:
        for index, number in enumerate(numbers):
            if number in numbers[:index]:
                self._fault(f"$.arms[{index}].version", "duplicate", f"there is an arm with version {number} already")

    def _circles(self, arms: Mapping[str, Arm], numbers: Sequence[str]) -> None:
        told: set[str] = set()
        for index, number in enumerate(numbers):
            way = [number]
            while (following := arms[way[-1]].fallback if way[-1] in arms else None) is not None:
                if following in way:
                    circle = way[way.index(following) :]
                    if not told & set(circle):
                        told.update(circle)
                        shown = " → ".join([*circle, following])
                        self._fault(f"$.arms[{index}].fallback", "cycle", f"the fallbacks go in a circle: {shown}")
                    break
                way.append(following)

    def _rule(self, rule: Rule, path: str) -> Rule:
        source = rule.when.strip()
        if source.startswith("{{") and source.endswith("}}"):
            source = source[2:-2].strip()
        try:
            references = compile_expression(source).analysis.references
        except ExpressionSyntaxError as error:
            self._fault(f"{path}.when", "bad_expression", f"not a usable expression: {error.message}")
            references = ()
        for reference in references:
            if reference.root not in RULE_ROOTS:
                suggestion = nearest(reference.root, RULE_ROOTS)
                hint = did_you_mean(suggestion) or f"; a rule begins with one of {listed(RULE_ROOTS)}"
                said = f"there is no `{reference.root}` here{hint}"
                self._fault(f"{path}.when", "unknown_reference", said, suggestion)
        return rule.model_copy(update={"when": source, "weights": self.shares(rule.weights, f"{path}.weights")})

    def _floor(self, route: Route, arms: Mapping[str, Arm]) -> None:
        live = [arm for arm in arms.values() if arm.weight]
        most = max([len(live), *(sum(one > 0 for one in rule.weights.values()) for rule in route.rules)])
        if route.floor * most > 1:
            said = f"{most} arms cannot have {route.floor:g} each; it can be {1 / most:.4g} at most"
            self._fault("$.floor", "bad_value", said)

    def _fault(self, path: str, code: str, message: str, suggestion: str | None = None) -> None:
        self.faults.append(Fault(path, code, message, suggestion))
