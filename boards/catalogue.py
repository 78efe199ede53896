"""Finding and loading profiles: built in, from other packages, or from a file."""

from __future__ import annotations

import difflib
import functools
import importlib.metadata
import importlib.resources
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec
import yaml

from boards import device_settings
from boards.errors import ProfileError, UsageError
from boards.profile import Profile, contradictions, decode

#: profile names and their files
Files = Mapping[str, Path]
ENTRY_POINTS = "cimctl.profiles"
_MAX_DEPTH = 8
#: keys of a device that mean the same in every model
_ANY_DEVICE = ("low_uS", "high_uS", "initial_uS")


def profile_files() -> dict[str, Path]:
    """Profile names and their files: built in first, then folders named by entry points."""
    found: dict[str, Path] = {}
    for folder in _folders():
        for path in sorted(folder.glob("*.yaml")):
            found.setdefault(path.stem, path)
    return found


def load_all() -> list[Profile]:
    """Every profile that has a name, by name; raises as ``load``."""
    files = profile_files()
    return [load(name, files) for name in sorted(files)]


def load(name_or_path: str, files: Files | None = None) -> Profile:
    """Loads a profile by name, or from a path that ends in .yaml or .yml.

    Args:
        name_or_path: which.
        files: what ``profile_files`` found, for who loads several; None looks again.

    Raises:
        UsageError: no such profile or file.
        ProfileError: the file does not validate.
    """
    if files is None:
        files = profile_files()
    path = _locate(name_or_path, files)
    values = _merged(path, (), files)
    try:
        profile = decode(values)
    except msgspec.ValidationError as error:
        raise _explained(path, values, error) from None
    for key, expected in contradictions(profile):
        raise ProfileError(
            f"{path}: key '{key}' is {_value_at(values, key)}, at odds with the rest: expected "
            f"{expected}",
            next="Correct the file, or say the key there if the value is that of the profile it "
            "extends; 'cimctl board list' shows profiles that load",
        )
    return profile


def _folders() -> Iterator[Path]:
    yield Path(str(importlib.resources.files("boards.profiles")))
    for entry in importlib.metadata.entry_points(group=ENTRY_POINTS):
        if entry.value == "boards.profiles":
            continue
        try:
            yield Path(str(importlib.resources.files(entry.value)))
        except (ImportError, TypeError) as error:
            raise UsageError(
                f"The profiles of package '{entry.value}' cannot be found: {error}",
                next="Reinstall that package or remove it",
            ) from None


def _locate(name_or_path: str, files: Files) -> Path:
    if name_or_path.endswith((".yaml", ".yml")):
        path = Path(name_or_path)
        if not path.is_file():
            raise UsageError(
                f"There is no profile file '{path}'", next="Check the path given to --board"
            )
        return path
    if name_or_path not in files:
        close = difflib.get_close_matches(name_or_path, files, n=1)
        hint = f"Did you mean '{close[0]}'? " if close else ""
        raise UsageError(
            f"There is no board '{name_or_path}'",
            next=f"{hint}Known boards: {', '.join(sorted(files))}; or a path to a .yaml file",
        )
    return files[name_or_path]


def _merged(path: Path, above: tuple[Path, ...], files: Files) -> dict[str, Any]:
    """The values of a file laid over those of the profile that it extends."""
    values = dict(_read(path))
    base = values.pop("extends", None)
    if base is None:
        return values
    if not isinstance(base, str):
        raise ProfileError(f"{path}: key 'extends' is {base!r}: expected the name of a profile")
    if len(above) >= _MAX_DEPTH or path in above:
        raise ProfileError(f"{path}: key 'extends' goes in a circle or deeper than {_MAX_DEPTH}")
    if base.endswith((".yaml", ".yml")):
        base = str(path.parent / base)
    try:
        below = _merged(_locate(base, files), (*above, path), files)
    except UsageError as error:
        if isinstance(error, ProfileError):
            raise
        raise ProfileError(f"{path}: key 'extends': {error.what}", next=error.next) from None
    # A board is not the one that it extends: it says its own name.
    below.pop("name", None)
    return _laid_over(below, values)


def _read(path: Path) -> dict[str, Any]:
    try:
        values = _parsed(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ProfileError(f"{path}: this is no YAML: {' '.join(str(error).split())}") from None
    except OSError as error:
        raise UsageError(f"{path}: the file cannot be read: {error.strerror}") from None
    if not isinstance(values, dict):
        raise ProfileError(f"{path}: expected keys and values, found {type(values).__name__}")
    return values


@functools.lru_cache(maxsize=64)
def _parsed(text: str) -> Any:
    """What a file says, not to be changed: many profiles extend the same one."""
    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def _laid_over(base: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in values.items():
        below = merged.get(key)
        if isinstance(below, dict) and isinstance(value, dict):
            if value.get("model", below.get("model")) != below.get("model"):
                # Another device has other parameters; its range of conductances may stay.
                below = {k: v for k, v in below.items() if k in _ANY_DEVICE}
            value = _laid_over(below, value)
        merged[key] = value
    return merged


def _explained(path: Path, values: dict[str, Any], error: msgspec.ValidationError) -> ProfileError:
    """Turns a validator's message into file, key, value, and what was expected."""
    text = str(error)
    place = re.search(r" - at `\$\.?(.*)`$", text)
    where = place.group(1) if place else ""
    reason = text[: place.start()] if place else text
    unknown = re.search(r"unknown field `(.*)`", reason)
    if unknown:
        key = ".".join(filter(None, (where, unknown.group(1))))
        allowed = _keys_of(where, values)
        return ProfileError(
            f"{path}: unknown key '{key}'", next=_nearest(unknown.group(1), allowed, "Allowed here")
        )
    missing = re.search(r"missing required field `(.*)`", reason)
    if missing:
        key = ".".join(filter(None, (where, missing.group(1))))
        return ProfileError(f"{path}: key '{key}' is missing")
    found = _value_at(values, where)
    if where == "device.model":
        known = sorted(device_settings.kinds())
        return ProfileError(
            f"{path}: key 'device.model' is {found}: there is no such model",
            next=_nearest(found.strip("'"), known, "Known models"),
        )
    expected = reason[0].lower() + reason[1:]
    if "enum" in expected:
        return ProfileError(
            f"{path}: key '{where}' is {found}: {expected}",
            next=f"Allowed here: {', '.join(_choices(_type_at(where, values)))}",
        )
    return ProfileError(f"{path}: key '{where}' is {found}: {expected}")


def _nearest(given: str, allowed: list[str], said: str) -> str:
    close = difflib.get_close_matches(given, allowed, n=1)
    hint = f"Did you mean '{close[0]}'? " if close else ""
    return f"{hint}{said}: {', '.join(allowed)}"


def _value_at(values: Any, where: str) -> str:
    """What a profile says at a dotted place, as text; a list entry is ``key[0]``."""
    for part in re.findall(r"[^.\[\]]+", where):
        try:
            values = values[int(part) if isinstance(values, list) else part]
        except (KeyError, IndexError, TypeError, ValueError):
            return "missing"
    text = repr(values)
    return text if len(text) <= 60 else text[:57] + "..."


def _type_at(where: str, values: dict[str, Any]) -> Any:
    """The type of what belongs at a dotted place of a profile; of a list's entry, the list's."""
    kind: Any = Profile
    for part in filter(None, re.sub(r"\[.*?\]", "", where).split(".")):
        kind = get_type_hints(kind, include_extras=False)[part]
        if kind is Any:
            kind = device_settings.kinds()[values["device"]["model"]]
    return kind


def _keys_of(where: str, values: dict[str, Any]) -> list[str]:
    """The keys allowed at a dotted place of a profile."""
    kind = _type_at(where, values)
    keys = list(kind.__struct_fields__)
    if kind is Profile:
        return [*keys, "extends"]
    return ["model", *keys] if where == "device" else keys


def _choices(kind: Any) -> list[str]:
    """The values that a type allows one by one, also as an entry of a list."""
    if get_origin(kind) is Literal:
        return [str(value) for value in get_args(kind)]
    return [choice for part in get_args(kind) for choice in _choices(part)]
