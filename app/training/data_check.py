"""What a data set holds, before the GPU hours start; and the same without its near-copies."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import webdataset

from app.pictures.formats import format_of
from app.pipeline.descriptors import Descriptor
from app.pipeline.training_index import write_index
from app.training.copies import describe, find_duplicates
from app.training.errors import CannotStart
from app.training.sieve import Sieve, scores, size_of
from app.training.sources import open_source

_QUANTILES = {"min": 0.0, "p10": 0.1, "median": 0.5, "p90": 0.9, "max": 1.0}
_SHARD = 10_000


def check_data(data: str, sieve: Sieve, descriptor: Descriptor | None) -> dict[str, Any]:
    """Counts, sizes, scores, what ``sieve`` leaves out and why, and near-copies.

    Near-copies are not looked for without a ``descriptor``. ``unreadable`` are those of which
    something cannot be decoded, which takes decoding all of them: with a descriptor it is known,
    without it those whose header cannot be read are told.
    """
    source = open_source(data)
    sides: list[tuple[int, int]] = []
    known: dict[str, list[float]] = {}
    reasons: Counter[str] = Counter()
    pictures = bytes_read = 0
    for raw in source.ordered():
        pictures += 1
        bytes_read += len(raw.data)
        if size := size_of(raw):
            sides.append(size)
        for name, value in scores(raw.facts).items():
            known.setdefault(name, []).append(value)
        if reason := sieve.reason(raw):
            reasons[reason] += 1
    found: dict[str, Any] = {
        "pictures": pictures,
        "bytes": bytes_read,
        "kept": pictures - reasons.total(),
        "left_out": dict(reasons),
        "unreadable": pictures - len(sides),
        "shorter_side": _spread([min(size) for size in sides]),
        "longer_over_shorter_side": _spread([max(size) / min(size) for size in sides]),
        "scores": {
            name: {"pictures": len(values), **_spread(values)} for name, values in known.items()
        },
    }
    if descriptor and sides:
        described = describe(source.ordered(), descriptor)
        found["unreadable"] = described.unreadable
        found["near_copies"] = {
            "descriptor": descriptor.name,
            **{
                f"from_{least:g}": len(find_duplicates(described, least))
                for least in (descriptor.alike, descriptor.copy)
            },
        }
    return found


def deduplicate(data: str, out: Path, descriptor: Descriptor, least: float) -> dict[str, Any]:
    """Write shards to ``out`` without near-copies and what cannot be read; what was left out.

    Of pictures that are alike from cosine ``least`` on, the first is kept. ``duplicates.json``
    names each that was left out with the one that was kept in its place.
    """
    if out.exists() and any(out.iterdir()):
        raise CannotStart(f"{out} is not empty: name a new folder (--out)")
    source = open_source(data)
    described = describe(source.ordered(), descriptor)
    duplicates = find_duplicates(described, least)
    kept = set(described.places) - set(duplicates)
    out.mkdir(parents=True, exist_ok=True)
    pattern = str(out / "%05d.tar")
    with webdataset.ShardWriter(pattern, maxcount=_SHARD, verbose=0) as writer:
        for place, raw in enumerate(source.ordered()):
            if place in kept:
                suffix = (format_of(raw.data) or "").lower().replace("jpeg", "jpg")
                facts = json.dumps({**raw.facts, "original_key": raw.key})
                key = f"{place:09}"
                writer.write({"__key__": key, suffix: raw.data, "json": facts.encode()})
    named = [asdict(duplicate) for duplicate in duplicates.values()]
    (out / "duplicates.json").write_text(json.dumps(named, indent=2) + "\n")
    return {
        "descriptor": descriptor.name,
        "from_cosine": least,
        "pictures": len(described.places) + described.unreadable,
        "unreadable": described.unreadable,
        "near_copies": len(duplicates),
        "kept": len(kept),
    }


def index(data: str, out: Path, descriptor: Descriptor, threshold: float) -> dict[str, Any]:
    """Write an index of the data set to ``out``, which the service can be served with.

    A variation whose nearest picture of it has a cosine from ``threshold`` on is marked.
    """
    if out.exists() and any(out.iterdir()):
        raise CannotStart(f"{out} is not empty: name a new folder (--out)")
    described = describe(open_source(data).ordered(), descriptor)
    write_index(out, descriptor, described.descriptors, described.keys, threshold)
    return {
        "descriptor": descriptor.name,
        "threshold": threshold,
        "pictures": len(described.keys),
        "unreadable": described.unreadable,
    }


def _spread(values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {}
    return {name: float(np.quantile(values, share)) for name, share in _QUANTILES.items()}
