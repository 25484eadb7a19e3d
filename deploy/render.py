"""Writes what is made from the chart and the gateway: the manifests of the chart's deployments, and Envoy's example.

python deploy/render.py            write them
python deploy/render.py --check    exit with 1 if one is not up to date
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import helm_python
import yaml

from tnn_serving.cli.app import make_app

ROOT = Path(__file__).parents[1]
CHART = ROOT / "deploy" / "helm" / "tnn-serving"
VALUES = CHART / "ci"
RELEASE = "tnn-serving"
MACHINES = ("10.0.0.1", "10.0.0.2", "10.0.0.3")

MANIFEST = ROOT / "deploy" / "kubernetes" / "tnn-serving.yaml"
GOLDEN = ROOT / "tests" / "data" / "chart"
EXAMPLE = ROOT / "deploy" / "envoy" / "gateway.yaml"

HEAD = """\
# tnn-serving behind Envoy: the Helm chart in deploy/helm with its defaults, written by deploy/render.py. Before you
# apply it, set the image, and create the claim `models` with the repository.
#
#   kubectl create secret generic tnn-serving-admin --from-literal=token=$(openssl rand -hex 24)
#   kubectl apply -f tnn-serving.yaml
"""


def rendered(values: dict[str, Any] | None = None) -> dict[str, str]:
    """The chart's manifests by the name of the template, without those that are empty."""
    texts = helm_python.Chart.load(CHART).render(values, name=RELEASE, namespace="default")
    return {
        Path(name).relative_to("tnn-serving/templates").as_posix(): text for name, text in texts.items() if text.strip()
    }


def manifests(values: dict[str, Any] | None = None) -> str:
    """All manifests that an installation applies, as one text."""
    parts = [
        text for name, text in rendered(values).items() if name.endswith(".yaml") and not name.startswith("tests/")
    ]
    return "---\n" + "---\n".join(part.strip().removeprefix("---").strip() + "\n" for part in parts)


def files() -> Iterator[tuple[Path, str]]:
    """Every file that this writes, and its text."""
    yield MANIFEST, HEAD + manifests()
    for values in sorted(VALUES.glob("*-values.yaml")):
        yield GOLDEN / f"{values.stem.removesuffix('-values')}.yaml", manifests(yaml.safe_load(values.read_text()))
    with redirect_stdout(StringIO()) as printed:
        make_app(["gateway"])(["gateway", "render", *MACHINES], standalone_mode=False)
    yield EXAMPLE, printed.getvalue()


def main() -> int:
    """Writes the files, or says which are stale."""
    stale = [(path, text) for path, text in files() if not path.is_file() or path.read_text() != text]
    if "--check" in sys.argv[1:]:
        for path, _ in stale:
            print(f"{path.relative_to(ROOT)} is stale; run: python deploy/render.py", file=sys.stderr)
        return int(bool(stale))
    for path, text in stale:
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
