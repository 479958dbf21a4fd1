"""No module of ours opens what can run code: by its syntax, whatever the tests happen to reach."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = [
    ROOT / "dpace_serve",
    ROOT / "training" / "dpace_training",
    ROOT / "loadtest" / "dpace_loadtest",
]
MODULES = sorted(path for package in PACKAGES for path in package.rglob("*.py"))

RUNS_CODE = frozenset({
    "_pickle", "cPickle", "cloudpickle", "dill", "jsonpickle", "joblib", "marshal", "pickle",
    "shelve",
})  # fmt: skip
# Loaders of the safe kind; ours counts too, since it derives from one of them.
SAFE_LOADERS = frozenset({"SafeLoader", "CSafeLoader", "_SettingsLoader"})
NAMED = frozenset({"eval", "exec", "compile", "__import__"})
UNPACKING = frozenset({"extractall", "unpack_archive"})
SHELLS = frozenset({"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"})
YAML_LOADS = frozenset({
    "yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.unsafe_load_all", "yaml.full_load",
    "yaml.full_load_all",
})  # fmt: skip


def offences(source):
    """Line and reason of everything in a module that could run what it reads."""
    tree = ast.parse(source)
    full = full_names(tree)
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            found += [(node.lineno, f"imports {name}") for name in opened_by(node)]
        elif isinstance(node, ast.Call):
            reason = dangerous(node, called(node.func, full))
            if reason is not None:
                found.append((node.lineno, reason))
    return found


def opened_by(node):
    names = [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        names = [f"{node.module or ''}.{name}" for name in names]
    return [name for name in names if RUNS_CODE & set(name.split("."))]


def full_names(tree):
    """What the names of imports stand for: np is numpy, run may be subprocess.run."""
    known = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            known |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom):
            known |= {
                alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names
            }
    return known


def called(node, full):
    """The dotted name of what is called; its last part where it is called on a value."""
    if isinstance(node, ast.Name):
        return full.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        return f"{called(node.value, full)}.{node.attr}"
    return ""


def dangerous(call, name):
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    if name in NAMED or name in SHELLS or name.split(".")[-1] in UNPACKING:
        return f"calls {name}"
    if name in ("torch.load", "torch.jit.load") and not is_constant(given, "weights_only", True):
        return f"calls {name} without weights_only=True"
    for key in ("allow_pickle", "shell", "trust_remote_code"):
        if key in given and not is_constant(given, key, False):
            return f"calls {name} with {key}"
    if name in YAML_LOADS and not has_safe_loader(call, given):
        return f"calls {name} without a safe loader"
    return None


def has_safe_loader(call, given):
    loader = given.get("Loader", call.args[1] if len(call.args) > 1 else None)
    return loader is not None and ast.unparse(loader).split(".")[-1] in SAFE_LOADERS


def is_constant(given, key, value):
    node = given.get(key)
    return isinstance(node, ast.Constant) and node.value is value


def test_no_module_can_run_what_it_reads():
    assert len(MODULES) > 300
    found = {
        f"{path.relative_to(ROOT)}:{line}": reason
        for path in MODULES
        for line, reason in offences(path.read_text(encoding="utf-8"))
    }
    assert found == {}


@pytest.mark.parametrize(
    "planted",
    [
        "import pickle",
        "import os, dill as d",
        "from joblib import load",
        "from torch.utils import _pickle",
        "def late():\n    import marshal\n",
        "import torch\ntorch.load('x')",
        "import torch\ntorch.load('x', weights_only=False)",
        "import torch\ntorch.load('x', weights_only=flag)",
        "from torch import load\nload('x')",
        "import torch as t\nt.load('x')",
        "import numpy as np\nnp.load('x', allow_pickle=True)",
        "import yaml\nyaml.load(text, Loader=yaml.Loader)",
        "import yaml\nyaml.load(text, yaml.UnsafeLoader)",
        "import yaml\nyaml.load(text)",
        "from yaml import full_load\nfull_load(text)",
        "eval('1')",
        "exec(text)",
        "import subprocess\nsubprocess.run('ls', shell=True)",
        "from subprocess import Popen\nPopen(text, shell=flag)",
        "import os\nos.system(text)",
        "archive.extractall(folder)",
        "import shutil\nshutil.unpack_archive(file)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
    ],
)
def test_what_could_run_code_is_found(planted):
    assert len(offences(planted)) == 1


@pytest.mark.parametrize(
    "harmless",
    [
        "model.eval()",
        "import torch\ntorch.load('x', weights_only=True)",
        "import numpy as np\nnp.load('x')",
        "import yaml\nyaml.safe_load(text)",
        "import yaml\nyaml.load(text, Loader=yaml.SafeLoader)",
        "import subprocess\nsubprocess.run(['ls'])",
        "import re\nre.compile('x')",
        "import json\njson.load(file)",
        "get_config(name, trust_remote_code=False)",
    ],
)
def test_what_cannot_is_left_alone(harmless):
    assert offences(harmless) == []
