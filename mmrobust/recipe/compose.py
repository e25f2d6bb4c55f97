"""One tree from several: `extends`, overrides and variants."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from mmrobust.errors import Position, Problem, RecipeError, UsageError, nearest
from mmrobust.recipe.document import DEPTH, LIMIT, Node, node_of, parse, scalar
from mmrobust.registry.spec import Part

VERSION = 1
COMMAND_LINE = Position("command line")
#: An override: `a.b.c=value` or `~a.b.c` as text, or a dotted key and its value, None to delete.
Change = str | tuple[str, Node | None]
#: What people pass: one override, a dict of dotted keys to values, or several of these.
Overrides = str | Mapping[str, Any] | Iterable[str | Mapping[str, Any] | Change]
#: Keys that a recipe does not take over from the one it extends.
_OWN = ("recipe", "name", "summary", "extends")


@lru_cache(maxsize=1)
def shipped_folder() -> Path:
    """Where the shipped recipes are: inside the wheel, or at the top of a checkout."""
    package = Path(__file__).parent.parent
    inside = package / "_recipes"
    return inside if inside.is_dir() else package.parent / "recipes"


def shipped() -> dict[str, Path]:
    """The shipped recipes by bare name, e.g. `normtr` or `peers/tfn`."""
    folder = str(shipped_folder())
    files = [os.path.join(at, name) for at, _, names in os.walk(folder) for name in names if name.endswith(".yaml")]
    return {file[len(folder) + 1 : -5].replace(os.sep, "/"): Path(file) for file in sorted(files)}


def find(ref: str | os.PathLike[str], folder: Path | None = None) -> Path:
    """The file that a reference means.

    Args:
        ref: A path (as typed, or relative to `folder`), or the bare name of a shipped recipe.
        folder: The folder of the recipe that says `extends`.

    Raises:
        RecipeError: There is no such file or shipped recipe.
    """
    text = os.fspath(ref)
    path = at_home(text)
    path = path if folder is None else folder / path
    named_file = isinstance(ref, os.PathLike) or text.endswith((".yaml", ".yml"))
    try:
        if named_file or (folder is None and path.is_file()):
            return _file(path)
    except (OSError, ValueError) as error:  # a name that is too long, a null byte, a folder that may not be read
        if named_file:
            reason = error.strerror if isinstance(error, OSError) else error
            raise RecipeError(f"the recipe file '{path}' cannot be read: {reason}") from None
    known = shipped()
    if text in known:
        return _shown(known[text])
    raise RecipeError(f"there is no shipped recipe '{text}'{nearest(text, known)}; a file's name ends in .yaml")


def _file(path: Path) -> Path:
    """The path, where it is a file's; the nearest name in its folder otherwise."""
    if path.is_file():
        return path
    if path.is_dir():
        raise RecipeError(f"'{path}' is a folder, not a recipe")
    if path.exists():
        raise RecipeError(f"'{path}' is no regular file")
    around = {f.stem: f.name for f in path.parent.glob("*.y*ml")} if path.parent.is_dir() else {}
    close = difflib.get_close_matches(path.stem, around, n=1)
    hint = f"; did you mean '{around[close[0]]}'?" if close else ""
    raise RecipeError(f"there is no recipe file '{path}'{hint}")


def at_home(text: str) -> Path:
    """A path whose `~` is the user's home folder; as it stands where there is no such user."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        return Path(text)


def _shown(path: Path) -> Path:
    """A shipped file as a short path, where it lies below the current folder."""
    try:
        return path.relative_to(Path.cwd())
    except (ValueError, OSError):
        return path


def read(path: Path) -> tuple[str, Node]:
    """Text and tree of a file.

    Raises:
        RecipeError: It cannot be read, or is no recipe.
    """
    at = Position(str(path))
    try:
        if path.stat().st_size > LIMIT:
            raise RecipeError(Problem(f"the file is larger than {LIMIT // 1_000_000} MB", at))
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        column = error.start - (error.object.rfind(b"\n", 0, error.start) + 1) + 1
        raise RecipeError(Problem("the file is not UTF-8 text", Position(str(path), line, column))) from None
    except OSError as error:
        raise RecipeError(Problem(f"the file cannot be read: {error.strerror}", at)) from None
    return text, rooted(parse(text, str(path)))


def rooted(root: Node) -> Node:
    """The tree, which has to be a mapping and of this version.

    Raises:
        RecipeError: It is not.
    """
    if not isinstance(root.value, dict):
        raise RecipeError(Problem(f"a recipe is a mapping of sections, not {root}", root.where))
    check_version(root)
    return root


def check_version(root: Node) -> None:
    """Refuses a recipe of another version.

    Raises:
        RecipeError: `recipe:` is missing or not `1`.
    """
    version = root.get("recipe")
    if version is None:
        raise RecipeError(Problem(f"this says no version; write 'recipe: {VERSION}' at the top", root.where))
    if version.value != VERSION or isinstance(version.value, bool):
        later = " (a later mmrobust may)" if isinstance(version.value, int) and version.value > VERSION else ""
        message = f"this mmrobust reads recipes of version {VERSION}, not {version}{later}"
        raise RecipeError(Problem(message, version.where))


def layers(path: Path | None, root: Node, chain: tuple[Path, ...] = ()) -> list[Node]:
    """The parts of a recipe: the trees of what it extends, the farthest first, and its own last.

    Raises:
        RecipeError: A parent cannot be read, or the recipes extend each other in a circle.
    """
    parent = root.get("extends")
    if parent is None:
        return [root]
    above = _above(parent)
    chain = (*chain, path) if path is not None else chain
    seen = [p.resolve() for p in chain]
    if above.resolve() in seen:
        circle = " extends ".join(map(str, [*chain[seen.index(above.resolve()) :], above]))
        raise RecipeError(Problem(f"this is a circle: {circle}", parent.where))
    return [*layers(above, read(above)[1], chain), root]


def _above(parent: Node) -> Path:
    """The file that `extends` means: from the recipe's folder, or from the current one on the command line."""
    folder = Path(parent.where.file).parent if parent.where.line else None
    if not isinstance(parent.value, str):
        message = f"extends names one recipe, a path or the bare name of a shipped one, not {parent}"
        raise RecipeError(Problem(message, parent.where))
    try:
        return Path(os.path.normpath(find(parent.value, folder)))
    except RecipeError as error:
        raise RecipeError(Problem(str(error.problems[0].message), parent.where)) from None


def merged(trees: Sequence[Node]) -> Node:
    """The tree of several, each over those before it; name and summary are the last one's.

    Raises:
        RecipeError: A key to delete is not there.
    """
    tree = trees[0]
    for over in trees[1:]:
        tree = merge(tree.replaced({key: node for key, node in tree.value.items() if key not in _OWN}), over)
    return tree


def extended(path: Path, root: Node) -> Node:
    """The tree with everything it extends.

    Raises:
        RecipeError: See `layers` and `merged`.
    """
    return merged(layers(path, root))


def merge(base: Node, over: Node) -> Node:
    """What `over` makes of `base`: mappings merge deeply, all else replaces.

    A component's bare name is the same as `{use: name}`; another `use` drops the options of the one before. A key
    `~name` deletes.

    Raises:
        RecipeError: A key to delete is not there.
    """
    if isinstance(over.value, str) and named(base) == over.value:
        return base
    if not isinstance(over.value, dict):
        return over
    base = _spelled_out(base) if "use" not in over.value else base
    if not isinstance(base.value, dict):
        return over
    if named(over) is not None and named(base) not in (None, named(over)):
        return over
    if isinstance(base.value, dict) and named(over) is not None and named(base) is None:
        return over if not base.value else over.replaced({**base.value, **over.value})
    merged = dict(base.value)
    for key, node in over.value.items():
        if key.startswith("~"):
            if key[1:] not in merged:
                raise RecipeError(Problem(f"there is no '{key[1:]}' to delete{nearest(key[1:], merged)}", node.key))
            del merged[key[1:]]
        else:
            merged[key] = merge(merged[key], node) if key in merged else node
    return Node(merged, over.where, over.key)


def named(node: Node) -> str | None:
    """The component that a node names, if it is a mapping with `use`."""
    use = node.get("use")
    return use.value if use is not None else node.value if isinstance(node.value, str) else None


def _spelled_out(node: Node) -> Node:
    """A bare name as `{use: name}`."""
    return node.replaced({"use": node}) if isinstance(node.value, str) else node


def changes(overrides: Overrides) -> list[Change]:
    """What people pass as overrides, as a list.

    Args:
        overrides: `"a.b.c=value"` or `"~a.b.c"`, a dict `{"a.b.c": value, "~a.d": None}`, or a list of such.

    Raises:
        UsageError: It is something else.
    """
    if isinstance(overrides, str):
        return [overrides]
    if isinstance(overrides, Mapping):
        return [_changed(key, value) for key, value in overrides.items()]
    if not isinstance(overrides, Iterable):
        raise UsageError(f"overrides are texts like 'a.b.c=value' or a dict, not {type(overrides).__name__}")
    listed: list[Change] = []
    for item in overrides:
        if isinstance(item, tuple):
            listed.append(item)
        elif isinstance(item, str | Mapping):
            listed += changes(item)
        else:
            raise UsageError(f"an override is a text like 'a.b.c=value' or a dict, not {item!r}")
    return listed


def _changed(key: Any, value: Any) -> Change:
    if not isinstance(key, str):
        raise UsageError(f"the key of an override is text like 'a.b.c', not {key!r}")
    if key.startswith("~"):
        return key[1:], None
    return key, node_of(plain(value), Position("overrides"))


def plain(value: Any, depth: int = 0) -> Any:
    """What Python people pass as a value, as a recipe has it: text, numbers, lists and mappings.

    Args:
        value: Also a path, a tuple, a range, an array or a number of NumPy, a `Part`.
        depth: How many lists and mappings it stands in.

    Raises:
        UsageError: It is something else, or nested too deeply.
    """
    if depth > DEPTH:
        raise UsageError(f"a recipe is nested at most {DEPTH} levels deep")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Part):
        return plain({"use": value.use, **value.options}, depth)
    if isinstance(value, Mapping):
        return {str(key): plain(inner, depth + 1) for key, inner in value.items()}
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):  # an array or a number of NumPy, a tensor
        return plain(value.tolist(), depth + 1)
    if isinstance(value, Iterable) and not isinstance(value, bytes):
        return [plain(inner, depth + 1) for inner in value]
    raise UsageError(f"a recipe holds text, numbers, lists and mappings, not {type(value).__name__} ({value!r})")


def override(root: Node, what: Change, at: Position = COMMAND_LINE) -> Node:
    """The tree after `a.b.c=value` or `~a.b.c`.

    A piece of the path may be a place in a list (`objectives.1`), or the name of a component that stands there
    (`objectives.modality_adversary.weight=0.5`).

    Raises:
        RecipeError: The text is no override, or its path leads nowhere.
    """
    if not isinstance(what, str):
        key, node = what
        return change(root, key, node, at if node is None else node.where)
    path, equals, value = what.partition("=")
    if what.startswith("~") and not equals:
        return change(root, what[1:].strip(), None, at)
    if not equals or what.startswith("~") or not path.strip():
        raise RecipeError(Problem(f"an override looks like a.b.c=value, or ~a.b.c to delete, not '{what}'", at))
    return change(root, path.strip(), _typed(path.strip(), value.strip(), at), at)


_CLOSING = {"[": "]", "{": "}", '"': '"', "'": "'"}


def _typed(path: str, text: str, at: Position) -> Node:
    """The value of an override: YAML where it is a list, a mapping or quoted; else one word, whatever stands in it."""
    closing = _CLOSING.get(text[:1])
    if closing is not None or "\n" in text:
        try:
            return parse(text, COMMAND_LINE.file).moved(at)
        except RecipeError as error:
            if closing is None or closing not in text[1:]:  # `[a].npz` is a name, `[1, 2` is half a list
                quoted = '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
                reason = f"the value of '{path}': {error.problems[0].message}; if it is text, write {path}={quoted}"
                raise RecipeError(Problem(reason, at)) from None
    return Node(scalar(text), at, at, text)


def change(root: Node, path: str, value: Node | None, at: Position) -> Node:
    """The tree with the value at a dotted path merged in, or deleted where it is None.

    Raises:
        RecipeError: The path leads nowhere.
    """
    keys = path.split(".")
    if not all(keys):
        raise RecipeError(Problem(f"'{path}' is no path of keys with dots between them", at))

    def walk(node: Node, depth: int) -> Node:
        key, last = keys[depth], depth == len(keys) - 1
        so_far = ".".join(keys[:depth])
        node = _spelled_out(node)
        if isinstance(node.value, list):
            place = _place(node.value, key)
            if place is None:
                names = [use for item in node.value if (use := named(item))]
                raise RecipeError(Problem(f"'{so_far}' is a list without '{key}'{nearest(key, names)}", at))
            items = list(node.value)
            if last and value is None:
                del items[place]
            else:
                items[place] = (
                    merge(items[place], value) if last and value is not None else walk(items[place], depth + 1)
                )
            return node.replaced(items)
        if not isinstance(node.value, dict):
            raise RecipeError(Problem(f"'{path}' leads nowhere: '{so_far}' is {node}", at))
        inner = dict(node.value)
        if value is None and key not in inner:
            whole = f"{so_far}.{key}" if so_far else key
            raise RecipeError(Problem(f"there is no '{whole}' to delete{nearest(key, inner)}", at))
        if last and value is None:
            del inner[key]
        elif last and value is not None:
            inner[key] = merge(inner[key], value) if key in inner else value
        else:
            inner[key] = walk(inner.get(key, Node({}, at, at)), depth + 1)
        if key == "use" and last and named(node) not in (None, inner.get(key) and inner[key].value):
            inner = {"use": inner["use"]} if "use" in inner else inner
        return node.replaced(inner)

    return walk(root, 0)


def _place(items: Sequence[Node], key: str) -> int | None:
    if key.isdigit() and int(key) < len(items):
        return int(key)
    places = [i for i, item in enumerate(items) if named(item) == key]
    return places[0] if len(places) == 1 else None


def reparented(root: Node, overrides: Sequence[Change]) -> tuple[Node, list[Change]]:
    """A recipe that extends what the command line says, `extends=other`, and the overrides that are left."""
    rest = []
    for what in overrides:
        if (what.partition("=")[0].strip() if isinstance(what, str) else what[0]) == "extends":
            root = override(root, what)
        else:
            rest.append(what)
    return root, rest


def overridden(root: Node, overrides: Sequence[Change]) -> tuple[Node, list[Problem]]:
    """The tree after the overrides of the command line, and what is wrong with some of them."""
    problems: list[Problem] = []
    for what in overrides:
        try:
            root = override(root, what)
        except RecipeError as error:
            problems += error.problems
    return root, problems


def foundation(variant: Node, trees: Sequence[Node], overrides: Sequence[Change]) -> Node:
    """What a variant that says `extends` changes: that recipe, under the study's own files and the command line.

    The study's own files are those from the one that was given up to the last that says `variants`; what the study
    itself extends above them is not meant, for the variant extends something else.

    Args:
        variant: A mapping with `extends`.
        trees: The study's `layers`.
        overrides: Those of the command line.

    Raises:
        RecipeError: There is no such recipe, or it cannot be merged.
    """
    parent = variant["extends"]
    above = _above(parent)
    base = [tree.replaced(_without(tree, "variants", "paper")) for tree in layers(above, read(above)[1])]
    tree, problems = overridden(merged([*base, *own_layers(trees)]), overrides)
    if problems:
        raise RecipeError([Problem(f"in {parent}: {problem.message}", problem.where) for problem in problems])
    return tree


def own_layers(trees: Sequence[Node]) -> Sequence[Node]:
    """Of a study's `layers` those from the one that was given up to the last that says `variants`."""
    first = next((i for i, tree in enumerate(trees) if "variants" in tree.value), len(trees) - 1)
    return trees[first:]


def _without(node: Node, *keys: str) -> dict[str, Node]:
    return {key: inner for key, inner in node.value.items() if key not in keys}


def varied(root: Node, variant: Node) -> Node:
    """The tree of a variant: a list of overrides, or a mapping whose keys may be dotted or begin with `~`.

    Raises:
        RecipeError: An override is wrong.
    """
    root = root.replaced(_without(root, "variants", "paper"))
    if isinstance(variant.value, list):
        for item in variant.value:
            if not isinstance(item.value, str):
                raise RecipeError(
                    Problem(f"an override looks like a.b.c=value, or ~a.b.c to delete, not {item}", item.where)
                )
            root = override(root, item.value, item.where)
        return root
    for key, node in (variant.value or {}).items():
        if key.startswith("~"):
            root = change(root, key[1:], None, node.key)
        elif key not in ("extends", "label"):
            root = change(root, key, node, node.key)
    return root
