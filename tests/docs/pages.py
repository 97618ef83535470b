"""The pages that users read, and the programs on them."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = [README, ROOT / "examples" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def programs() -> dict[str, str]:
    """Return each program by a name: the README's stand alone, a page of docs/ is one program told in pieces."""
    sections = re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", README.read_text(), re.MULTILINE | re.DOTALL)
    told = {title: block for title, body in sections for block in _blocks(body)}
    for page in PAGES[1:]:
        if blocks := _blocks(page.read_text()):
            told[page.stem] = "\n\n".join(blocks)
    return told


def _blocks(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)
