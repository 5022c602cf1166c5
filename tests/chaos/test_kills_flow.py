"""`kill -9` of the server under a mix of all features: what was promised is kept, and nothing is left over."""

from typing import Any

import pytest

from bench.chaos.called import CalledServer
from bench.chaos.mix import Mix, MixPlan
from bench.chaos.mix_verdict import MixFindings, judge_mix
from bench.chaos.mix_work import Job
from bench.chaos.server import RefluxServer

pytestmark = pytest.mark.chaos


async def test_kills_under_a_mix_of_all_features(server: RefluxServer, called: CalledServer) -> None:
    result = await Mix(server, called, MixPlan(kills=12, runs=80, seed=7, pause=(0.05, 1.0))).run()
    print(result)
    assert result.findings.good, result.findings
    assert (result.runs, len(result.kills)) == (80, 12)
    assert result.findings.lost_attempts > 0, "no kill hit an attempt in flight: the test shows nothing"
    assert result.findings.cache_hits > 0
    assert result.findings.most == 2
    assert max(last for _, last in result.recovered) < 15


# --- the judge must be able to find something ------------------------------------------------------------------------

JOB = Job("held", 2)
RUN = {"id": "r", "workflow": "held", "status": "completed", "input": '{"n": 2}', "error": None}
FIRED = {"key": "k", "status": "started", "run_id": "r", "scheduled_for": "09:00"}


def events(**last: Any) -> list[dict[str, Any]]:
    return [{"seq": 1, "type": "run_created", "data": {}}, {"seq": 2, "type": "run_completed", "data": {}, **last}]


@pytest.mark.parametrize(
    ("runs", "fired", "last", "most", "good"),
    [
        ([RUN], [FIRED], {"payload": {"v": 3}}, 2, True),
        ([], [], {}, 2, False),
        ([RUN, {**RUN, "id": "again"}], [FIRED], {"payload": {"v": 3}}, 2, False),
        ([{**RUN, "status": "failed"}], [FIRED], {"payload": None}, 2, False),
        ([RUN], [FIRED], {"payload": {"v": 4}}, 2, False),
        ([RUN], [FIRED, FIRED], {"payload": {"v": 3}}, 2, False),
        ([RUN], [{**FIRED, "run_id": "nowhere"}], {"payload": {"v": 3}}, 2, False),
        ([RUN], [FIRED], {"payload": {"v": 3}, "seq": 3}, 2, False),
        ([RUN], [FIRED], {"payload": {"v": 3}}, 3, False),
    ],
)
def test_the_judge_of_the_mix_sees_what_is_wrong(
    runs: list[dict[str, Any]], fired: list[dict[str, Any]], last: dict[str, Any], most: int, good: bool
) -> None:
    findings = MixFindings()
    judge_mix({JOB: None}, runs, fired, {"r": events(**last)}, [], {"step": most}, findings)
    assert findings.good is good, findings
