"""What mkdocs does not do by itself for the site of ``mkdocs.yml``: its hooks.

- The reference has a page for each part of the package, made of the names that the part makes public.
- README, CHANGELOG and the like are pages too, and so are the source files that a page links to: a link to a
  file of the repository leads to it within the site. One that leads nowhere is a warning, and ends the build.
- Notebooks are pages, with the outputs that were committed.
- What the library refuses is listed from its sources. The gallery, in ``pictured.py``, is executed and drawn.
"""

from __future__ import annotations

import base64
import importlib
import importlib.util
import inspect
import json
import logging
import re
from functools import cache
from pathlib import Path
from typing import Any

import griffe
import pictured  # beside this file, which mkdocs looks for there
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
LOG = logging.getLogger("mkdocs.hooks.geoattn")

#: files of the repository that are pages of the site
PAGES = {
    "README.md": "overview.md",
    "CHANGELOG.md": "changes.md",
    "CONTRIBUTING.md": "contributing.md",
    "cuda/README.md": "cuda-kernels.md",
    "grids/README.md": "shipped-grids.md",
}
#: parts of the package with a page each, in this order
PARTS = (
    "grids", "neighborhoods", "relations", "plans", "nn", "models", "parallel", "xarray", "training", "plot",
    "backends", "testing",
)  # fmt: skip
COMPAT = ("natten", "torch_harmonics")


# -- the reference ----------------------------------------------------------------------------------------


def reference() -> dict[str, str]:
    """The pages of the reference by their paths."""
    import geoattn

    own = [name for name in geoattn.__all__ if not inspect.ismodule(getattr(geoattn, name))]
    pages = {"reference/geoattn.md": _page("geoattn", own)}
    for part in PARTS:
        module = importlib.import_module(f"geoattn.{part}")
        pages[f"reference/{part}.md"] = _page(f"geoattn.{part}", list(module.__all__))
    for name in COMPAT:
        module = importlib.import_module(f"geoattn.compat.{name}")
        public = getattr(module, "__all__", [n for n in vars(module) if not n.startswith("_")])
        pages[f"reference/compat-{name}.md"] = _page(f"geoattn.compat.{name}", list(public))
    return pages


@cache
def _sources() -> Any:
    return griffe.load("geoattn", search_paths=[str(ROOT)])


def _written(place: str) -> bool:
    """Whether the sources hold what stands at ``geoattn.….name``."""
    try:
        return bool(_sources()[place.removeprefix("geoattn.")])
    except KeyError:
        return False


def _page(module: str, names: list[str]) -> str:
    """A module's page: what it says of itself, then each public name where it is defined."""
    found = importlib.import_module(module)
    lines = [f"# {module}", "", inspect.cleandoc(found.__doc__ or ""), ""]
    constants = []
    for name in names:
        value = getattr(found, name)
        if inspect.isfunction(value) or inspect.isclass(value):
            place = f"{value.__module__}.{value.__qualname__}"
            if _written(place):
                lines += [f"::: {place}", "    options:", f"      heading: {module}.{name}"]
                lines += [f"      toc_label: {name}", ""]
            else:  # made at run time: no tool that reads sources finds it
                lines += [
                    f"## {module}.{name}",
                    "",
                    "```python",
                    f"{name}{inspect.signature(value)}",
                    "```",
                    "",
                ]
                lines += [inspect.cleandoc(value.__doc__ or ""), ""]
        elif not inspect.ismodule(value):
            constants.append(f"- `{module}.{name}`: `{type(value).__name__}`")
    return "\n".join([*lines, *(["## Also", "", *constants] if constants else [])]) + "\n"


# -- refusals ---------------------------------------------------------------------------------------------

#: folders and files of the sources: what a reader was doing
AREAS = (
    (("functional", "ops", "derivatives", "programs", "backends/"), "Attention and its operands"),
    (("grids/",), "Grids"),
    (("neighborhoods/", "relations/", "plans/"), "Neighborhoods, relations, plans"),
    (("nn/", "models/"), "Modules and models"),
    (("xarray/", "_accessor"), "Files, stores, forecasts, scores"),
    (("parallel/",), "Many processes"),
    (("training/", "tasks/", "commands/", "__main__", "demo"), "Training, tasks, commands"),
    (("compat/",), "Names of other libraries"),
    (("",), "Elsewhere"),
)


def refusals() -> str:
    """All that the library refuses, by what one was doing, in its own words."""
    path = ROOT / "tests" / "remedies.py"
    spec = importlib.util.spec_from_file_location("remedies", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    groups: dict[str, dict[str, str]] = {title: {} for _, title in AREAS}
    for found in module.refusals():
        title = next(title for starts, title in AREAS if found.file.startswith(starts))
        words = re.sub(r"\{[^{}]*\}", "…", found.text).strip()
        if len(words) > 12:
            groups[title].setdefault(words, found.file)
    lines = []
    for title, entries in groups.items():
        if entries:
            lines += [f"### {title}", ""]
            lines += [f"- `{words.replace('`', chr(39))}`" for words in sorted(entries, key=str.lower)] + [""]
    return "\n".join(lines)


# -- backends ---------------------------------------------------------------------------------------------

#: as what kind of device a backend for GPUs is asked: an H100's
CAPABILITY = (9, 0)


def features() -> list[tuple[str, dict[str, Any]]]:
    """The rows of the table, and how their calls differ from a disc in float32 with heads of 32."""
    import torch

    dtypes = [(str(d).removeprefix("torch."), {"dtype": d}) for d in (torch.float64, torch.float32)]
    dtypes += [(str(d).removeprefix("torch."), {"dtype": d}) for d in (torch.bfloat16, torch.float16)]
    dims = [(f"heads of {dim}", {"dim": dim}) for dim in (20, 64, 128, 256, 512, 1024)]
    return [
        ("discs, windows, any edges", {}),
        ("everything", {"everything": True}),
        *dtypes,
        *dims,
        ("fewer heads of keys", {"kv_heads": 1}),
        ("a bias for every pair", {"relation": True}),
    ]


def declared(
    backend: str,
    device: str,
    *,
    dtype: Any = None,
    dim: int = 32,
    everything: bool = False,
    kv_heads: int = 2,
    relation: bool = False,
) -> str | None:
    """Why a backend would refuse such a call on a device that it can use, or None."""
    import types
    from unittest import mock

    import torch

    import geoattn as ga
    from geoattn.backends.base import knows_relations

    grid = ga.grids.gaussian(8, 16)
    hood = ga.everything(grid) if everything else ga.geodesic(grid, radius=30)

    def operand(heads: int) -> Any:  # backends look at shape, dtype and device, and the device is not here
        shape = torch.Size((1, grid.size, heads, dim))
        place = torch.device(device, 0) if device != "cpu" else torch.device(device)
        return types.SimpleNamespace(shape=shape, dtype=dtype or torch.float32, device=place)

    found = ga.backends.get(backend)
    with (
        mock.patch("torch.cuda.get_device_capability", return_value=CAPABILITY),
        mock.patch.object(type(found), "unavailable", return_value="not looked at"),
    ):
        reason: str | None = found.refuses(operand(2), operand(kv_heads), operand(kv_heads), hood)
    return reason or ("it adds no bias for pairs" if relation and not knows_relations(found) else None)


def backends() -> str:
    """Backends by device and by feature, from their own declarations; what is refused has its reason."""
    import geoattn as ga

    names = list(ga.backends.KNOWN)
    devices = ("cpu", "cuda", "mps")
    reasons: dict[str, int] = {}

    def cell(reason: str | None) -> str:
        return "yes" if reason is None else f"– [{reasons.setdefault(reason, len(reasons) + 1)}]"

    def asked(name: str, device: str, call: dict[str, Any]) -> str | None:
        only = declared(name, device) is not None  # such as the one for all pairs
        return declared(name, device, **({"everything": True} | call if only else call))

    lines = ["| device | tried, in this order | " + " | ".join(names) + " |", "|---" * (len(names) + 2) + "|"]
    home = {name: next(d for d in devices if asked(name, d, {}) is None) for name in names}
    for device in devices:
        order = ", ".join(next(row.order for row in _defaults() if row.device == device))
        cells = [cell(asked(name, device, {})) for name in names]
        lines.append(f"| {device} | {order} | {' | '.join(cells)} |")
    lines += ["", f"| call | {' | '.join(f'{name}, on {home[name]}' for name in names)} |"]
    lines.append("|---" * (len(names) + 1) + "|")
    for words, call in features():
        cells = []
        for name in names:
            plain = words.startswith("discs")
            cells.append(cell(declared(name, home[name]) if plain else asked(name, home[name], call)))
        lines.append(f"| {words} | {' | '.join(cells)} |")
    capability = ".".join(map(str, CAPABILITY))
    lines += ["", f"CUDA devices are asked as those of capability {capability}.", ""]
    return "\n".join([*lines, *(f"{number}. {reason}" for reason, number in reasons.items())])


def _defaults() -> Any:
    from geoattn.backends.defaults import DEFAULTS

    return DEFAULTS[1:]  # the first are AMD's, in the same places


# -- notebooks --------------------------------------------------------------------------------------------


def notebooks() -> dict[str, str | bytes]:
    """Each notebook as it was committed: a page with its code, what it printed, and its pictures."""
    pages: dict[str, str | bytes] = {}
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        lines, count = [], 0
        for cell in json.loads(path.read_text())["cells"]:
            text = "".join(cell["source"])
            if cell["cell_type"] == "markdown":
                lines += [text, ""]
                continue
            lines += ["```python", text, "```", ""]
            for output in cell["outputs"]:
                data = output.get("data", {"text/plain": output.get("text", "")})
                kind = next((kind for kind in data if kind.startswith("image/")), "")
                if kind:
                    name = f"{path.stem}-{count}.{kind.removeprefix('image/')}"
                    pages[f"notebooks/{name}"] = base64.b64decode(data[kind])
                    lines += [f"![what the code above draws]({name})", ""]
                    count += 1
                elif said := "".join(data["text/plain"]).strip("\n"):
                    lines += ["```text", said, "```", ""]
        lines += [f"[The notebook itself](../../notebooks/{path.name})", ""]
        pages[f"notebooks/{path.stem}.md"] = "\n".join(lines)
    return pages


# -- what mkdocs calls ------------------------------------------------------------------------------------


def on_config(config: Any) -> Any:
    """Put the pages of the reference and the notebooks into the navigation."""
    read = [path for path in notebooks() if path.endswith(".md")]
    entries = []
    for path in reference():
        name = Path(path).stem.replace("compat-", "compat.")
        entries.append({name if name == "geoattn" else f"geoattn.{name}": path})
    for section in config.nav:
        for title in section:
            if section[title] == "REFERENCE":
                section[title] = entries
            if section[title] == "NOTEBOOKS":
                section[title] = read
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the pages and pictures that are made by the build."""
    made: dict[str, str | bytes] = {target: (ROOT / source).read_text() for source, target in PAGES.items()}
    made |= reference()
    made |= notebooks()
    for path in pictured.PAGES:
        made[path] = pictured.page(path)
        made |= {f"pictures/{name}.png": entry.picture for name, entry in pictured.made(path).items()}
    for path, content in made.items():
        files.append(File.generated(config, path, content=content))
    page = files.get_file_from_path("troubleshooting.md")
    if page is not None:
        page.content_string = page.content_string.replace("<!-- all refusals -->", refusals())
    page = files.get_file_from_path("backends.md")
    if page is not None:
        page.content_string = page.content_string.replace("<!-- tables of backends -->", backends())
    texts = {file.src_uri: file.content_string for file in files if file.src_uri.endswith(".md")}
    for source in sorted(set().union(*(linked(text, path) for path, text in texts.items()))):
        if source not in PAGES and (ROOT / source).is_file() and files.get_file_from_path(source) is None:
            files.append(File.generated(config, _copy(source), content=(ROOT / source).read_bytes()))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Let links to files of the repository lead to where these are in the site."""
    return re.sub(LINK, lambda found: _led(found, page.file.src_uri), markdown)


LINK = re.compile(r"(?<!\\)\]\(([^)\s#:]+)(#[^)\s]*)?\)")


def _origin(page: str) -> Path:
    """The folder from which a page's links count."""
    written = {target: source for source, target in PAGES.items()}
    return (ROOT / written.get(page, f"docs/{page}")).parent


def linked(text: str, page: str) -> set[str]:
    """The files of the repository, outside ``docs``, to which a page links."""
    found = set()
    for path, _ in re.findall(LINK, text):
        place = (_origin(page) / path).resolve()
        if place.is_relative_to(ROOT) and not place.is_relative_to(ROOT / "docs"):
            found.add(place.relative_to(ROOT).as_posix())
    return found


def _copy(source: str) -> str:
    """Where a source file lies in the site: as text, so that browsers show it."""
    binary = Path(source).suffix in (".png", ".json", ".csv", ".ipynb")
    return f"sources/{source}" if binary else f"sources/{source}.txt"


def _led(found: re.Match[str], page: str) -> str:
    path, anchor = found[1], found[2] or ""
    place = (_origin(page) / path).resolve()
    if not place.is_relative_to(ROOT):
        return found[0]
    inside = place.relative_to(ROOT).as_posix()
    up = "../" * page.count("/")
    if inside in PAGES:
        return f"]({up}{PAGES[inside]}{anchor})"
    if inside.startswith("docs/"):
        return f"]({up}{inside.removeprefix('docs/')}{anchor})"
    if place.is_dir():
        return "]"  # no page lists a folder: the words stay
    if not place.exists():
        LOG.warning("%s links to %s, which is not there", page, path)
        return found[0]
    return f"]({up}{_copy(inside)})"
