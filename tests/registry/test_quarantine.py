"""A broken plugin costs nobody else anything: it is named once with its cause, and everything else goes on.

Each distribution is laid out in a site folder as an installer would leave it (package, dist-info with METADATA,
entry_points.txt, RECORD), and the real command line is run against all of them at once.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

HEAD = "from mmrobust import hookimpl\nMMROBUST_API = 1\n"


def hook(*adds: str) -> str:
    return HEAD + "@hookimpl\ndef mmrobust_register(registry):\n" + "".join(f"    {add}\n" for add in adds)


FUSION = """
from mmrobust.contracts import Context, Fusion, Shape, Stream


class Mine(Fusion):
    def __init__(self, context: Context, *, gain: float = 1.0) -> None:
        super().__init__(context)


class Greedy(Fusion):
    def __init__(self, context: Context, **kwargs) -> None:
        super().__init__(context)


class Loose(Fusion):
    def __init__(self, context: Context, gain: float = 1.0) -> None:
        super().__init__(context)
"""


def add(name: str, target: str, kind: str = "fusion") -> str:
    return f'registry.add("{kind}", "{name}", "{target}", summary="a test")'


@dataclass
class Made:
    """A distribution, and what has to be said of it."""

    name: str
    plugin: str
    cause: str = ""
    entry: str = ""
    files: dict[str, str] = field(default_factory=dict)
    state: str = "quarantined"
    metadata: bool = True
    editable: str = ""
    package: bool = True


BROKEN = [
    Made("bad-raises", HEAD + "raise RuntimeError('no licence')", "RuntimeError: no licence (plugin.py, line 3)"),
    Made("bad-syntax", "def mmrobust_register(registry:\n", "SyntaxError: '(' was never closed (plugin.py, line 1)"),
    Made("bad-exits", HEAD + "import sys\nsys.exit(3)", "it calls sys.exit(3) (plugin.py, line 4)"),
    Made("bad-base", HEAD + "class Odd(BaseException): pass\nraise Odd('x')", "Odd: x"),
    Made(
        "bad-speechless",
        HEAD + "class Odd(Exception):\n    def __str__(self): raise ValueError\nraise Odd",
        "Odd (plugin.py, line 5)",
    ),
    Made(
        "bad-signature",
        HEAD + "@hookimpl\ndef mmrobust_register(registry, extra): ...",
        "its hook has a wrong signature; write 'def mmrobust_register(registry)'",
    ),
    Made(
        "bad-misspelt",
        HEAD + "@hookimpl\ndef mmrobust_registr(registry): ...",
        "there is no hook 'mmrobust_registr'; the one hook is 'mmrobust_register'",
    ),
    Made("bad-unmarked", "MMROBUST_API = 1\ndef mmrobust_register(registry): ...", "is not marked"),
    Made("bad-empty", hook("pass"), "its hook registers nothing"),
    Made(
        "bad-future",
        hook(add("future", "bad_future.fusion:Mine")).replace("API = 1", "API = 2"),
        "it was written for version 2 of the plugin interface, but mmrobust 0.1.0 has version 1; update mmrobust",
    ),
    Made("bad-silent", hook(add("silent", "x:Y")).replace("MMROBUST_API = 1", ""), "write 'MMROBUST_API = 1'"),
    Made("bad-needy", HEAD + "import surely_not_installed", "it needs the module 'surely_not_installed', which is not"),
    Made("bad-spaces", hook(add("my fusion", "x:Y")), "'my fusion' cannot be the name of a fusion"),
    Made(
        "bad-kind",
        hook(add("x", "x:Y", kind="fusoin")),
        "there is no kind of component 'fusoin'; did you mean 'fusion'?",
    ),
    Made("bad-target", hook('registry.add("fusion", "x", object)'), "has to be text like 'package.module:Class'"),
    Made("bad-half", hook(add("half", "bad_half.fusion:Mine"), "1 / 0"), "ZeroDivisionError: division by zero"),
    Made("bad-twice", hook(add("two", "x:Y"), add("two", "x:Z")), "fusion 'two' is offered twice by the same plugin"),
    Made("bad-orphan", "", "nothing of that name is installed; install it again", package=False),
    Made(
        "bad-stale",
        "",
        "it is an editable installation of /gone/from/here, which is gone",
        package=False,
        editable="/gone/from/here",
    ),
    Made("bad-entry", "", "has to look like 'name = package.module'", entry="no equals sign here"),
    Made("bad-value", "", "has to look like 'name = package.module'", entry="x = not a module!"),
    Made("bad-submodule", "", "there is no 'bad_submodule.gone'", entry="x = bad_submodule.gone"),
    Made("bad-attribute", "X = 1\nMMROBUST_API = 1", "AttributeError", entry="x = bad_attribute.plugin:nothing"),
    Made("bad-metadata", HEAD + "raise OSError('x')", "OSError: x", metadata=False),
]

HANGING = [
    Made(
        "bad-sleeps",
        HEAD + "import time\ntime.sleep(60)",
        "it did not finish registering within 0.5 s (plugin.py, line 4)",
    ),
    Made(
        "bad-stubborn",
        HEAD + "import time\ntry:\n    time.sleep(60)\nexcept:\n    time.sleep(60)",
        "it did not finish registering within 0.5 s",
    ),
    Made("bad-spins", HEAD + "while True: pass", "it did not finish registering within 0.5 s"),
]

COMPONENTS = [  # the plugin works, its component does not
    Made("odd-module", hook(add("odd_module", "odd_module.gone:Mine")), "there is no module 'odd_module.gone'"),
    Made("odd-class", hook(add("odd_class", "odd_class.fusion:Mime")), "has no class 'Mime'; did you mean 'Mine'?"),
    Made("odd-kind", hook(add("odd_kind", "odd_kind.fusion:Mine", "head")), "is a Fusion, but a head has to be a"),
    Made(
        "odd-kwargs",
        hook(add("odd_kwargs", "odd_kwargs.fusion:Greedy")),
        "takes **kwargs; every option has to be named",
    ),
    Made("odd-position", hook(add("odd_position", "odd_position.fusion:Loose")), "takes 'gain' by position"),
]

GOOD = [
    Made("good-one", hook(add("good", "good_one.fusion:Mine")), state="ok"),
    Made("good-two", hook(add("fine", "good_two.fusion:Mine")), state="ok", entry="good-one = good_two.plugin"),
    Made(
        "good-spaced", hook(add("spaced", "good_spaced.fusion:Mine")), state="ok", entry="a name = good_spaced.plugin"
    ),
    Made("good-loud", "print('hello on stdout')\n" + hook(add("loud", "good_loud.fusion:Mine")), state="ok"),
    Made("twin-a", hook(add("twin", "twin_a.fusion:Mine")), state="ok"),
    Made("twin-b", hook(add("twin", "twin_b.fusion:Mine")), state="ok"),
]


def install(site: Path, made: Made) -> None:
    """Leaves a distribution in a site folder as an installer would."""
    package = made.name.replace("-", "_")
    written = []
    if made.package:
        files = {"__init__.py": "", "plugin.py": made.plugin, "fusion.py": FUSION, **made.files}
        for name, text in files.items():
            path = site / package / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            written.append(f"{package}/{name},,")
    info = site / f"{package}-1.2.dist-info"
    info.mkdir(parents=True)
    if made.metadata:
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {made.name}\nVersion: 1.2\n")
    entry = made.entry or f"{package} = {package}.plugin"
    (info / "entry_points.txt").write_text(f"[console_scripts]\nx = y:z\n\n[mmrobust]\n{entry}\n")
    (info / "INSTALLER").write_text("test\n")
    if made.editable:
        url = {"url": f"file://{made.editable}", "dir_info": {"editable": True}}
        (info / "direct_url.json").write_text(json.dumps(url))
    (info / "RECORD").write_text("\n".join([*written, f"{info.name}/entry_points.txt,,", f"{info.name}/RECORD,,"]))


def mmrobust(site: Path, *args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The real command line with a site folder's plugins installed."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("MMROBUST_")}
    return subprocess.run(
        [sys.executable, "-m", "mmrobust", *args],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
        env={**clean, "PYTHONPATH": f"{ROOT}{os.pathsep}{site}", **environment},
    )


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    for made in (*BROKEN, *COMPONENTS, *GOOD):
        install(folder, made)
    return folder


@pytest.fixture(scope="session")
def listed(site: Path) -> subprocess.CompletedProcess[str]:
    return mmrobust(site, "plugins", "list", "--json")


@pytest.fixture(scope="session")
def hung(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    folder = tmp_path_factory.mktemp("hanging")
    for made in HANGING:
        install(folder, made)
    return mmrobust(folder, "plugins", "list", "--json", MMROBUST_PLUGIN_SECONDS="0.5")


def of(result: subprocess.CompletedProcess[str], made: Made) -> dict:
    name = made.name if made.metadata else made.name.replace("-", "_")
    found = [p for p in json.loads(result.stdout)["plugins"] if p["distribution"] == name]
    assert len(found) == 1, (made.name, result.stderr)
    return found[0]


def test_there_are_enough_of_them() -> None:
    assert len(BROKEN) + len(COMPONENTS) >= 15


@pytest.mark.parametrize("made", BROKEN, ids=lambda made: made.name)
def test_broken_plugin_is_quarantined_with_its_cause(made: Made, listed: subprocess.CompletedProcess[str]) -> None:
    plugin = of(listed, made)
    assert plugin["state"] == "quarantined"
    assert made.cause in plugin["cause"]
    assert plugin["version"] == "1.2"
    lines = [line for line in listed.stderr.splitlines() if f"of {plugin['distribution']} 1.2" in line]
    assert len(lines) == 1, "named once on stderr, in one line"
    assert made.cause in lines[0]


@pytest.mark.parametrize("made", HANGING, ids=lambda made: made.name)
def test_hanging_plugin_is_stopped(made: Made, hung: subprocess.CompletedProcess[str]) -> None:
    assert hung.returncode == 0
    assert made.cause in of(hung, made)["cause"]


@pytest.mark.parametrize("made", COMPONENTS, ids=lambda made: made.name)
def test_broken_component_is_listed_with_its_cause(made: Made, listed: subprocess.CompletedProcess[str]) -> None:
    assert of(listed, made)["state"] == "ok"
    component = next(c for c in json.loads(listed.stdout)["components"] if c["distribution"] == made.name)
    assert component["state"] == "broken"
    assert made.cause in component["cause"]


@pytest.mark.parametrize("made", GOOD, ids=lambda made: made.name)
def test_good_plugins_load_beside_the_broken(made: Made, listed: subprocess.CompletedProcess[str]) -> None:
    assert of(listed, made)["state"] == "ok"


def test_standard_output_stays_clean(listed: subprocess.CompletedProcess[str]) -> None:
    assert listed.returncode == 0
    assert "hello on stdout" in listed.stderr
    assert "Traceback" not in listed.stderr


def test_a_plugin_that_fails_halfway_leaves_nothing(listed: subprocess.CompletedProcess[str]) -> None:
    names = {c["name"] for c in json.loads(listed.stdout)["components"]}
    assert "half" not in names
    assert {"good", "fine", "spaced", "loud", "cross_attention"} <= names


def test_duplicate_names_are_ambiguous(listed: subprocess.CompletedProcess[str]) -> None:
    twins = [c for c in json.loads(listed.stdout)["components"] if c["name"] == "twin"]
    assert [t["distribution"] for t in twins] == ["twin-a", "twin-b"]
    assert all(t["state"] == "ambiguous" for t in twins)


def test_help_and_table_and_doctor_answer(site: Path) -> None:
    helped = mmrobust(site, "--help")
    assert helped.returncode == 0
    assert helped.stderr == ""
    table = mmrobust(site, "plugins", "list")
    assert table.returncode == 0
    assert "bad-raises 1.2 is quarantined: RuntimeError: no licence" in table.stdout


def test_doctor_answers_even_where_torch_cannot_be_imported(site: Path, tmp_path: Path) -> None:
    for name in ("torch", "timm"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise OSError('libtorch_cpu.so: cannot open shared object file')")
    result = mmrobust(site, "doctor", "--json", PYTHONPATH=os.pathsep.join(map(str, (ROOT, tmp_path, site))))
    assert result.returncode == 1
    told = json.loads(result.stdout)
    assert "torch cannot be imported" in told["errors"][0]
    assert "libtorch_cpu.so" in told["errors"][0]
    warnings = "\n".join(told["warnings"])
    assert "bad-raises 1.2 is quarantined" in warnings
    assert "fusion 'twin' is ambiguous" in warnings


def test_recipes_that_need_none_of_them_and_those_that_do(site: Path, tmp_path: Path) -> None:
    fine = tmp_path / "fine.yaml"
    fine.write_text("recipe: 1\nextends: normtr\nmodel: {fusion: {use: twin-b/twin, gain: 2}}\n")
    result = mmrobust(site, "recipes", "validate", "normtr", str(fine))
    assert result.returncode == 0, result.stderr
    bad = tmp_path / "bad.yaml"
    bad.write_text(
        "recipe: 1\nextends: normtr\nmodel:\n  fusion: twin\n  head: half\n  encoder: future\n"
        "  generic_extractor: bad-future/future\n  specific_extractor: silnt\n"
    )
    result = mmrobust(site, "recipes", "validate", str(bad))
    assert result.returncode == 2
    errors = [line for line in result.stderr.splitlines() if line.startswith(str(bad))]
    assert f"{bad}:4:11: error: fusion 'twin' is ambiguous: twin-a 1.2 and twin-b 1.2 both offer it; " in errors[0]
    assert errors[0].endswith("write 'use: twin-a/twin' or 'use: twin-b/twin'")
    bad.write_text("recipe: 1\nextends: normtr\nmodel:\n  fusion: future\n")
    result = mmrobust(site, "recipes", "validate", str(bad))
    assert (
        f"{bad}:4:11: error: fusion 'future' should come from plugin 'bad_future' of bad-future 1.2, which is quara"
        in (result.stderr)
    )


def test_turning_third_parties_off(site: Path) -> None:
    result = mmrobust(site, "plugins", "list", "--json", "--no-plugins")
    assert result.stderr == ""
    told = json.loads(result.stdout)
    assert {c["distribution"] for c in told["components"]} == {"mmrobust"}
    assert {p["state"] for p in told["plugins"]} <= {"off", "quarantined"}


def test_allow_list(site: Path) -> None:
    result = mmrobust(site, "plugins", "list", "--json", MMROBUST_PLUGINS="good_one, good-wto")
    told = json.loads(result.stdout)
    assert {c["distribution"] for c in told["components"]} == {"mmrobust", "good-one"}
    assert "MMROBUST_PLUGINS allows 'good-wto', which is not installed; did you mean 'good-two'?" in result.stderr
    assert "bad-raises" not in result.stderr


def test_strict_mode_fails_in_ci(site: Path) -> None:
    result = mmrobust(site, "--strict-plugins", "recipes", "validate", "normtr")
    assert result.returncode == 2
    assert "plugin 'bad_raises' of bad-raises 1.2 is quarantined: RuntimeError: no licence" in result.stderr
    assert "Traceback" not in result.stderr
    result = mmrobust(site, "recipes", "validate", "normtr", MMROBUST_STRICT_PLUGINS="1", MMROBUST_PLUGINS="good-one")
    assert result.returncode == 0, result.stderr


def test_importing_torch_while_registering_is_told(tmp_path: Path) -> None:
    """The limit is shorter than this torch's import, which it must not cut in two."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("import time\ntime.sleep(1.2)\n")
    install(tmp_path, Made("slow-torch", "import torch\n" + hook(add("slow", "slow_torch.fusion:Mine"))))
    result = mmrobust(tmp_path, "plugins", "list", "--json", MMROBUST_PLUGIN_SECONDS="0.5")
    plugin = json.loads(result.stdout)["plugins"][0]
    assert "imports torch while it registers, which slows every command down" in result.stderr
    assert (plugin["state"], bool(plugin["warnings"])) == ("ok", True), plugin
