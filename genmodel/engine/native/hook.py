"""The wheel's build hook: compiled kernels go into it where a C++ compiler is, and are left out elsewhere.

Run by hatchling, never by Segue, before anything of Segue can be imported; ``build`` is loaded as a file.
"""

from __future__ import annotations

import importlib.util
import shutil
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

HERE = Path(__file__).resolve().parent


def _build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("segue_native_build", HERE / "build.py")
    if spec is None or spec.loader is None:
        raise ImportError(f"{HERE / 'build.py'} cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def wheel_tag() -> str:
    """Of a wheel with the library in it: this kind of machine, any Python (the library knows of none)."""
    from packaging.tags import sys_tags  # hatchling needs it itself

    platforms = (tag.platform for tag in sys_tags())
    return "py3-none-" + next(name for name in platforms if not name.startswith(("manylinux", "musllinux")))


class NativeBuildHook(BuildHookInterface):
    """Compiles into a folder of its own. What does not compile ends no installation: int8 is absent then, and
    says why when it is asked for.
    """

    PLUGIN_NAME = "custom"
    _folder: str | None = None

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """``version``: "standard", or "editable", whose sources may change under it: there the library is
        compiled on first use, and again after each change, by its name.
        """
        if version == "editable":
            return
        build = _build()
        self._folder = tempfile.mkdtemp(prefix="segue-native-")
        try:
            made = Path(self._folder) / build.library_name()
            build.compile_library(made)
        except (build.NativeAbsentError, OSError) as error:
            self.app.display_warning(f"segue: built without native kernels: {error}")
            return
        made.chmod(0o755)
        build_data["pure_python"] = False
        build_data["tag"] = wheel_tag()
        place = HERE.relative_to(Path(self.root).resolve()) / made.name
        build_data["force_include"][str(made)] = place.as_posix()
        self.app.display_info(f"segue: native kernels compiled into the wheel ({made.name})")

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """The wheel is written: the folder goes."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None
