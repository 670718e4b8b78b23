"""Configurations as dotted settings and as JSON: read, change, compare; any frozen dataclasses.

A leaf: standard library only.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import PurePath
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")
C = TypeVar("C", bound="Any")


def from_dict(kind: type[T], content: Mapping[str, Any], where: str = "config") -> T:
    """A frozen dataclass from nested dicts, as `dataclasses.asdict` and JSON make them.

    Raises:
        ValueError: unknown names, listed with the known ones; values of another type than the
            field's, or that are refused by the dataclass itself.
    """
    hints = get_type_hints(kind)
    known = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    if unknown := sorted(content.keys() - known):
        raise ValueError(f"{where}: unknown {unknown}; there are {sorted(known)}")
    values = {}
    for name, value in content.items():
        inner = hints[name]
        if is_dataclass(inner) and isinstance(value, Mapping):
            value = from_dict(inner, value, f"{where}.{name}")  # type: ignore[arg-type]
        values[name] = _checked(value, inner, f"{where}: {name}")
    try:
        return kind(**values)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{where}: {error}") from error


def _checked(value: Any, hint: Any, name: str) -> Any:
    """The value as it is kept.

    Raises:
        ValueError: it is of another type than the field's.
    """
    value = _frozen(value)
    if not _fits(value, hint):
        wanted = getattr(hint, "__name__", "") if isinstance(hint, type) else str(hint)
        raise ValueError(f"{name} = {repr(value)[:80]}, expected {wanted}")
    return float(value) if hint is float else value


def _frozen(value: Any) -> Any:
    """Lists of JSON as the tuples that they were."""
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a field's type; whole numbers count as real ones."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        return any(type(value) is type(choice) and value == choice for choice in inner)
    if origin in (Union, UnionType):
        return any(_fits(value, choice) for choice in inner)
    if origin is tuple:
        if inner[-1] is Ellipsis:
            return isinstance(value, tuple) and all(_fits(part, inner[0]) for part in value)
        fits = isinstance(value, tuple) and len(value) == len(inner)
        return fits and all(map(_fits, value, inner))
    if hint in (int, float):
        number = isinstance(value, int if hint is int else int | float)
        return number and not isinstance(value, bool) and -(2**63) < value < 2**63
    if hint in (str, bool, NoneType) or is_dataclass(hint):
        return isinstance(value, hint)
    return True  # kinds that a modality of another package adds


# Settings of which one counts: the first that is set.
ALTERNATIVES = (
    ("train.steps", "train.epochs"),
    ("train.warmup_steps", "train.warmup", "train.warmup_epochs"),
)


def overruled(given: Collection[str]) -> list[str]:
    """Settings that must give way to those that were given, though they would count before them.

    A recipe that says `train.steps` would else ignore a user's `train.epochs`.

    Args:
        given: dotted names.

    Returns:
        Dotted names, to be set to None.
    """
    found: list[str] = []
    for names in ALTERNATIVES:
        first = next((place for place, name in enumerate(names) if name in given), 0)
        found += names[:first]
    return found


def changed(config: C, settings: Mapping[str, Any], inside: str = "") -> C:
    """A copy with dotted names replaced, e.g. `{"train.lr": 1e-3}`.

    What the settings overrule is cleared: `{"train.epochs": 5}` sets `train.steps` to None.

    Args:
        config: any of the dataclasses.
        settings: names and values.
        inside: dotted name of `config` itself, for messages.

    Raises:
        ValueError: an unknown name (names the known ones), or a value of a wrong type.
    """
    hints = get_type_hints(type(config))
    for path, value in {**dict.fromkeys(overruled(settings)), **settings}.items():
        section, _, rest = path.partition(".")
        known = sorted(f.name for f in fields(config))
        if section not in known:
            raise ValueError(f"no setting {inside + path!r}; there are {known}")
        if rest:
            value = changed(getattr(config, section), {rest: value}, f"{inside}{section}.")
        else:
            value = value.tolist() if hasattr(value, "tolist") else value  # NumPy's
            value = str(value) if isinstance(value, PurePath) else value
            value = _checked(value, hints[section], inside + path)
        config = replace(config, **{section: value})
    return config


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """Dotted names whose values differ between two configurations, "name: old -> new"."""
    if is_dataclass(old) and is_dataclass(new):
        found = []
        for f in fields(old):
            inner = f"{path}.{f.name}" if path else f.name
            found += differences(getattr(old, f.name), getattr(new, f.name, None), inner)
        return found
    return [] if old == new else [f"{path}: {old!r} -> {new!r}"]
