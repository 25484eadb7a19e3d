"""Builds what a container file says without a container engine: each stage is a Debian tree, each RUN a chroot in it.

Needs root, debootstrap and unshare. Every command has mounts of its own, which end with it.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import ssl
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

BUILD_S = 1800.0
ROOT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CERTIFICATES = "/etc/host-certificates.pem"
"""The machine's own, for pip: a company's proxy may be among them."""


def instructions(file: Path) -> list[tuple[str, str]]:
    """Each instruction and what follows it, comments left out and lines joined."""
    text = re.sub(r"^\s*#.*\n", "", file.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(word, rest.strip()) for line in text.splitlines() if line for word, rest in [line.split(None, 1)]]


@dataclass
class Stage:
    """A tree and what has been said about its processes."""

    root: Path
    environment: dict[str, str] = field(default_factory=dict)
    user: str = "0:0"

    def command(self, *words: str, before: str = "") -> list[str]:
        """The command line that runs ``words`` in the tree.

        Args:
            before: shell commands for the mounts, with the tree's path in ``$ROOT``.
        """
        variables = {"PATH": ROOT_PATH, **self.environment}
        inner = ["/usr/sbin/chroot", f"--userspec={self.user}", str(self.root)]
        inner += ["env", "-i", *(f"{name}={value}" for name, value in variables.items()), *words]
        script = f"set -e; ROOT={shlex.quote(str(self.root))}; {before or 'mount -t proc proc $ROOT/proc'}"
        return ["unshare", "--mount", "sh", "-c", f"{script}\nexec {shlex.join(inner)}"]

    def run(self, line: str, log: Path) -> None:
        """One RUN, with the network of this machine."""
        proxies = {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}
        given = {"HOME": "/root", "DEBIAN_FRONTEND": "noninteractive", "PIP_CERT": CERTIFICATES}
        stage = Stage(self.root, {**given, **proxies}, self.user)
        stage.environment |= self.environment
        with log.open("ab") as out:
            done = subprocess.run(
                stage.command("/bin/sh", "-c", line), stdout=out, stderr=subprocess.STDOUT, timeout=BUILD_S, check=False
            )
        assert done.returncode == 0, f"{line}\n{log.read_text(errors='replace')[-3000:]}"


def build(file: Path, context: Path, names: list[str], folder: Path) -> Stage:
    """The last stage of a container file.

    Args:
        context: where ``COPY`` takes from.
        names: what of it is not ignored.
        folder: where the trees are made; some 3 GB.
    """
    base, log = folder / "base", folder / "log"
    suite = re.findall(r"^FROM \S+:(\w+)-slim", file.read_text(), re.MULTILINE)[0]
    with log.open("wb") as out:
        command = ["unshare", "--mount", "debootstrap", "--variant=minbase", suite, str(base)]
        subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, timeout=BUILD_S, check=True)
    stages: dict[str, Stage] = {}
    stage = Stage(base)
    for word, rest in instructions(file):
        if word == "FROM":
            name = rest.partition(" AS ")[2] or "last"
            stage = stages[name] = Stage(folder / name)
            subprocess.run(["cp", "--archive", str(base), str(stage.root)], check=True)
            shutil.copy("/etc/resolv.conf", stage.root / "etc/resolv.conf")
            certificates = os.environ.get("PIP_CERT") or ssl.get_default_verify_paths().cafile
            assert certificates is not None
            shutil.copy(certificates, f"{stage.root}{CERTIFICATES}")
        elif word == "RUN":
            stage.run(rest, log)
        elif word == "COPY":
            *options, source, target = rest.split()
            there = Path(f"{stage.root}{target}")
            if options:
                (origin,) = options
                tree = stages[origin.removeprefix("--from=")].root
                subprocess.run(["cp", "--archive", f"{tree}{source}", str(there)], check=True)
            else:
                there.mkdir(parents=True)
                for name in names:
                    subprocess.run(["cp", "--recursive", str(context / name), str(there)], check=True)
                for library in there.rglob("*.so"):
                    library.unlink()
        elif word == "ENV":
            stage.environment |= dict(re.findall(r"(\w+)=(\S+)", rest))
        elif word == "USER":
            stage.user = rest
    return stage
