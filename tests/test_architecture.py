"""The rules of the house: who may import whom, how long things may be, what is documented, and which errors have codes."""

import ast
import functools
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from msanet.error_catalog import AREAS, CATALOG

ROOT = Path(__file__).parent.parent

# A module may import its own layer and lower ones; a name stands for all modules below it unless a longer one is listed.
LAYERS: dict[str, int] = {
    **dict.fromkeys(
        (
            "errors",
            "error_catalog",
            "files",
            "folder_lock",
            "secrets",
            "telemetry",
            "documents",
            "processes",
            "process_setup",
            "logs",
            "awake_clock",
            "run_layout",
            "plugins",
        ),
        0,
    ),
    **dict.fromkeys(("config", "datasets", "distributed"), 1),
    **dict.fromkeys(("data", "models", "losses", "report"), 2),
    "inference": 3,
    "evaluation": 4,
    **dict.fromkeys(("training", "metrics", "hub"), 5),
    **dict.fromkeys(("sweep", "doctor", "demo", "api", "cli", "__main__"), 6),
}
SIDE_BY_SIDE = {
    ("data", "models"),
    ("models", "data"),
    ("report", "models"),
    ("losses", "data"),
    ("models", "distributed"),
}
SHARED_WITH_SHARDING = (
    "msanet.documents",
    "msanet.errors",
    "msanet.files",
    "msanet.logs",
    "msanet.plugins",
    "msanet.processes",
    "msanet.process_setup",
    "msanet.datasets",
    "msanet.data.label_scheme",
    "msanet.data.manifest",
    "msanet.data.unpacked",
    "msanet.data.image.band_file",
    "msanet.data.image.bands",
    "msanet.data.image.codec",
    "msanet.data.image.damage",
    "msanet.data.image.photo",
    "msanet.data.image.tiles",
    "msanet.report.bands",
    "msanet.report.palette",
)
PRINTS_RESULTS = (
    "msanet.cli",
    "launcher",
    "msanet.errors",
    "msanet.logs",
    "sharding.__main__",
    "msanet.sweep.results",
    "msanet.demo.server",
    "sharding.verify",
    "sharding.inspection",
)
CODES_OF = {
    "msanet.config": {"CONFIG"}, "msanet.datasets": {"PACK", "DATA"}, "msanet.data": {"DATA"},
    "msanet.data.label_scheme": {"PACK"}, "msanet.models": {"MODEL"},
    "msanet.inference": {"INFER"}, "msanet.evaluation": {"EVAL"}, "msanet.training": {"TRAIN", "CKPT"},
    "msanet.distributed": {"DIST"}, "msanet.sweep": {"SWEEP"}, "msanet.demo": {"DEMO"}, "msanet.api": {"API", "CLI"},
    "msanet.hub": {"HUB"}, "msanet.cli": {"CLI", "CONFIG", "SCORE", "HUB"},
    "sharding": {"PACK"}, "sharding.__main__": {"CLI"},
}  # fmt: skip
"""Areas of the codes in a package; elsewhere any of the catalog's."""


@dataclass(frozen=True)
class Module:
    """A file, parsed once."""

    name: str
    path: Path
    text: str
    tree: ast.Module

    def imports(self, top_level_only: bool = False) -> set[str]:
        """Names of the project's modules and members that it imports."""
        nodes = _top_level(self.tree) if top_level_only else ast.walk(self.tree)
        found: set[str] = set()
        for node in nodes:
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        return {name for name in found if name.split(".")[0] in ("msanet", "sharding", "launcher", "jobs")}

    def calls(self, name: str) -> Iterator[ast.Call]:
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name:
                yield node

    def is_in(self, *packages: str) -> bool:
        return any(self.name == package or self.name.startswith(package + ".") for package in packages)


def _top_level(tree: ast.AST) -> Iterator[ast.AST]:
    """Nodes that run at import: all outside of functions and `if TYPE_CHECKING`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from _top_level(node)


@functools.cache
def modules() -> dict[str, Module]:
    found = {}
    for path in sorted(path for folder in ("msanet", "sharding", "launcher") for path in (ROOT / folder).rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        text = path.read_text(encoding="utf-8")
        found[name] = Module(name, path, text, ast.parse(text))
    return found


def layer(name: str) -> str | None:
    """`data` for `msanet.data.loader`; None for what is no layer of the library."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and parts[0] == "msanet" and parts[1] in LAYERS else None


def import_faults(module: Module) -> Iterator[str]:
    own = layer(module.name)
    for name in sorted(module.imports()):
        other = layer(name)
        if module.is_in("sharding"):
            allowed = (
                "sharding",
                *SHARED_WITH_SHARDING,
                *(("msanet.cli",) if module.name == "sharding.__main__" else ()),
            )
            fine = (
                name == "msanet" or name.startswith(allowed) or any(known.startswith(name + ".") for known in allowed)
            )
        elif module.is_in("launcher"):
            fine = name.startswith("msanet")
        elif name.split(".")[0] != "msanet":
            fine = name.startswith("sharding") and own in ("api", "cli", "demo", "doctor")
        else:
            fine = own is None or other is None or (LAYERS[other] <= LAYERS[own] and (own, other) not in SIDE_BY_SIDE)
        if not fine:
            yield f"{module.name} imports {name}"


def test_every_package_has_a_layer() -> None:
    packages = {name.split(".")[1] for name in modules() if name.startswith("msanet.")}
    assert packages <= LAYERS.keys()


def test_imports_go_down() -> None:
    assert not [fault for module in modules().values() for fault in import_faults(module)]


def test_no_import_cycles() -> None:
    known = modules()
    graph = {
        name: {other for other in module.imports(top_level_only=True) if other in known and other != name}
        for name, module in known.items()
    }
    graph = {name: {other for other in others if not name.startswith(other + ".")} for name, others in graph.items()}
    assert not cycles(graph)


def test_cycles_are_found() -> None:
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == [{"b", "c"}]


def cycles(graph: dict[str, set[str]]) -> list[set[str]]:
    """Strongly connected components of more than one node: those that reach each other."""

    def reach(start: str) -> set[str]:
        found, waiting = set(), list(graph[start])
        while waiting:
            if (name := waiting.pop()) not in found:
                found.add(name)
                waiting += graph[name]
        return found

    reached = {name: reach(name) for name in graph}
    components = {frozenset(other for other in reached[name] if name in reached[other]) for name in graph}
    return [set(component) for component in components if component]


def test_models_know_nothing_of_data_or_distribution() -> None:
    faults = []
    for module in modules().values():
        if module.is_in("msanet.models"):
            text = module.text.replace("data, distribution or DeepSpeed", "").lower()
            faults += [f"{module.name}: {word}" for word in ("deepspeed", "torch.distributed") if word in text]
    assert not faults


def test_files_and_functions_stay_short() -> None:
    faults = []
    for module in modules().values():
        limit = 60 if module.is_in("launcher") else 320  # an entry point tells the story, no more
        if (count := len(module.text.splitlines())) > limit:
            faults.append(f"{module.name}: {count} lines, at most {limit}")
        for node in ast.walk(module.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                count = (node.end_lineno or 0) - node.lineno + 1
                if count > 55:
                    faults.append(f"{module.name}.{node.name}: {count} lines, at most 55")
    assert not faults


def test_everything_public_is_documented() -> None:
    faults = []
    for module in modules().values():
        named = [(module.name, module.tree)] + [
            (f"{module.name}.{node.name}", node)
            for node in module.tree.body
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
        ]
        faults += [name for name, node in named if not ast.get_docstring(node)]
    assert not faults


def test_diagnostics_are_logged() -> None:
    """Only the result of a command is printed, on stdout."""
    faults = []
    for module in modules().values():
        for call in module.calls("print"):
            if not module.is_in(*PRINTS_RESULTS):
                faults.append(f"{module.name}:{call.lineno}")
    assert not faults


def error_code_faults() -> tuple[list[str], set[str]]:
    """Faults of UserError calls, and the codes that stand in the library as literals."""
    faults, used = [], set()
    for module in modules().values():
        if not module.is_in("msanet.error_catalog"):
            used |= {
                node.value for node in ast.walk(module.tree) if isinstance(node, ast.Constant) and node.value in CATALOG
            }
        areas = CODES_OF.get(module.name) or next((own for name, own in CODES_OF.items() if module.is_in(name)), None)
        for call in module.calls("UserError"):
            code = call.args[0] if call.args else None
            where = f"{module.name}:{call.lineno}"
            if isinstance(code, ast.Attribute) and code.attr == "code":
                continue  # an error raised again with more in its sentence
            if isinstance(code, ast.Name) and module.name == "msanet.config.loading":
                continue  # of pydantic's errors, which get their codes in `explain`
            if not isinstance(code, ast.Constant) or code.value not in CATALOG:
                faults.append(f"{where} has no code of the catalog")
            elif areas and str(code.value).split("-")[1] not in areas | {"FILE"}:
                faults.append(f"{where} has {code.value}, expected one of {sorted(areas)}")
    return faults, used


def test_errors_have_codes() -> None:
    faults, used = error_code_faults()
    assert not faults
    logged = {
        code for code in CATALOG for module in modules().values() if f"[{code}]" in module.text
    }  # as a failure of a rank
    assert not CATALOG.keys() - used - logged


def test_the_catalog_is_sound() -> None:
    codes = [code for _, entries in AREAS.values() for code in entries]
    assert len(codes) == len(set(codes))
    assert not [code for area, (_, entries) in AREAS.items() for code in entries if not code.startswith(area + "-")]
    assert not [code for code, entry in CATALOG.items() if not (entry.cause.endswith(".") and entry.fix.endswith("."))]


def test_no_file_shadows_a_library() -> None:
    """`deepspeed launcher/train.py` puts launcher/ first on sys.path."""
    taken = set(sys.stdlib_module_names) | {"deepspeed", "torch", "webdataset", "ray", "numpy", "yaml", "tqdm"}
    assert not {path.stem for path in (ROOT / "launcher").glob("*.py")} & taken
