"""Packs recordings of the real TNN into the zips beside this file, the same bytes each time.

    python tests/data/pack.py FOLDER

FOLDER holds one folder a layer type with one .npz a case, and ``_mat`` with the picture conversions. The members are
the recorded files as they are: stored, since they are compressed already; without times and owners.
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

HERE = Path(__file__).parent
PICTURES = "_mat"
LARGEST = 9_000_000
"""Bytes that all zips together may take: they are part of the repository."""

EPOCH = (1980, 1, 1, 0, 0, 0)
"""The earliest time a zip can say."""


def pack(folder: Path, target: Path) -> int:
    """Writes the recordings of one folder into a zip, in the order of their names. Returns its size in bytes."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(folder.glob("*.npz")):
            archive.writestr(_member(path.name), path.read_bytes())
    return target.stat().st_size


def _member(name: str) -> zipfile.ZipInfo:
    member = zipfile.ZipInfo(name, EPOCH)
    member.create_system = 3
    member.external_attr = 0o644 << 16
    return member


def main(source: Path) -> None:
    """Packs every folder of ``source`` that holds recordings."""
    total = 0
    for folder in sorted(path for path in source.iterdir() if any(path.glob("*.npz"))):
        picture = folder.name == PICTURES
        total += pack(folder, HERE / "mat.zip" if picture else HERE / "conformance" / f"{folder.name}.zip")
    if not total:
        raise SystemExit(f"no recordings in {source}")
    if total > LARGEST:
        raise SystemExit(f"{total} bytes are more than the {LARGEST} that the repository has room for")
    print(f"{total} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
