"""`kill -9` of the server under a mix of all features: what was promised is kept, and nothing is left over."""

import pytest

from bench.chaos.called import CalledServer
from bench.chaos.mix import Mix, MixPlan
from bench.chaos.server import RefluxServer

pytestmark = pytest.mark.chaos


async def test_kills_under_a_mix_of_all_features(server: RefluxServer, called: CalledServer) -> None:
    result = await Mix(server, called, MixPlan(kills=12, runs=96, seed=7, pause=(0.05, 1.5))).run()
    print(result)
    assert result.findings.good, result.findings
    assert (result.runs, len(result.kills)) == (96, 12)
    assert result.findings.lost_attempts > 0, "no kill hit an attempt in flight: the test shows nothing"
    assert result.findings.cache_hits > 0
    assert result.findings.most == 2
    assert max(last for _, last in result.recovered) < 15
