"""Extract local features of a folder of files, with the views that the options name."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Mapping
from typing import Any

from acluster.command_line._labels import Roles, read_table
from acluster.extraction import ExtractionReport, FlowStacks, Frames, LogMel, Tiles, extract

_DESCRIPTORS = {
    "rgb": "acluster.extraction:frame_descriptor",
    "flow": "acluster.extraction:flow_descriptor",
    "audio": "acluster.extraction:patch_descriptor",
    "tiles": "acluster.extraction:tile_descriptor",
}
# The defaults of the options that are about one modality only.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "flow": {"flow_method": "tvl1", "flow_device": "cpu"},
    "audio": {"patch": 96, "patch_hop": None},
    "tiles": {"mpp": None, "stride": None, "tissue": 0.0},
}


def extract_folder(options: argparse.Namespace) -> ExtractionReport:
    """Extract the features that the options name to a store, or resume doing so.

    Parameters
    ----------
    options : argparse.Namespace
        The options of the command.

    Returns
    -------
    ExtractionReport

    Raises
    ------
    ValueError
        If no modality is named, or an option is invalid.
    """
    views = {
        name: (view, _DESCRIPTORS[name] if backbone == "descriptor" else backbone)
        for name, (backbone, view) in _views(options).items()
        if backbone is not None
    }
    if not views:
        raise ValueError(
            "name at least one modality and its backbone, such as --rgb descriptor, --tiles "
            "descriptor or --audio package.module:function."
        )
    _check_used(options, views)
    return extract(
        options.folder,
        options.store,
        views,
        part=_part(options.part),
        device=options.device,
        batch_size=options.batch_size,
        n_workers=options.workers,
        workers=options.worker_kind,
        seconds_per_file=options.seconds_per_file,
        on_error=options.on_error,
        retry_failed=options.retry_failed,
        flush_seconds=options.flush_seconds,
        dtype=options.dtype,
        **_columns(options),
    )


def _check_used(options: argparse.Namespace, views: Mapping[str, Any]) -> None:
    """Raise a ValueError for an option of a modality that is not extracted."""
    for modality, defaults in _DEFAULTS.items():
        for name, default in defaults.items():
            if modality not in views and getattr(options, name) != default:
                raise ValueError(
                    f"--{name.replace('_', '-')} is about --{modality}, which is not given. Pass "
                    f"--{modality} BACKBONE too, or leave the option out."
                )


def _views(options: argparse.Namespace) -> dict[str, tuple[str | None, Any]]:
    n, fps, size = options.frames, options.fps, options.size
    return {
        "rgb": (options.rgb, Frames(n=n, fps=fps, size=size)),
        "flow": (
            options.flow,
            FlowStacks(
                n=n, fps=fps, size=size, method=options.flow_method, device=options.flow_device
            ),
        ),
        "audio": (options.audio, LogMel(length=options.patch, hop=options.patch_hop)),
        "tiles": (
            options.tiles,
            Tiles(size=size, mpp=options.mpp, stride=options.stride, tissue=options.tissue),
        ),
    }


def _part(text: str) -> tuple[int, int]:
    """Return (i - 1, n) for the text "i/n"."""
    number, _, n_parts = text.partition("/")
    if not (number.isdecimal() and n_parts.isdecimal() and 1 <= int(number) <= int(n_parts)):
        raise ValueError(f"--part takes I/N with I from 1 to N, such as 2/4; got {text!r}.")
    return int(number) - 1, int(n_parts)


def _columns(options: argparse.Namespace) -> dict[str, Any]:
    """Return the labels and the groups by id."""
    roles = Roles(options.id, options.label, options.group)
    if options.labels in (None, "folders"):
        if roles.are_given:
            raise ValueError(
                "--id, --label and --group are about a table of labels. Pass it too: --labels CSV."
            )
        return {"labels": options.labels}
    table = read_table(options.labels, roles)
    names = next(iter(table.rows.values()))
    found = {role: {id_: row[role] for id_, row in table.rows.items()} for role in names}
    if "weight" in found:
        warnings.warn(
            f"the weights in {options.labels} are not stored. Add them afterwards: acluster "
            f"convert {options.store} NEW.zarr --labels {options.labels} --only-matching",
            stacklevel=2,
        )
    return {
        "labels": found.get("label"),
        "groups": found.get("group"),
        "label_names": table.label_names,
    }
