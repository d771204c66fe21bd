"""The docs are true where a machine can tell."""

import ast
import re
import tomllib
from pathlib import Path

import pytest
import typer
from support.pages import PAGES as PAGES_WITH_GENERATED_PARTS, PARTS, filled

import back.api.app  # noqa: F401 - enters every call in CALLS
from back.api.calls import CALLS
from back.cli import app
from back.settings import BackSettings
from front.settings import FrontSettings

ROOT = Path(__file__).resolve().parents[3]
PAGES = [ROOT / "README.md", ROOT / "nats" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMED = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
COMMON_OPTIONS = {"api", "password", "help"}


def commands(page: Path) -> list[str]:
    """Return the lines of a page's indented and fenced blocks, and its `code`, joined at \\."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    blocks = re.findall(r"^ {4,}(\S.*)$", text, re.MULTILINE)
    fenced = "\n".join(re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    inline = re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text)
    return [*blocks, *fenced.splitlines(), *inline]


# --- names ----------------------------------------------------------------------------------------


def declared() -> set[str]:
    """Return every dependency of pyproject.toml by its plain name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    lines = [*project["dependencies"], *(line for extra in extras for line in extra)]
    return {re.split(r"[\[<>=]", line)[0] for line in lines}


def test_every_dependency_has_its_reason_and_every_reason_its_dependency() -> None:
    page = (ROOT / "docs" / "dependencies.md").read_text()
    explained = set(re.findall(r"^\| `([a-z0-9-]+)` \|", page, re.MULTILINE))
    assert explained == declared()


@NAMED
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {m[1] for line in commands(page) if (m := re.match(r"make ([a-z]+)", line))}
    assert named <= targets


@NAMED
def test_squalls_commands_and_their_options_exist(page: Path) -> None:
    group = typer.main.get_command(app)
    assert isinstance(group, typer.core.TyperGroup)
    for line in commands(page):
        found = re.search(r"(?:^|[ /])squall (?:--\w+ \S+ )*([a-z][a-z-]*)((?: .*)?)$", line)
        if found is None:
            continue
        name, rest = found.groups()
        assert name in group.commands, f"{page.name}: {line}"
        given = set(re.findall(r"--([A-Za-z]+)", rest.partition("#")[0]))
        if name in CALLS:
            assert given <= CALLS[name].parameters.keys() | COMMON_OPTIONS, f"{page.name}: {line}"
        elif name != "certs":
            options = {o for p in group.commands[name].params for o in p.opts}
            assert {f"--{option}" for option in given} <= options, f"{page.name}: {line}"


def test_the_readme_shows_commands() -> None:
    text = "\n".join(commands(ROOT / "README.md"))
    assert {"getinfo", "open", "payinvoice"} <= set(re.findall(r"squall (\w+)", text))


@NAMED
def test_settings_that_are_named_exist(page: Path) -> None:
    known = {
        f"{cls.model_config['env_prefix']}{field}".upper()
        for cls in (BackSettings, FrontSettings)
        for field in cls.model_fields
    }
    named = set(re.findall(r"\bSQUALL_(?:BACK|FRONT)_[A-Z_]*[A-Z]\b", page.read_text()))
    assert named <= known


@NAMED
def test_files_that_are_named_exist(page: Path) -> None:
    """A path in the tree, by its first folder; ``data/`` and ``certs/`` are the operator's."""
    folders = "shared|front|back|tests|nats|compose|tools|docs"
    for named in re.findall(rf"`((?:{folders})/[\w./*-]+)`", page.read_text()):
        assert list(ROOT.glob(named.rstrip("/"))), f"{page.name} names {named}"


@NAMED
def test_local_links_lead_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\((?!https?://)([^)#]*)(?:#([^)]*))?\)", page.read_text()):
        found = page.parent / target if target else page
        assert found.exists(), f"{page.name} links to {target}"
        if anchor:
            assert anchor in anchors(found), f"{page.name} links to {target}#{anchor}"


def anchors(page: Path) -> set[str]:
    """Return the names of a page's headings, as its links call them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}


# --- generated parts -----------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES_WITH_GENERATED_PARTS, ids=lambda page: page.name)
def test_generated_parts_are_up_to_date(page: Path) -> None:
    assert page.read_text(encoding="utf-8") == filled(page), "run: make docs"


def test_every_generated_part_stands_on_a_page() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES_WITH_GENERATED_PARTS)
    assert set(re.findall(r"<!-- generated: ([a-z-]+) -->", text)) == set(PARTS)


# --- the log -------------------------------------------------------------------------------------

BAD = {"warning", "error", "exception", "critical"}


def logged() -> set[str]:
    """Return the events that the programs log as a warning or worse."""
    found = set()
    for folder in ("back", "front", "shared"):
        for path in (ROOT / folder).rglob("*.py"):
            for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if (
                    isinstance(call, ast.Call)
                    and isinstance(call.func, ast.Attribute)
                    and call.func.attr in BAD
                    and ast.unparse(call.func.value) in {"log", "self._log"}
                ):
                    (event,) = call.args
                    found.add(
                        event.value if isinstance(event, ast.Constant) else ast.unparse(event)
                    )
    return found


def test_every_event_that_wants_a_person_is_explained_and_no_other() -> None:
    events = logged()
    by_name = {"f'{message.NAME}_received'"}
    assert by_name <= events
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    tables = page.partition("## Log")[2]
    explained = {
        name
        for row in re.findall(r"^\| (`[^|]*) \| ", tables, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", row)
    }
    assert explained == events - by_name | {"error_received", "warning_received"}
