"""One profile for all property tests: a busy machine is no failure. Tiny runs draw no curves."""

import functools
from collections.abc import Iterator

import pytest
from hypothesis import settings

from jepa_modalities.data.sar import synthetic
from jepa_modalities.eval import panel, report

settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")


@pytest.fixture(scope="session", autouse=True)
def no_curves() -> Iterator[None]:
    """Drawing them takes longer than a tiny run; `curves` brings them back."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "main_panels", lambda log: [])
        patch.setattr(report, "further_panels", lambda log: [])
        yield


@pytest.fixture(scope="session", autouse=True)
def simulated_once() -> Iterator[None]:
    """Runs on simulated chips share them; their own tests hold the function itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic, "synthetic_chips", functools.cache(synthetic.synthetic_chips))
        yield


@pytest.fixture
def curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """The report with its curves."""
    monkeypatch.setattr(report, "main_panels", panel.main_panels)
    monkeypatch.setattr(report, "further_panels", panel.further_panels)
