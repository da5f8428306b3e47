"""Naming rules: verbs for functions, MAX_ and MIN_ for bounds, one meaning for each class name.

``python tests/house/test_names.py [FOLDER] [--names]`` prints how many names break a rule, and which.
"""

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("app", "model", "training")
CODE = (*PACKAGES, "bench", "clients", "tests")
BOUNDS = ("MOST_", "LEAST_", "FEWEST_", "LONGEST_", "LARGEST_", "SMALLEST_")
IRREGULAR = frozenset(
    """
    begun bent bound brought broken built burnt caught chosen cleft done drawn driven dug fed felt forgotten found
    frozen gone got grown heard held hidden hung kept known laid led left lent lit lost made meant met overlaid paid
    proven rebuilt risen said seen sent shaken shorn shown slept spent spoken spun stood struck stuck sunk swept taken
    taught thought thrown told torn undone unseen withheld woken won worn woven written
    """.split()  # noqa: SIM905  # a list of 70 words would take 70 lines
)
# Words that end as participles do and are none.
OTHERS = frozenset({"embed", "feed", "need", "seed", "shed", "speed"})
# What these decorate has a value for a name, not an action.
VALUES = frozenset({"property", "cached_property", "fixture"})


def is_participle(name: str) -> bool:
    """Whether a name is one word, and that a past participle."""
    return "_" not in name and (name in IRREGULAR or (name.endswith("ed") and name not in OTHERS))


def parse_all(root: Path, folders: tuple[str, ...]) -> Iterator[tuple[str, ast.Module]]:
    """Yield every module with its path, hidden folders left out."""
    for folder in folders:
        for path in sorted((root / folder).rglob("*.py")):
            place = path.relative_to(root)
            if not any(part.startswith(".") for part in place.parts):
                yield place.as_posix(), ast.parse(path.read_text())


def list_functions(root: Path) -> Iterator[tuple[str, str]]:
    """Yield path and name of every public function and method, nested ones too."""
    for path, tree in parse_all(root, CODE):
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
                marks = {ast.unparse(mark).partition("(")[0].rpartition(".")[2] for mark in node.decorator_list}
                if not marks & VALUES:
                    yield path, node.name


def find_participles(root: Path) -> list[str]:
    return [f"{path}: {name}" for path, name in list_functions(root) if is_participle(name)]


def find_genitives(root: Path) -> list[str]:
    return [f"{path}: {name}" for path, name in list_functions(root) if name.endswith("_of")]


def find_bounds(root: Path) -> list[str]:
    return [
        f"{path}: {node.id}"
        for path, tree in parse_all(root, CODE)
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id.startswith(BOUNDS)
    ]


def find_doubled_classes(root: Path) -> list[str]:
    """Return the class names that two definitions in the product's packages share."""
    places = defaultdict(list)
    for path, tree in parse_all(root, PACKAGES):
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(path)
    return [f"{name}: {', '.join(paths)}" for name, paths in sorted(places.items()) if len(paths) > 1]


def test_no_function_is_named_by_a_bare_participle():
    assert find_participles(ROOT) == []


def test_no_function_name_ends_in_a_genitive():
    assert find_genitives(ROOT) == []


def test_bounds_are_called_max_and_min():
    assert find_bounds(ROOT) == []


def test_no_two_classes_have_one_name():
    assert find_doubled_classes(ROOT) == []


def test_the_counter_finds_what_it_looks_for(tmp_path):
    (tmp_path / "app").mkdir()
    (tmp_path / "model").mkdir()
    (tmp_path / "app/names.py").write_text(
        "MOST_PARTS = 1\nclass Twin:\n    @property\n    def kept(self): ...\n    def told(self): ...\n"
        "def size_of(): ...\ndef seed(): ...\ndef _made(): ...\n"
    )
    (tmp_path / "model/names.py").write_text("class Twin: ...\n")
    assert find_participles(tmp_path) == ["app/names.py: told"]
    assert find_genitives(tmp_path) == ["app/names.py: size_of"]
    assert find_bounds(tmp_path) == ["app/names.py: MOST_PARTS"]
    assert find_doubled_classes(tmp_path) == ["Twin: app/names.py, model/names.py"]


if __name__ == "__main__":
    folder = Path(next((one for one in sys.argv[1:] if not one.startswith("--")), ROOT))
    rules = {
        "functions named by a bare participle": find_participles,
        "function names that end in _of": find_genitives,
        "bounds that are not MAX_ or MIN_": find_bounds,
        "class names with two definitions": find_doubled_classes,
    }
    for rule, find in rules.items():
        found = find(folder)
        sys.stdout.write(f"{len(found):5} {rule}\n")
        if "--names" in sys.argv:
            sys.stdout.writelines(f"        {one}\n" for one in found)
