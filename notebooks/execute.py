"""Run notebooks and commit them with small outputs.

    python notebooks/execute.py              # all, as `make notebooks` does
    python notebooks/execute.py depth …      # some

Each runs from top to bottom at its full size in a kernel of its own, and is written only if no cell fails.
What is kept of the outputs is what a reader looks at: printed text and small pictures; no progress,
no warnings, no times of execution, nothing of the machine. The notebook's metadata name the code that they
belong to, so that a test sees outputs of other code.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
#: bytes of a picture, characters of one printed text, and how far its colours may be off: rms, of 255
MOST_PICTURE, MOST_TEXT, MOST_OFF = 80_000, 4_000, 2.0
#: kinds of pictures that are kept
PICTURES = ("image/png", "image/jpeg")
#: what says where a notebook ran: folders, and addresses in memory
OF_A_MACHINE = re.compile(
    r"(?:^|[\s'\"(=])(/(?:tmp|home|root|work|usr|var|private|Users)/\S*)|(0x[0-9a-f]{6,})"
)


def digest(notebook: dict[str, Any]) -> str:
    """The code of a notebook, as a number."""
    cells = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    return hashlib.sha256("\0".join(cells).encode()).hexdigest()[:16]


def execute(path: Path) -> dict[str, Any]:
    """The notebook with the outputs of a run at its full size."""
    import nbclient
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    os.environ.pop("GEOATTN_QUICK", None)
    client = nbclient.NotebookClient(
        notebook,
        timeout=None,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": HERE}},
    )
    client.execute()
    content: dict[str, Any] = json.loads(nbformat.writes(notebook))
    return content


def tidied(notebook: dict[str, Any]) -> dict[str, Any]:
    """The notebook with what is worth keeping of its outputs.

    Raises
    ------
    ValueError
        If an output is too long, or says where it was made.
    """
    for cell in notebook["cells"]:
        cell["metadata"] = {}
        if cell["cell_type"] == "code":
            cell["outputs"] = [kept for output in cell["outputs"] if (kept := _kept(output)) is not None]
            for output in cell["outputs"]:
                _check(cell, output)
    notebook["metadata"] = {
        "geoattn": {"code": digest(notebook)},
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return notebook


def _kept(output: dict[str, Any]) -> dict[str, Any] | None:
    if output["output_type"] == "stream":
        return output if output["name"] == "stdout" else None
    data = output["data"]
    if "image/png" in data:
        data = _smaller("".join(data["image/png"])) | {"text/plain": data["text/plain"]}
    elif len("".join(data.get("text/html", ""))) > MOST_TEXT:  # xarray's, with its style sheet
        data = {kind: content for kind, content in data.items() if kind != "text/html"}
    return output | {"data": data, "metadata": {}}


def _smaller(encoded: str) -> dict[str, str]:
    """A picture as it is if it is small; else in fewer colours if that is seen by nobody; else as a JPEG."""
    if len(base64.b64decode(encoded)) <= MOST_PICTURE:
        return {"image/png": encoded}
    from PIL import Image, ImageChops, ImageStat

    image = Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB")
    # by coverage, so that a small mark keeps its colour
    few = image.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    off = max(ImageStat.Stat(ImageChops.difference(image, few.convert("RGB"))).rms)
    if off <= MOST_OFF and (file := _file(few, "png", optimize=True)):
        return {"image/png": file}
    for quality in (92, 85, 75, 60, 45, 30, 15):
        if file := _file(image, "jpeg", quality=quality, subsampling=0):
            return {"image/jpeg": file}
    raise ValueError(f"a picture of {image.width}×{image.height} points is too large")


def _file(image: Any, kind: str, **options: Any) -> str:
    """The picture as a file in base 64; nothing if it is too large."""
    file = io.BytesIO()
    image.save(file, format=kind, **options)
    small = len(file.getvalue()) <= MOST_PICTURE
    return base64.b64encode(file.getvalue()).decode() + "\n" if small else ""


def texts(output: dict[str, Any]) -> list[str]:
    """What an output says in words."""
    if output["output_type"] == "stream":
        return ["".join(output["text"])]
    return ["".join(content) for kind, content in output["data"].items() if kind.startswith("text/")]


def _check(cell: dict[str, Any], output: dict[str, Any]) -> None:
    begin = "".join(cell["source"])[:60]
    data = output.get("data", {})
    size = max(len(base64.b64decode(data.get(kind, ""))) for kind in PICTURES)
    if size > MOST_PICTURE:
        raise ValueError(f"the picture of cell {begin!r} has {size:,} bytes, above {MOST_PICTURE:,}")
    for text in texts(output):
        if len(text) > MOST_TEXT:
            raise ValueError(f"cell {begin!r} says {len(text):,} characters, above {MOST_TEXT:,}")
        if found := OF_A_MACHINE.search(text):
            raise ValueError(f"cell {begin!r} says where it ran: {found[0]!r}")


def main(names: list[str]) -> None:
    """Run those of these names, or all."""
    for path in [HERE / f"{name}.ipynb" for name in names] or sorted(HERE.glob("*.ipynb")):
        began = time.perf_counter()
        content = tidied(execute(path))
        path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        print(
            f"{path.name}: {time.perf_counter() - began:.0f} s, {path.stat().st_size / 1e3:.0f} KB",
            flush=True,
        )


if __name__ == "__main__":
    main(sys.argv[1:])
