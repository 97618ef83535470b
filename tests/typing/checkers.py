"""The checkers of this environment, run as a user runs them."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
CHECK_SECONDS = 110


def output_of(checker: str, *arguments: str, cwd: Path = ROOT, **environment: str) -> str:
    """Return what mypy or pyright printed; fails if it did not come to check anything."""
    variables = os.environ | {
        # pyright looks for packages beside the interpreter that comes first.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1",
    }
    ended = subprocess.run(
        [sys.executable, "-m", checker, *arguments],
        cwd=cwd,
        env=variables | environment,
        capture_output=True,
        text=True,
        timeout=CHECK_SECONDS,
        check=False,
    )
    # 0: nothing wrong, 1: errors found.
    assert ended.returncode in (0, 1), ended.stdout + ended.stderr
    return ended.stdout
