"""Coverage-guided fuzzing of everything that reads bytes from strangers; needs the extra `fuzz`.

    python fuzz/run.py --seconds 200 proto

What breaks a target is written to fuzz/crashes/TARGET, to be kept there once it is mended: tests replay it. The corpus
in the repository is not changed; --keep writes new finds into a folder of your own.
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
    """Words that chance would not find."""
    words = [*declared(), "4206624770", "4206624772", "_scale_data_", "TYPE_STRING", "string_value", "2147483647"]
    path.write_text("".join(f'"{word}"\n' for word in words))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", choices=sorted(TARGETS))
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--keep", type=Path, help="a folder for inputs that reach new code")
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
