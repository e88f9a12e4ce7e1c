"""Read many items from one HDF5 file: a group, or a dataset, for each of them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from acluster.formats._hdf5 import find_dataset, names_in, opened_hdf5, read_features, read_group
from acluster.formats._item import FEATURES, Item, check_features
from acluster.formats._readers import damage_named
from acluster.formats._source import Source
from acluster.sets import natural_key

_TAKEN = (
    "a group per item with the dataset features, and perhaps coords; a dataset per item; or a "
    "group per item with one dataset per modality, or the reverse. Features have the shape (number "
    "of local features, number of columns)"
)

_DEEPEST = 100  # of nested groups
Widths = dict[str, int]  # the number of columns, by the path of a group or dataset with features
Items = dict[str, dict[str, str]]  # such paths by item and modality, "" without modalities


def open_hdf5(path: Path, subfolders: str | None, known: Collection[str]) -> Source:
    """Open the items in an HDF5 file.

    Parameters
    ----------
    path : path
        A file with a group per item that has the dataset ``features``, and perhaps ``coords``;
        with a dataset per item; or with a dataset per item and modality. Groups may be nested.

    subfolders : {"modalities", "items"}, or None
        What the groups directly in the file are: modalities, or parts of the ids. None decides it
        from the names and the shapes of the datasets.

    known : collection of str
        The ids in the table of labels, if there is one.

    Returns
    -------
    Source
        The items in the natural order of their ids. They are read one by one.

    Raises
    ------
    ImportError
        If h5py is not installed.

    ValueError
        If the file is damaged, has another layout, or its names do not tell what its groups are.
        The message says what was found and what is taken.
    """
    with damage_named(path), opened_hdf5(path) as file:
        widths = _find_features(file, path)
    items = _arranged(path, widths, subfolders, known)
    names = sorted(items, key=natural_key)

    def read(numbers: Sequence[int]) -> Iterator[Item]:
        with opened_hdf5(path) as file:
            for i in numbers:
                with damage_named(path):
                    item = _read(file, items[names[i]], path)
                yield item

    return Source(names, read, lambda i: f"{path}: {names[i]:.100}", {"id": names})


class _Found(NamedTuple):
    """What holds the features of an item: a group with the dataset ``features``, or a dataset."""

    is_group: bool
    shape: tuple[int, ...]
    dtype: Any


def _find_features(file: Any, path: Path) -> Widths:
    """Return the groups and datasets that hold features, with their numbers of columns."""
    if _is_dataset(file, FEATURES):
        raise ValueError(
            f"{path} is a file with one item; pass a folder of such files, or a file with {_TAKEN}."
        )
    found = dict(_walk(file, "", path, {}))
    groups = {name: one for name, one in found.items() if one.is_group}
    # Beside groups with features, the file itself may have columns, such as labels.
    others = [
        name for name, one in found.items() if not one.is_group and ("/" in name or one.shape[1:])
    ]
    if groups and others:
        raise ValueError(
            f"{path} has items such as {next(iter(groups))!r:.100}, a group with the dataset "
            f"{FEATURES!r}, but {len(others)} other datasets are in no such group, for example "
            f"{others[0]!r:.100}. Pass a file with {_TAKEN}."
        )
    features = groups or found
    if not any(len(one.shape) in (2, 3) for one in features.values()):
        shown = [f"{name:.100} of shape {one.shape}" for name, one in [*features.items()][:5]]
        raise ValueError(
            f"{path} has {len(features)} datasets{': ' if shown else ''}{', '.join(shown)}. Pass a "
            f"file with {_TAKEN}."
        )
    for name, one in features.items():
        check_features(one.shape, one.dtype, f"{path}: {name:.100}")
    return {name: one.shape[-1] for name, one in features.items()}


def _is_dataset(group: Any, name: str) -> bool:
    """Whether a group has a dataset of this name, or a link that `find_dataset` rejects."""
    import h5py

    if name not in group:
        return False
    link = group.get(name, getlink=True)
    if isinstance(link, h5py.SoftLink):  # which may lead to another file by a second link
        found = group[name]
        return not isinstance(found, h5py.Group) or found.file.filename != group.file.filename
    is_hard = isinstance(link, h5py.HardLink)
    return not is_hard or group.get(name, getclass=True) is h5py.Dataset


def _walk(group: Any, inner: str, path: Path, seen: dict[Any, str]) -> Iterator[tuple[str, _Found]]:
    """Yield what holds features, by its path in the file.

    `seen` has the paths of the groups by their addresses, "" for the file and for empty ones.
    """
    import h5py

    title = f"{path}: {inner:.100}" if inner else str(path)
    if inner and _is_dataset(group, FEATURES):
        dataset = find_dataset(group, FEATURES, title)
        yield inner, _Found(True, dataset.shape or (), dataset.dtype)
        return
    if inner.count("/") >= _DEEPEST:
        raise ValueError(f"{title} is nested {_DEEPEST} groups deep. Pass a file with {_TAKEN}.")
    address = h5py.h5o.get_info(group.id).addr
    if address in seen:
        _check_contains_itself(inner, seen[address], path)
        return
    seen[address] = inner
    is_empty = True
    for name in names_in(group, title):
        for found in _walk_member(group, name, f"{inner}/{name}" if inner else name, path, seen):
            is_empty = False
            yield found
    if is_empty:
        seen[address] = ""  # Other names of it do no harm.


def _check_contains_itself(inner: str, known: str, path: Path) -> None:
    """Check that a group that has been seen is inside itself, and not the same under two names."""
    if known and not f"{inner}/".startswith(f"{known}/"):
        raise ValueError(
            f"{path}: {inner!r:.100} and {known!r:.100} are two names of one group. Remove the "
            "link that is not to be read."
        )


def _walk_member(
    group: Any, name: str, own: str, path: Path, seen: dict[Any, str]
) -> Iterator[tuple[str, _Found]]:
    """Yield what holds features in a member of a group, by its path `own` in the file."""
    import h5py

    link = group.get(name, getlink=True)
    if isinstance(link, h5py.SoftLink):
        try:
            group[name]
        except (KeyError, OSError, RuntimeError):  # RuntimeError if links lead to each other
            raise ValueError(
                f"{path}: {own!r:.100} is a link to {link.path!r:.100}, which leads to nothing. "
                "Remove it."
            ) from None
    if _is_dataset(group, name):
        dataset = find_dataset(group, name, f"{path}: {own:.100}")
        yield own, _Found(False, dataset.shape or (), dataset.dtype)
    elif group.get(name, getclass=True) is h5py.Group:
        yield from _walk(group[name], own, path, seen)


def _arranged(path: Path, widths: Widths, subfolders: str | None, known: Collection[str]) -> Items:
    """Decide which parts of the paths are ids, and which are modalities."""
    by_path = {name: {"": name} for name in widths}
    if subfolders == "items":
        return by_path
    outer, inner = (_by_modality(widths, is_outer) for is_outer in (True, False))
    is_flat = any("/" not in name for name in widths)
    if subfolders == "modalities":
        if is_flat:
            flat = next(name for name in widths if "/" not in name)
            raise ValueError(
                f"{path}: {flat!r:.100} is in no group, so its modality is unknown. Move it into "
                "the group of its modality, or leave out --subfolders."
            )
        return outer
    are_distinct = len(outer) == len(widths)  # no name occurs in two groups
    if is_flat or (are_distinct and len(_modalities(outer)) > 1):
        return by_path
    if are_distinct:
        return outer
    candidates = [items for items in (outer, inner) if _is_uniform(items, widths)]
    if len({*widths.values()}) == 1:
        candidates.append(by_path)
    fitting = [items for items in candidates if any(name in known for name in items)]
    candidates = fitting or candidates
    if len(candidates) != 1:
        both = [*next(own for own in outer.values() if len(own) > 1).values()][:2]
        raise ValueError(
            f"{path}: {both[0]!r:.100} and {both[1]!r:.100} have the same name in two groups, and "
            "the numbers of columns do not tell which names are modalities. Pass --subfolders "
            "modalities if the groups are modalities, --subfolders items if each dataset is an "
            "item, or a table of labels whose ids decide it."
        )
    return candidates[0]


def _by_modality(paths: Collection[str], is_outer: bool) -> Items:
    """Arrange paths by item and modality, which is the first name of a path or the last one."""
    items: Items = {}
    for path in paths:
        modality, _, item = path.partition("/") if is_outer else path.rpartition("/")[::-1]
        items.setdefault(item, {})[modality] = path
    return items


def _modalities(items: Items) -> set[str]:
    return {modality for own in items.values() for modality in own}


def _is_uniform(items: Items, widths: Widths) -> bool:
    """Whether every modality has one number of columns."""
    pairs = {(modality, widths[path]) for own in items.values() for modality, path in own.items()}
    return len(pairs) == len(_modalities(items))


def _read(file: Any, paths: Mapping[str, str], path: Path) -> Item:
    """Read an item, of one modality or several."""
    found = {modality: _read_modality(file, inner, path) for modality, inner in paths.items()}
    if [*found] == [""]:
        return found[""]
    return Item.of_modalities(found)


def _read_modality(file: Any, inner: str, path: Path) -> Item:
    if _is_dataset(file, inner):
        return Item(read_features(find_dataset(file, inner, str(path)), f"{path}: {inner:.100}"))
    return read_group(file[inner], f"{path}: {inner:.100}")
