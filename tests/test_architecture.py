"""Rules about the code as a whole: what an import costs, how a file opens, what must stand nowhere."""

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("spaces", "trainers", "search", "dashboard")
HEAVY = {
    *("ray", "tensorflow", "keras", "keras_tuner", "jax", "torch", "optuna", "sklearn", "scipy"),
    *("pandas", "pyarrow", "pyspark", "streamlit", "plotly", "PIL"),
}
NO_NAMES = {"utils.py", "util.py", "helpers.py", "helper.py", "base.py", "core.py", "common.py", "misc.py"}
# Spelt in two halves, or this file would name them too.
HOSTS = ("pypi" + ".org", "python" + "hosted", "registry." + "npmjs", "deb." + "debian", "anaconda" + ".org")

PYTHON_FILES = sorted(
    path
    for folder in (*PACKAGES, "benchmarks", "tests")
    for path in (ROOT / folder).rglob("*.py")
    if "__pycache__" not in path.parts
)
OUR_FILES = [path for path in PYTHON_FILES if path.relative_to(ROOT).parts[0] in PACKAGES]


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


LIGHT = (
    *("spaces", "spaces.params", "spaces.sweep"),
    *("trainers", "trainers.contract", "trainers.catalog"),
    *("search", "search.events", "search.asha", "search.search", "search.cli"),
    "dashboard",
)


def test_light_modules_load_no_heavy_library() -> None:
    code = f"""
import importlib, sys
for module in {LIGHT!r}:
    importlib.import_module(module)
    print(*sorted({HEAVY!r} & set(sys.modules)), "by", module)
"""
    told = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.splitlines()
    assert told == [f"by {module}" for module in LIGHT]


def test_heavy_libraries_are_installed_or_the_test_above_says_nothing() -> None:
    needed = HEAVY - {"torch"}  # never ours, but a library could bring it in
    assert {library for library in needed if importlib.util.find_spec(library) is None} == set()


@pytest.mark.parametrize("path", OUR_FILES, ids=name)
def test_file_imports_no_pickle(path: Path) -> None:
    forbidden = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
    assert imported(path) & forbidden == set()


def imported(path: Path) -> set[str]:
    """The top-level names that a file imports, also inside functions."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    origins = {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom) and not node.level}
    return {module.partition(".")[0] for module in plain | origins}


@pytest.mark.parametrize("path", [path for path in PYTHON_FILES if path.stat().st_size], ids=name)
def test_file_opens_with_one_sentence(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    assert docstring, "a file opens with one sentence that says what it is"
    first = docstring.splitlines()[0]
    assert first.endswith("."), f"the first line is not a whole sentence: {first!r}"
    assert first[0].isupper() or first.startswith("`"), f"a sentence begins with a capital: {first!r}"


@pytest.mark.parametrize("path", PYTHON_FILES, ids=name)
def test_file_name_says_what_is_in_it(path: Path) -> None:
    assert path.name not in NO_NAMES
    assert "common" not in path.relative_to(ROOT).parts[:-1]


def test_no_tracked_file_names_a_package_registry() -> None:
    hosts = re.compile("|".join(re.escape(host) for host in HOSTS))
    assert [name(path) for path in tracked() if hosts.search(path.read_text(errors="replace"))] == []


def test_no_tracked_file_is_of_one_machine() -> None:
    """A path or a secret of whoever wrote it helps nobody else."""
    local = re.compile(r"/(?:root|work)/[\w.]|BEGIN [A-Z ]*PRIVATE KEY")
    others = [path for path in tracked() if path != Path(__file__)]
    assert [name(path) for path in others if local.search(path.read_text(errors="replace"))] == []


def test_there_are_files_to_check() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in PYTHON_FILES} >= {*PACKAGES, "tests"}
    assert {"pyproject.toml", "Makefile", "requirements.lock"} <= {name(path) for path in tracked()}


def tracked() -> list[Path]:
    """What git holds or would take; outside a clone (an unpacked archive) every file that is not hidden."""
    git = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        listed = subprocess.run(git, cwd=ROOT, check=True, capture_output=True, text=True).stdout
        paths = [ROOT / file for file in listed.split("\0") if file]
    except (OSError, subprocess.CalledProcessError):
        paths = [path for path in ROOT.rglob("*") if not re.search(r"/(\.|runs/)", f"/{name(path)}")]
    return [path for path in paths if path.is_file()]
