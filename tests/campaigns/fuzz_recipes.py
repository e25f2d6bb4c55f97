"""Fuzzes recipes: whatever stands in one is accepted, or refused in words that have a place, never with another error.

    python tests/campaigns/fuzz_recipes.py [RECIPES] [SEED]

Each recipe begins as a shipped one, resolved or as written, and is changed in one of four ways: values, keys and whole
parts of its tree; bytes and lines of its text; overrides on the command line; what Python people pass. What is accepted
has to resolve to itself, and one in twenty of these is built, too.
"""

from __future__ import annotations

import contextlib
import copy
import io
import random
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mmrobust
from mmrobust.cli import main as command_line
from mmrobust.errors import MmrobustError, RecipeError, printable
from mmrobust.recipe import Recipe, load, shipped
from mmrobust.recipe.document import dump

HUGE = "9" * 400
WORDS = [
    "", "x", "task", "normtr", "null", "true", "~", "...", "no", "1e-3", "0x1f", "0o7", ".nan", ".inf", "1e999",
    HUGE, f"-{HUGE}", "n" * 300, "/" + "p/" * 400, "~data", "~root/x", "a\x1bb", "\u202ex", "a b", "a/b", "../..",
    "/dev/zero", "{", "[", "[1, 2", "{a: 1}", "*a", "&a b", "!!python/object:os.system", "'", '"', "#x", "%x", "@x",
    "a: b", "- a", "mmrobust/cross_attention", "none/none", "linear", "frame_drop", "0.5", "-1", "2", "1.5",
    "[0, 0.1, ..., 1.0]",
]  # fmt: skip
VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2.5, 1e-300, 1e300, float("inf"), float("nan"), 10**30, int(HUGE), [], {}, [[]], [{}],
    [1, 1], [0, 0.5, "..."], [0, 1, "...", 10**6], {"use": None}, {"use": "x"}, {"use": ["task"]}, {"": 1}, {"use": {}},
    {"use": "linear"}, {"use": "task", "weight": -1}, {"noise": "frame_drop", "rate": [1, 0]}, ["task", "task"], "task",
]  # fmt: skip
KEYS = [
    "x", "use", "weight", "reads", "noise", "rate", "extends", "plugins", "needs", "variants", "paper", "~x", "~train",
    "recipe", "name", "summary", "model.width", "", "train", "1", "\xe9", "\x1b", "k" * 300, "views", "objectives",
]  # fmt: skip
MANY = (1, 1, 1, 2, 4)  # how many changes a recipe gets


def places(tree: Any) -> list[tuple[Any, Any]]:
    """Every `(mapping or list, key or index)` of a tree."""
    found = []
    keys = list(tree) if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else []
    for key in keys:
        found.append((tree, key))
        found += places(tree[key])
    return found


def changed_tree(rng: random.Random, tree: dict[str, Any]) -> dict[str, Any]:
    """A tree with one to four of its values or keys changed."""
    tree = copy.deepcopy(tree)
    for _ in range(rng.choice(MANY)):
        spots = places(tree)
        if not spots:
            break
        here, key = rng.choice(spots)
        match rng.randrange(6):
            case 0:
                del here[key]
            case 1 if isinstance(here, dict):
                here[rng.choice(KEYS)] = here.pop(key)
            case 2 if isinstance(here, dict):
                here[rng.choice(KEYS)] = copy.deepcopy(rng.choice(VALUES))
            case 3:
                other, name = rng.choice(spots)
                with contextlib.suppress(KeyError, IndexError):
                    here[key] = copy.deepcopy(other[name])
            case 4:
                here[key] = rng.choice(WORDS)
            case _:
                here[key] = copy.deepcopy(rng.choice(VALUES))
    return tree


def changed_text(rng: random.Random, text: str) -> bytes:
    """A text with some of its bytes, words or lines changed."""
    data = bytearray(text.encode())
    for _ in range(rng.choice(MANY)):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(5):
            case 0:
                data[at : at + rng.randint(0, 9)] = b""
            case 1:
                data[at:at] = bytes([rng.randrange(256)])
            case 2:
                data[at:at] = rng.choice(WORDS).encode()
            case 3:
                data[at:at] = data[at - rng.randint(0, 200) : at]
            case _:
                lines = bytes(data).split(b"\n")
                rng.shuffle(lines) if rng.random() < 0.1 else lines.insert(rng.randrange(len(lines)), rng.choice(lines))
                data = bytearray(b"\n".join(lines))
    return bytes(data)


def changes(rng: random.Random, tree: dict[str, Any]) -> list[str]:
    """Overrides as somebody may type them."""
    spots = [".".join(map(str, path)) for path in paths(tree)]
    pieces = [*KEYS, "objectives.0", "..", "task"]
    path = lambda: rng.choice(spots) if rng.random() < 0.7 else f"{rng.choice(spots)}.{rng.choice(pieces)}"
    form = lambda: rng.choice(["{}={}", "{}={}", "{}={}", "~{}", "{}", "={}{}", "{} = {}"])
    return [form().format(path(), rng.choice(WORDS)) for _ in range(rng.choice(MANY))]


def paths(tree: Any, before: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value of a tree."""
    keys = list(tree) if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else []
    return [path for key in keys for path in [(*before, key), *paths(tree[key], (*before, key))]]


class Campaign:
    """Tries recipes, and counts what becomes of them.

    Args:
        seed: Of every choice.
    """

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.names = [name for name in shipped() if "peers" not in name]
        self.loaded: dict[str, Recipe] = {}
        for name in self.names:
            with contextlib.suppress(RecipeError):  # some need a plugin that is not here
                self.loaded[name] = load(name)

    def one(self, number: int) -> None:
        """One recipe."""
        name = self.rng.choice(list(self.loaded))
        recipe = self.loaded[name]
        tree = recipe.resolved if self.rng.random() < 0.5 else node_plain(recipe)
        match number % 4:
            case 0:
                self.file(dump(changed_tree(self.rng, tree)).encode("utf-8", "replace"))
            case 1:
                self.file(changed_text(self.rng, recipe.source))
            case 2:
                overrides = changes(self.rng, tree)
                self.attempt(lambda: load(name, overrides), f"{name} {overrides}")
            case _:
                given = changed_tree(self.rng, tree)
                pairs = {".".join(map(str, p)): self.rng.choice(VALUES) for p in self.rng.sample(paths(tree), 2)}
                overrides = [pairs] if self.rng.random() < 0.5 else []
                self.attempt(lambda: load(given, overrides), f"{given} {overrides}")

    def file(self, data: bytes) -> None:
        """A recipe file, read in Python and, one in ten, by the command line."""
        Path("fuzzed.yaml").write_bytes(data)
        self.attempt(lambda: load("fuzzed.yaml"), repr(data))
        if self.rng.random() < 0.1:
            self.counts["command lines"] += 1
            with (
                contextlib.redirect_stderr(io.StringIO()) as error,
                contextlib.redirect_stdout(io.StringIO()) as output,
            ):
                code = command_line(["recipes", "validate", "fuzzed.yaml"])
            said = error.getvalue() + output.getvalue()
            if code not in (0, 2) or "internal error" in said or printable(said, keep="\n") != said:
                self.wrong.append(f"command line: exit {code}: {said[:200]!r} for {data!r}")

    def attempt(self, read: Callable[[], Recipe], what: str) -> None:
        """Reads one recipe; it is accepted, or refused with a place."""
        try:
            recipe = read()
        except RecipeError as error:
            self.counts["refused"] += 1
            if not all(problem.where or "recipe" in problem.message for problem in error.problems):
                self.wrong.append(f"no place: {error} for {what}")
        except Exception as error:
            self.counts["internal errors"] += 1
            at = traceback.extract_tb(error.__traceback__)[-1]
            self.wrong.append(
                f"{type(error).__name__}: {str(error)[:99]} ({at.name}, line {at.lineno}) for {what[:2000]}"
            )
        else:
            self.counts["accepted"] += 1
            self.again(recipe, what)

    def again(self, recipe: Recipe, what: str) -> None:
        """What is accepted resolves to itself; some are built."""
        Path("resolved.yaml").write_text(recipe.to_yaml())
        try:
            if load("resolved.yaml").resolved != recipe.resolved:
                self.wrong.append(f"resolves to something else: {what[:2000]}")
        except Exception as error:
            self.wrong.append(f"what it resolves to cannot be read: {type(error).__name__}: {error} for {what[:2000]}")
        if self.counts["accepted"] % 20 == 0:
            self.counts["built"] += 1
            try:
                mmrobust.build(recipe, {"data.train": 8, "data.valid": 4, "data.test": 4, "data.length": 4})
            except MmrobustError:
                pass
            except Exception as error:
                self.wrong.append(f"build: {type(error).__name__}: {str(error)[:200]} for {what[:2000]}")


def node_plain(recipe: Recipe) -> dict[str, Any]:
    """A recipe with what it extends, defaults not filled in."""
    return {} if recipe.tree is None else recipe.tree.plain


def main(recipes: int = 20_000, seed: int = 0) -> int:
    """Prints what was counted; 1 where anything went wrong."""
    campaign = Campaign(seed)
    with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):
        for number in range(recipes):
            campaign.one(number)
            if number % 1000 == 999:
                print(f"{number + 1}: {dict(campaign.counts)}, {len(campaign.wrong)} complaints", file=sys.stderr)
    counts = ", ".join(f"{count} {what}" for what, count in sorted(campaign.counts.items()))
    print(
        f"{recipes} fuzzed recipes (seed {seed}): {counts}; {len(campaign.wrong)} complaints",
        *campaign.wrong[:20],
        sep="\n",
    )
    return bool(campaign.wrong)


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
