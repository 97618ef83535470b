"""The compiled twin of the Gearman codec, and the switch QUE_EXTENSION: 1 insists, 0 leaves it out, unset tries.

QUE_EXTENSION_CHECKS=1 builds it with bounds, None and assertion checks, for tests/sanitize.
"""

import os
import warnings
from collections.abc import Callable
from importlib import import_module

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

SWITCH = os.environ.get("QUE_EXTENSION", "")
CHECKED = os.environ.get("QUE_EXTENSION_CHECKS") == "1"


class OptionalBuildExt(build_ext):
    """Leaves an optional extension out with a warning where it cannot be built; que then runs on the pure codec."""

    def build_extension(self, ext: Extension) -> None:
        try:
            build_ext.build_extension(self, ext)  # pyright: ignore[reportUnknownMemberType]  # untyped there
        except Exception as error:  # whatever a compiler does wrong is no reason to have no que
            if not ext.optional:
                raise
            _fall_back(error)


def _fall_back(error: Exception) -> None:
    warnings.warn(
        "que is built without its compiled Gearman codec; the pure one packs and parses 2 to 5 times slower. "
        "Install a C compiler and Python's headers; QUE_EXTENSION=0 silences this, QUE_EXTENSION=1 makes it an error. "
        f"What failed: {error}",
        stacklevel=1,
    )


def _extensions() -> list[Extension]:
    extension = Extension(
        "que.gearman._wire_c",
        ["src/que/gearman/_wire_c.pyx"],
        define_macros=[] if CHECKED else [("CYTHON_WITHOUT_ASSERTIONS", "1")],
    )
    checks = {"boundscheck": CHECKED, "wraparound": CHECKED, "nonecheck": CHECKED, "initializedcheck": CHECKED}
    directives = {"language_level": 3, "binding": True, "cdivision": True, **checks}
    cythonize: Callable[..., list[Extension]] = import_module("Cython.Build").cythonize
    extensions = cythonize([extension], compiler_directives=directives, force=CHECKED)
    for built in extensions:
        # Set here because cythonize makes extensions of its own, without it.
        built.optional = SWITCH != "1"
    return extensions


def _chosen_extensions() -> list[Extension]:
    if SWITCH == "0":
        return []
    if SWITCH == "1":
        return _extensions()
    try:
        return _extensions()
    except Exception as error:  # Cython is missing, or fails: likewise
        _fall_back(error)
        return []


setup(ext_modules=_chosen_extensions(), cmdclass={"build_ext": OptionalBuildExt})
