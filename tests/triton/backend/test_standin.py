"""The C shim, with the real bridge and CPython, in a stand-in for the server that the compiler's sanitizers watch.

``standin/`` has the server's functions (``server.c``, ``optional.c``) and what is done with the shim (``main.c``). The
sanitizers see the C side, and through their allocator and their locks what CPython does with its memory and the GIL.
Nothing is suppressed but the leak check, since CPython does not free everything at its end. Instead the stand-in counts
the server's objects and the shim's allocations: both must be gone after each scenario.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from hatch_build import COMPILE_FLAGS, FLAGS, LINKS, SOURCES
from tests.pages import ROOT
from tnn_serving.errors import ServerError
from tnn_serving.triton.launch import find_libpython

pytestmark = pytest.mark.slow

SHIM = ROOT / SOURCES
UNITS = sorted(SHIM.glob("*.c"))
STANDIN = Path(__file__).parent / "standin"
WARNINGS = [f"@{ROOT / COMPILE_FLAGS}", "-Werror"]
COUNTED = ("malloc", "calloc", "free", "posix_memalign", "strdup", "vasprintf")
"""Functions of the shim's that ``memory.c`` counts and lets fail."""

SANITIZERS = {
    "addresses": ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
    "threads": ["-fsanitize=thread"],
}
SANITIZED = ["-O1", "-g", "-fno-omit-frame-pointer"]
OFTEN = "-DPERIOD_MS=1"
"""The heartbeat and the thread that watches executions are part of the crowd."""
RUN_S = 240
"""How long a program may take on a busy machine; alone it takes a few seconds."""

FINDINGS = ("ERROR: AddressSanitizer", "WARNING: ThreadSanitizer", "runtime error:")


def compile_c(*arguments: str | Path) -> None:
    done = subprocess.run(["cc", *map(str, arguments)], capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr


@dataclass(frozen=True)
class Build:
    """The shim and the stand-in, both with the same sanitizers.

    Attributes:
        launcher: the command in front of the program's own.
        older: the stand-in for a server without traces and metrics.
    """

    launcher: Sequence[str]
    program: Path
    older: Path
    library: Path

    def run(
        self, *arguments: str, program: Path | None = None, environment: Mapping[str, str | None] | None = None
    ) -> list[str]:
        """The lines that the program prints; checks that it ends well and that no sanitizer finds anything."""
        variables: dict[str, str | None] = {
            **os.environ,
            "TNN_LIBPYTHON": str(find_libpython()),
            "TNN_PYTHON": sys.executable,
            "PYTHONPATH": str(STANDIN),
            "PYTHONMALLOC": "malloc",  # the sanitizers' own, instead of pools that hide what is freed
            "ASAN_OPTIONS": "detect_leaks=0",
            **(environment or {}),
        }
        done = subprocess.run(
            [*self.launcher, str(program or self.program), str(self.library), *arguments],
            env={name: value for name, value in variables.items() if value is not None},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=RUN_S,
            check=False,
        )
        found = next((line for line in done.stderr.splitlines() if any(each in line for each in FINDINGS)), "nothing")
        assert done.returncode == 0, f"exit code {done.returncode}, found: {found}\n{done.stderr[-20_000:]}"
        assert found == "nothing", done.stderr[-20_000:]
        return done.stdout.splitlines()


def launcher_for(sanitizer: Sequence[str], folder: Path) -> Sequence[str]:
    """The command that starts programs with this sanitizer; skips where there is none that does.

    The thread sanitizer needs certain addresses, which a kernel that spreads addresses widely may have given away.
    """
    source, program = folder / "empty.c", folder / "empty"
    source.write_text("int main(void) { return 0; }\n")
    built = subprocess.run(["cc", *sanitizer, "-o", program, source], capture_output=True, text=True, check=False)
    if built.returncode:
        pytest.skip(f"the compiler has no {sanitizer[0]}: {built.stderr.strip()}")
    setarch = shutil.which("setarch")
    errors = ""
    for launcher in ([setarch, "--addr-no-randomize"] if setarch else [], []):
        done = subprocess.run([*launcher, program], capture_output=True, text=True, check=False)
        if not done.returncode:
            return launcher
        errors += done.stderr
    pytest.skip(f"programs with {sanitizer[0]} do not run here: {errors.strip()}")


def built(name: str, folder: Path) -> Build:
    sanitizer = SANITIZERS[name]
    launcher = launcher_for(sanitizer, folder)
    build = Build(launcher, folder / "standin", folder / "older", folder / "libtriton_tnn.so")
    flags = [*WARNINGS, *sanitizer, *SANITIZED]
    wrapped = ",".join(f"--wrap={function}" for function in COUNTED)
    shared = ["-shared", "-fPIC", "-fvisibility=hidden", f"-Wl,{wrapped}"]
    compile_c(*flags, OFTEN, *shared, "-o", build.library, *UNITS, *LINKS)
    objects = [folder / f"{unit.stem}.o" for unit in STANDIN.glob("*.c")]
    for each in objects:
        compile_c(*flags, f"-I{SHIM}", "-c", "-o", each, STANDIN / f"{each.stem}.c")
    for program, without in ((build.program, ""), (build.older, "optional")):
        compile_c(*sanitizer, "-rdynamic", "-o", program, *(each for each in objects if each.stem != without), *LINKS)
    return build


@pytest.fixture(scope="session")
def compiler() -> None:
    if not shutil.which("cc"):
        pytest.skip("there is no C compiler")


@pytest.fixture(scope="session")
def builds(compiler: None, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Build]:
    """Makes each build once, whatever the order of the tests."""
    try:
        find_libpython()
    except ServerError as error:
        pytest.skip(f"no Python can be started inside a server here: {error}")
    return functools.cache(lambda name: built(name, tmp_path_factory.mktemp(name)))


@pytest.fixture(params=SANITIZERS)
def build(request: pytest.FixtureRequest, builds: Callable[[str], Build]) -> Build:
    return builds(request.param)


def test_the_shim_compiles_without_warnings(compiler: None, tmp_path: Path) -> None:
    compile_c(*WARNINGS, *FLAGS, "-o", tmp_path / "library.so", *UNITS, *LINKS)


def test_every_scenario(build: Build) -> None:
    named = re.findall(r"\bSCENARIO\((\w+)\)", (STANDIN / "main.c").read_text())
    assert build.run() == [*(name for name in named if name != "name"), "stop"]


def test_a_server_without_traces_and_metrics(build: Build) -> None:
    assert build.run("alone", "together", "busy", program=build.older) == ["alone", "together", "busy", "stop"]


@pytest.mark.parametrize("function", ["TRITONBACKEND_ApiVersion", "TRITONBACKEND_BackendConfig"])
def test_a_server_that_fails_at_the_start(build: Build, function: str) -> None:
    (error,) = build.run("--start", function)
    assert error.endswith(function)


def test_no_python_is_named(build: Build) -> None:
    (error,) = build.run("--start", environment={"TNN_LIBPYTHON": None})
    assert "`tnn-serving backend install` writes python.conf beside this library" in error


def test_a_library_that_is_not_pythons(build: Build) -> None:
    (error,) = build.run("--start", environment={"TNN_LIBPYTHON": str(build.library)})
    assert error == f"{build.library} is no CPython 3.10 to 3.14: it lacks Py_SetProgramName"


def test_a_bridge_that_cannot_be_imported(build: Build, tmp_path: Path) -> None:
    (tmp_path / "tnn_serving.py").write_text("raise ImportError('half an installation')\n")
    (error,) = build.run("--start", environment={"PYTHONPATH": str(tmp_path)})
    assert error == f"cannot start the tnn backend with TNN_PYTHON={sys.executable}: half an installation"
