"""Reading ahead keeps the order, no further than asked, and passes errors on in their place."""

from __future__ import annotations

import threading

import pytest

from jepa_modalities.data.ahead import read_ahead


@pytest.mark.parametrize("ahead", [0, 1, 5, 100])
def test_results_come_in_order_from_another_thread(ahead: int) -> None:
    threads = set()

    def read(item: int) -> int:
        threads.add(threading.get_ident())
        return item**2

    assert list(read_ahead(range(20), read, ahead)) == [item**2 for item in range(20)]
    assert len(threads) == 1 and threading.get_ident() not in threads


def test_no_further_than_asked() -> None:
    asked: list[int] = []

    def items() -> object:
        for item in range(100):
            asked.append(item)
            yield item

    results = read_ahead(items(), str, 3)  # type: ignore[arg-type]
    assert next(results) == "0" and len(asked) == 4
    assert next(results) == "1" and len(asked) == 5
    results.close()  # type: ignore[attr-defined]


def test_an_error_comes_where_its_result_would_have() -> None:
    def read(item: int) -> int:
        if item == 2:
            raise ValueError("broken")
        return item

    results = read_ahead(range(10), read, 5)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="broken"):
        next(results)
