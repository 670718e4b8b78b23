"""Adapters and recipes announce themselves under a name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from typing import Any, TypeVar

T = TypeVar("T")


class Registry:
    """Names -> objects, filled by a decorator and by an entry-point group.

    Args:
        kind: what is registered, for error messages.
        group: entry-point group through which other packages add theirs.
    """

    def __init__(self, kind: str, group: str) -> None:
        self.kind, self.group = kind, group
        self._items: dict[str, Any] = {}
        self._loaded = False

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that announces a class or function as `name`.

        Raises:
            ValueError: the name is taken by something else.
        """

        def announce(item: T) -> T:
            known = self._items.get(name)
            if known is not None and getattr(known, "__qualname__", 0) != getattr(
                item, "__qualname__", 1
            ):
                raise ValueError(f"{self.kind} {name!r} is registered already, as {known!r}")
            self._items[name] = item
            return item

        return announce

    def _load(self) -> None:
        if not self._loaded:
            self._loaded = True
            for point in entry_points(group=self.group):
                point.load()

    def __iter__(self) -> Iterator[str]:
        self._load()
        return iter(sorted(self._items))

    def __getitem__(self, name: str) -> Any:
        """Raises KeyError that names what there is."""
        self._load()
        if name not in self._items:
            raise KeyError(f"no {self.kind} named {name!r}; there are: {', '.join(self)}")
        return self._items[name]


# Modality: what loading an encoder needs; adapter: what training needs, with data open.
modalities = Registry("modality", "jepa_modalities.modalities")
adapters = Registry("adapter", "jepa_modalities.adapters")
recipes = Registry("recipe", "jepa_modalities.recipes")
