"""The rooms of docs/design.md: who may import whom, what an import may load, what stands nowhere in the source."""

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
SOURCE = PROJECT / "src" / "polymodal"
FILES = sorted(SOURCE.rglob("*.py"))


def order_in_design() -> dict[str, int]:
    """Room -> its place, read from the line of docs/design.md that draws the order."""
    (drawn,) = re.findall(r"^`(version .*\| cli)`$", (PROJECT / "docs" / "design.md").read_text("utf-8"), re.MULTILINE)
    return {room: place for place, rooms in enumerate(drawn.split("|")) for room in rooms.split()}


def room_of(file: Path) -> str:
    return file.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(file: Path) -> Iterator[str]:
    """The full name of everything imported in the file, at whatever depth it stands."""
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: relative imports hide the room"
            yield from (f"{node.module}.{name.name}" for name in node.names)


def test_every_file_stands_in_a_room_of_the_design() -> None:
    unknown = {room_of(file) for file in FILES} - order_in_design().keys() - {"__init__", "__main__"}
    assert not unknown, "draw them into docs/design.md"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_a_part_imports_only_what_stands_to_its_left(file: Path) -> None:
    order, room = order_in_design(), room_of(file)
    if room in ("__init__", "__main__"):  # the package's face, which loads by name and on demand
        return
    wrong = {
        module
        for module in imports(file)
        if module.startswith("polymodal.")
        and (other := module.split(".")[1]) != room
        and other in order
        and order[other] > order[room]
    }
    assert not wrong, f"{room} may not import {sorted(wrong)}"


def test_the_using_side_never_imports_the_training_side() -> None:
    using = [file for file in FILES if room_of(file) in ("artifact", "engine", "data", "models", "encoders")]
    wrong = [
        (str(file.relative_to(SOURCE)), module)
        for file in using
        for module in imports(file)
        if module.startswith(("polymodal.train", "pytorch_lightning", "lightning"))
    ]
    assert not wrong


def test_no_pickle_and_no_foreign_code_anywhere() -> None:
    """`torch.load` only with weights_only=True; no pickle, marshal, shelve, joblib, eval or exec; no remote code."""
    wrong = []
    for file in FILES:
        where = file.relative_to(SOURCE)
        wrong += [
            f"{where}: imports {module}"
            for module in imports(file)
            if module.split(".")[0] in ("pickle", "dill", "cloudpickle", "marshal", "shelve", "joblib")
            and module != "pickle.UnpicklingError"  # what torch.load(weights_only=True) raises
        ]
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            said = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if called in ("eval", "exec", "torch.save", "yaml.load", "yaml.unsafe_load"):
                wrong.append(f"{where}:{node.lineno}: calls {called}")
            if called == "torch.load" and said.get("weights_only") != "True":
                wrong.append(f"{where}:{node.lineno}: torch.load without weights_only=True")
            if called in ("np.load", "numpy.load") and said.get("allow_pickle", "False") != "False":
                wrong.append(f"{where}:{node.lineno}: numpy.load that reads pickles")
            if "trust_remote_code" in said:
                wrong.append(f"{where}:{node.lineno}: trust_remote_code")
    assert not wrong


def modules_after(code: str) -> set[str]:
    """The modules that a fresh process has loaded after `code`, which may not reach the network."""
    guarded = f"""
import json, socket, sys
def refuse(*args, **kwargs):
    raise RuntimeError("the network was asked for")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = socket.create_connection = refuse
{code}
print(json.dumps(sorted(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", guarded], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


HEAVY = {"torch", "numpy", "pyarrow", "PIL", "pytorch_lightning", "matplotlib", "sklearn", "scipy", "transformers"}


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert not modules_after("import polymodal; dir(polymodal)") & (HEAVY | {"pydantic", "typer", "rich", "yaml"})


def test_the_command_line_lists_its_verbs_without_anything_heavy() -> None:
    assert not modules_after("from polymodal.cli.app import VERBS") & (HEAVY | {"pydantic", "yaml"})


def test_every_verb_can_be_imported_without_anything_heavy() -> None:
    """A verb's file imports torch inside `run`, so that its --help is quick."""
    verbs = sorted(file.stem for file in (SOURCE / "cli").glob("*.py") if file.stem not in ("__init__", "app"))
    loaded = modules_after("".join(f"import polymodal.cli.{verb}\n" for verb in verbs))
    assert not loaded & (HEAVY - {"numpy"})


def test_the_engine_loads_without_the_training_side() -> None:
    loaded = modules_after("import polymodal as pm; pm.load; pm.Engine; pm.Manifest")
    assert "polymodal.engine" in loaded
    assert "torch" in loaded
    assert not {name for name in loaded if name.startswith(("polymodal.train", "pytorch_lightning", "lightning"))}


def test_no_module_asks_for_the_network_when_it_is_imported() -> None:
    names = [
        ".".join(file.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(".__init__") for file in FILES
    ]
    modules_after("\n".join(f"import {name}" for name in names if not name.endswith("__main__")))
