import stopwatch


def test_interleaved_drops_warm_up():
    calls = []
    functions = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}
    measured = stopwatch.interleaved(functions, repeats=2)
    assert calls == ["a", "b"] * 3
    assert [len(seconds) for seconds in measured.values()] == [2, 2]
