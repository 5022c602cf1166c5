from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import Conflict, NotFound
from core.manifest import NodeStatus
from engine.node.registry import NodeNotFound, NodeRegistry
from engine.node.sdk import NodeVersion, node
from engine.node.semver import Range, Version
from tests.engine.node import sample_nodes

SAMPLE = Path(sample_nodes.__file__)


def make(name: str, version: str, status: NodeStatus = NodeStatus.PRODUCTION) -> NodeVersion:
    def run() -> None:
        return None

    return node(name, version=version, lane="inline", status=status)(run)


@pytest.fixture
def registry() -> NodeRegistry:
    registry = NodeRegistry()
    for version in ("1.0.0", "1.2.0", "1.10.0", "2.0.0", "0.3.1", "2.1.0-rc.1"):
        registry.register(make("payment.charge", version))
    registry.register(make("payment.charge", "3.0.0", NodeStatus.DRAFT))
    registry.register(make("payment.charge", "2.5.0", NodeStatus.DEPRECATED))
    registry.register(make("mail.send", "1.0.0", NodeStatus.STAGING))
    return registry


@pytest.mark.parametrize(
    ("ref", "version"),
    [
        ("payment.charge", "2.0.0"),
        ("payment.charge@1.2.0", "1.2.0"),
        ("payment.charge@^1", "1.10.0"),
        ("payment.charge@^1.2", "1.10.0"),
        ("payment.charge@~1.2", "1.2.0"),
        ("payment.charge@~1", "1.10.0"),
        ("payment.charge@^0.3", "0.3.1"),
        ("payment.charge@^2", "2.0.0"),
        ("payment.charge@3.0.0", "3.0.0"),
        ("payment.charge@2.5.0", "2.5.0"),
        ("payment.charge@2.1.0-rc.1", "2.1.0-rc.1"),
        ("mail.send@1.0.0", "1.0.0"),
    ],
)
def test_a_reference_finds_its_version(registry: NodeRegistry, ref: str, version: str) -> None:
    assert registry.resolve(ref).manifest.version == version


@pytest.mark.parametrize(
    ("ref", "suggestion"),
    [
        ("payment.chrage", "payment.charge"),
        ("payment.charge@9.9.9", "payment.charge@2.0.0"),
        ("payment.charge@^7", "payment.charge@2.0.0"),
        ("payment.charge@^3", "payment.charge@2.0.0"),
        ("payment.charge@1", "payment.charge@2.0.0"),
        ("payment.charge@^x", "payment.charge@2.0.0"),
        ("mail.send", "mail.send@1.0.0"),
        ("zzz", None),
    ],
)
def test_what_is_not_there_names_the_nearest(registry: NodeRegistry, ref: str, suggestion: str | None) -> None:
    with pytest.raises(NodeNotFound) as raised:
        registry.resolve(ref)
    assert raised.value.suggestion == suggestion


def test_versions_are_immutable_and_ordered(registry: NodeRegistry) -> None:
    with pytest.raises(Conflict):
        registry.register(make("payment.charge", "1.0.0"))
    assert registry.names() == ["mail.send", "payment.charge"]
    found = [one.manifest.version for one in registry.versions("payment.charge")]
    assert found == ["0.3.1", "1.0.0", "1.2.0", "1.10.0", "2.0.0", "2.1.0-rc.1", "2.5.0", "3.0.0"]


def test_promotion_changes_what_a_name_means(registry: NodeRegistry) -> None:
    registry.set_status("payment.charge", "3.0.0", NodeStatus.PRODUCTION)
    assert registry.resolve("payment.charge").manifest.version == "3.0.0"
    registry.set_status("payment.charge", "3.0.0", NodeStatus.DEPRECATED)
    assert registry.resolve("payment.charge").manifest.version == "2.0.0"


def test_a_module_gives_its_nodes() -> None:
    registry = NodeRegistry()
    loaded = registry.load_module(SAMPLE)
    assert "sample.double" in registry.names()
    assert registry.load_module(SAMPLE) == []
    assert len(loaded) == len(registry.names())
    with pytest.raises(NotFound):
        registry.load_module("/nowhere/nodes.py")
    with pytest.raises(NotFound):
        registry.load_module("no_such_module_here")


def test_a_module_that_lacks_another_says_so(tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("import not_installed_anywhere")
    with pytest.raises(ModuleNotFoundError, match="not_installed_anywhere"):
        NodeRegistry().load_module(broken)


def test_the_order_of_semver_org() -> None:
    texts = ["1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-beta", "1.0.0-beta.2", "1.0.0-beta.11", "1.0.0"]
    assert sorted(map(Version.parse, reversed(texts))) == [Version.parse(text) for text in texts]


versions = st.builds(Version, st.integers(0, 4), st.integers(0, 4), st.integers(0, 4))


@given(versions, versions)
def test_a_caret_range_keeps_the_leftmost_number(low: Version, other: Version) -> None:
    if other in Range.parse(f"^{low}"):
        first = next((i for i, n in enumerate((low.major, low.minor, low.patch)) if n), 2)
        assert (other.major, other.minor, other.patch)[: first + 1] == (low.major, low.minor, low.patch)[: first + 1]
        assert other >= low
