"""How much memory a worker holds on its device, now and at its highest; asked in the worker itself."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import Any

from daemon import vram

# A context and its kernels take 0.3 to 1 GB beside what torch counts; more in the driver's difference was
# taken by some other program meanwhile.
_BESIDE_BYTES = 3 << 29


class Footprint:
    """Made before the model is loaded; `settle` after."""

    def __init__(self) -> None:
        self._before = vram.used_bytes()
        self._beside = 0
        self._cuda: Any = None

    def settle(self, device: str) -> None:
        """The model is loaded on `device` ("cpu", "cuda:0 …")."""
        torch = sys.modules.get("torch")
        if not device.startswith("cuda") or torch is None:
            return
        self._cuda = torch.cuda
        after, held = vram.used_bytes(), int(self._cuda.memory_reserved())
        if self._before is not None and after is not None:
            self._beside = min(max(0, after - self._before - held), _BESIDE_BYTES)

    @property
    def now_bytes(self) -> int:
        if self._cuda is not None:
            return int(self._cuda.memory_reserved()) + self._beside
        with contextlib.suppress(OSError, ValueError, IndexError):
            return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        return 0

    @property
    def peak_bytes(self) -> int:
        """The highest so far; on a CPU what loading took for a moment is part of it."""
        if self._cuda is not None:
            return int(self._cuda.max_memory_reserved()) + self._beside
        with contextlib.suppress(OSError, ValueError, IndexError):
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return 1024 * int(line.split()[1])
        return self.now_bytes
