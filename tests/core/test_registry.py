"""The registry: announce, look up, complain."""

from __future__ import annotations

import pytest

from jepa_modalities.core.registry import Registry


def test_announce_and_look_up() -> None:
    registry = Registry("thing", "jepa_modalities.tests.none")

    @registry.register("beta")
    class Beta:
        pass

    @registry.register("alpha")
    def alpha() -> int:
        return 3

    assert registry["beta"] is Beta
    assert registry["alpha"]() == 3
    assert list(registry) == ["alpha", "beta"]


def test_complaints_name_what_there_is() -> None:
    registry = Registry("thing", "jepa_modalities.tests.none")
    registry.register("alpha")(int)
    registry.register("alpha")(int)  # the same again, as a reloaded module does
    with pytest.raises(ValueError, match="thing 'alpha' is registered already"):
        registry.register("alpha")(float)
    with pytest.raises(KeyError, match="no thing named 'gamma'; there are: alpha"):
        registry["gamma"]
