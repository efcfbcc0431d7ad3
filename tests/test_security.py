"""What the whole source keeps to: nothing is unpickled, nothing runs a shell, nothing listens to the world unasked."""

import ast
import dataclasses
import json
import runpy
import subprocess
import sys
import typing
from pathlib import Path

import pytest

from attacker.workers.jobs import Job

PROJECT = Path(__file__).parents[1]
SOURCES = [
    path for folder in ("fl_sim", "clients", "attacker", "experiments") for path in (PROJECT / folder).rglob("*.py")
]
UNPICKLERS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"}
PICKLED = {"read_pickle", "to_pickle"}


def calls(tree):
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call)]


def flaws(source):
    """The lines of `source` that read or write pickles, evaluate text or run a shell."""
    found = []
    for node in ast.walk(ast.parse(source)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        if any(name.split(".")[0] in UNPICKLERS for name in names):
            found.append(node.lineno)
    for call in calls(ast.parse(source)):
        name, words = ast.unparse(call.func), {word.arg: ast.unparse(word.value) for word in call.keywords}
        if (
            (name.endswith("torch.load") and words.get("weights_only") != "True")
            or words.get("allow_pickle", "False") != "False"
            or words.get("shell", "False") != "False"
            or name.split(".")[-1] in PICKLED
            or name in {"eval", "exec", "os.system"}
        ):
            found.append(call.lineno)
    return found


def test_nothing_is_unpickled_evaluated_or_given_to_a_shell():
    assert {str(path): lines for path in SOURCES if (lines := flaws(path.read_text(encoding="utf-8")))} == {}


@pytest.mark.parametrize(
    "line",
    [
        "import pickle", "from joblib import load", "torch.load(path)", "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)", "frame.to_pickle(path)", "subprocess.run(text, shell=True)", "eval(text)",
    ],
)  # fmt: skip
def test_the_check_sees_what_it_is_for(line):
    assert flaws(line) == [1]
    assert flaws("torch.load(path, weights_only=True)") == []


def test_ruff_forbids_pickle_too(tmp_path):
    bad = tmp_path / "bad.py"
    bad.write_text("import pickle\n\npickle.loads(b'')\n")
    checked = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--config", PROJECT / "pyproject.toml", bad],
        capture_output=True,
        text=True,
    )
    assert "S301" in checked.stdout


def test_what_workers_are_sent_is_names_and_numbers():
    """Ray and multiprocessing pickle what they carry: no photo, no update, nothing that came from a client."""
    kinds = typing.get_type_hints(Job)
    assert set(kinds) == {field.name for field in dataclasses.fields(Job)}
    assert set(kinds.values()) <= {str, int, tuple[int, ...]}


def test_nothing_listens_to_the_world_unasked():
    listening = [str(path) for path in SOURCES if "0.0.0.0" in path.read_text(encoding="utf-8")]
    assert listening == []


def test_the_audit_counts_what_was_looked_up_and_nothing_else():
    verdict = runpy.run_path(str(PROJECT / ".ci" / "audit.py"))["verdict"]
    clean, unknown = {"name": "a", "version": "1", "vulns": []}, {"name": "b", "skip_reason": "not found"}
    bad = {"name": "c", "version": "2", "vulns": [{"id": "CVE-1", "fix_versions": ["3"]}]}

    def report(*found):
        return json.dumps({"dependencies": found})

    assert verdict(report(clean, unknown), "") == (0, "audit: 0 known vulnerabilities in 1 of 2 dependencies")
    assert verdict(report(clean, bad), "")[0] == 1
    assert "c 2: CVE-1, fixed in 3" in verdict(report(bad), "")[1]
    assert "skipped" in verdict(report(unknown), "")[1]
    assert "no network" in verdict("", "no network\n")[1]
