"""Finds node versions by name and range, and loads users' own nodes."""

import difflib
import hashlib
import importlib.util
import sys
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from types import ModuleType

from core.errors import Conflict, NotFound
from core.manifest import NodeStatus
from engine.node.semver import Range, Version
from engine.node.version import NodeVersion


class NodeNotFound(NotFound):
    """No such node or version; `suggestion` is the nearest right reference, where one exists."""

    def __init__(self, detail: str, suggestion: str | None = None) -> None:
        super().__init__(f"{detail}; did you mean {suggestion}?" if suggestion else detail)
        self.suggestion = suggestion


class NodeRegistry:
    """All node versions that this process knows. Workspaces may have more of their own, see `within`."""

    def __init__(self) -> None:
        self._nodes: dict[str, dict[Version, NodeVersion]] = {}
        self._workspaces: dict[str, WorkspaceRegistry] = {}

    def within(self, workspace: str) -> "NodeRegistry":
        """What a workspace sees: its own versions before those of all."""
        return self._workspaces.get(workspace, self)

    def replace(self, workspaces: Mapping[str, Iterable[NodeVersion]]) -> None:
        """Set the versions of all workspaces, in the place of those from before."""
        self._workspaces = {name: WorkspaceRegistry(self, versions) for name, versions in workspaces.items()}

    def register(self, version: NodeVersion) -> None:
        """Add a version. Raises Conflict when this name has it already: versions are immutable."""
        number = Version.parse(version.manifest.version)
        versions = self._nodes.setdefault(version.manifest.name, {})
        if number in versions:
            raise Conflict(f"{version} is registered already; give the change a new version")
        versions[number] = version

    def names(self) -> list[str]:
        """Names of all nodes, sorted."""
        return sorted(self._nodes)

    def versions(self, name: str) -> list[NodeVersion]:
        """All versions of a node, oldest first, whatever their status. Raises NodeNotFound."""
        versions = self._named(name)
        return [versions[number] for number in sorted(versions)]

    def has(self, name: str, version: str) -> bool:
        """Whether there is a version of this number, whatever its status."""
        try:
            return _number(version) in self._versions(name)
        except ValueError:
            return False

    def labels(self, name: str) -> dict[str, str]:
        """The version number of each label of a node; of equal labels the newest version's."""
        known = self._versions(name)
        ordered = (known[number] for number in sorted(known))
        return {one.label: one.manifest.version for one in ordered if one.label}

    def resolve(self, ref: str) -> NodeVersion:
        """The version that a reference means.

        `name` and ranges (`name@^1`, `name@~1.2`) mean the newest production version, releases before pre-releases.
        Draft, staging and deprecated versions are found only by their exact number.

        Raises:
            NodeNotFound: with the nearest right reference.
        """
        name, _, wanted = ref.partition("@")
        versions = self._named(name)
        if not wanted:
            return self._newest(name, versions, self._live(versions), f"{name} has no production version")
        try:
            if wanted[0] not in "^~":
                return versions[Version.parse(wanted)]
            inside = Range.parse(wanted)
        except ValueError as error:
            raise NodeNotFound(f"{ref[:200]}: {error}", self._nearest(name, versions)) from None
        except KeyError:
            near = self._nearest(name, versions)
            raise NodeNotFound(f"{name} has no version {wanted}", near) from None
        found = {number: one for number, one in self._live(versions).items() if number in inside}
        return self._newest(name, versions, found, f"{name} has no production version in {wanted}")

    def set_status(self, name: str, version: str, status: NodeStatus) -> NodeVersion:
        """Move a version to another point of its life. Raises NodeNotFound."""
        found = self.resolve(f"{name}@{version}").with_status(status)
        self._nodes[name][Version.parse(found.manifest.version)] = found
        return found

    def load_module(self, source: str | Path | ModuleType) -> list[NodeVersion]:
        """Register every NodeVersion at the top of a module.

        Args:
            source: a module, its dotted name, or the path of a Python file.

        Raises:
            NotFound: no such file or module.
            Conflict: a version is registered already.
        """
        module = source if isinstance(source, ModuleType) else _import(str(source))
        found: list[NodeVersion] = []
        for value in vars(module).values():
            if isinstance(value, NodeVersion) and value not in found and not self._holds(value):
                found.append(value)
        for version in found:
            self.register(version)
        return found

    async def aclose(self) -> None:
        """Release what the versions hold."""
        for versions in self._nodes.values():
            for version in versions.values():
                await version.aclose()

    def _holds(self, version: NodeVersion) -> bool:
        return any(version is one for one in self._nodes.get(version.manifest.name, {}).values())

    def _versions(self, name: str) -> dict[Version, NodeVersion]:
        """By number; empty when there is no such node."""
        return self._nodes.get(name, {})

    def _named(self, name: str) -> dict[Version, NodeVersion]:
        versions = self._versions(name)
        if not versions:
            near = difflib.get_close_matches(name, self.names(), n=1, cutoff=0.6)
            raise NodeNotFound(f"there is no node {name[:200]!r}", near[0] if near else None)
        return versions

    def _live(self, versions: dict[Version, NodeVersion]) -> dict[Version, NodeVersion]:
        live = {n: one for n, one in versions.items() if one.manifest.status is NodeStatus.PRODUCTION}
        return {n: one for n, one in live.items() if not n.pre} or live

    def _newest(
        self, name: str, versions: dict[Version, NodeVersion], found: dict[Version, NodeVersion], otherwise: str
    ) -> NodeVersion:
        if not found:
            raise NodeNotFound(otherwise, self._nearest(name, versions))
        return found[max(found)]

    def _nearest(self, name: str, versions: dict[Version, NodeVersion]) -> str:
        return f"{name}@{max(self._live(versions) or versions)}"


class WorkspaceRegistry(NodeRegistry):
    """A registry that sees all versions of another one, and in front of them its own."""

    def __init__(self, base: NodeRegistry, versions: Iterable[NodeVersion]) -> None:
        super().__init__()
        self._base = base
        for version in versions:
            self.register(version)
        self._joined: dict[str, dict[Version, NodeVersion]] = {
            name: {**base._versions(name), **own} for name, own in self._nodes.items()
        }

    def within(self, workspace: str) -> NodeRegistry:
        """What a workspace sees."""
        return self._base.within(workspace)

    def names(self) -> list[str]:
        """Names of all nodes, sorted."""
        return sorted({*self._base.names(), *self._nodes})

    def owns(self, name: str, version: str) -> bool:
        """Whether a version is the workspace's own."""
        return _number(version) in self._nodes.get(name, {})

    def _versions(self, name: str) -> dict[Version, NodeVersion]:
        joined = self._joined.get(name)
        return self._base._versions(name) if joined is None else joined


@lru_cache(maxsize=1_024)
def _number(version: str) -> Version:
    return Version.parse(version)


def _import(source: str) -> ModuleType:
    if not source.endswith(".py"):
        try:
            return importlib.import_module(source)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{source}.".startswith(f"{error.name}."):
                raise  # the module exists, one that it needs does not
            raise NotFound(f"there is no module {source!r} to load nodes from") from None
    return import_file(Path(source))


def import_file(path: Path) -> ModuleType:
    """Import a Python file under a name made from its path. Raises NotFound when it is not there."""
    path = path.expanduser().resolve()
    if not path.is_file():
        raise NotFound(f"there is no file {str(path)!r} to load nodes from")
    name = f"{path.stem}_{hashlib.sha256(bytes(path)).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
