"""Coverage-guided fuzzing of all code that reads untrusted bytes; needs the extra `fuzz`.

    python fuzz/run.py --seconds 200 proto

Inputs that break a target are written to fuzz/crashes/TARGET. Keep them there after the fix: tests replay them. The
corpus in the repository is not changed; --keep writes new inputs to another folder.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["tnn_serving", "PIL", "numpy.lib", "zipfile", "google.protobuf.text_format"]):
    sys.path.insert(0, str(Path(__file__).parent.parent))
    from fuzz.targets import HERE, TARGETS
    from tnn_serving.layers import declared

MAX_BYTES = 4096
MEMORY_MEGABYTES = 2048
SLOW_S = 10


def dictionary(path: Path) -> None:
    """Writes words that random mutation does not find."""
    words = [*declared(), "4206624770", "4206624772", "_scale_data_", "TYPE_STRING", "string_value", "2147483647"]
    path.write_text("".join(f'"{word}"\n' for word in words))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", choices=sorted(TARGETS))
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--keep", type=Path, help="folder for inputs that reach new code")
    options = parser.parse_args()
    crashes = HERE / "crashes" / options.target
    crashes.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix="fuzz-"))
    try:
        found = options.keep or scratch / "found"
        found.mkdir(parents=True, exist_ok=True)
        dictionary(scratch / "words")
        flags = [
            f"-max_total_time={options.seconds}",
            f"-max_len={MAX_BYTES}",
            f"-rss_limit_mb={MEMORY_MEGABYTES}",
            f"-timeout={SLOW_S}",
            f"-dict={scratch / 'words'}",
            f"-artifact_prefix={crashes}/",
            "-print_final_stats=1",
        ]
        atheris.Setup([sys.argv[0], *flags, str(found), str(HERE / "corpus" / options.target)], TARGETS[options.target])
        atheris.Fuzz()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    main()
