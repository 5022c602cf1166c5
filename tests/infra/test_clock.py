from infra.clock import SystemClock


def test_ids_come_in_order_also_within_a_millisecond() -> None:
    clock = SystemClock()
    ids = [clock.new_id() for _ in range(20_000)]
    assert ids == sorted(ids)
    assert len(set(ids)) == len(ids)
    assert {one.version for one in ids} == {7}


def test_ids_of_two_clocks_differ_and_carry_the_time() -> None:
    one, other = SystemClock(), SystemClock()
    before = int(one.now().timestamp() * 1000)
    first, second = one.new_id(), other.new_id()
    assert first != second
    assert 0 <= (first.int >> 80) - before < 1_000
