"""A module that lets go of weights which lie in a file, and reads them again when somebody looks.

The engine keeps weights in its own form; beside it, the module's float32 ones would be a second copy (1.6 GB
at MusicGen-small's shape, beside 0.4 GB of int8). While parts rest their parameters are on the meta device:
shapes and names can be asked for, anything that needs values wakes all of them first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

Values = Callable[[], Mapping[str, Tensor]]  # reads the weights again; by their names in the module


class RestingModule(nn.Module):
    """``resting_parts`` names the children that may rest. Weights rest only as the file has them: once they
    have been written to, are to be trained, or have another dtype, they stay.
    """

    resting_parts: tuple[str, ...] = ()

    def __init__(self) -> None:
        super().__init__()
        self._read_again: Values | None = None
        self._as_read: tuple[Any, ...] = ()
        self._asleep: torch.device | None = None  # where the weights are to come back to

    @property
    def resting(self) -> bool:
        return self._asleep is not None

    @property
    def as_in_file(self) -> bool:
        """Whether the weights that can rest are those of the file, on whatever device."""
        return self.resting or (self._read_again is not None and self._state() == self._as_read)

    def version(self) -> tuple[object, ...]:
        """Changes whenever a parameter is written to or replaced, but for the file's own that come back."""
        kept = [
            (value.data_ptr(), value._version)
            for name, child in self._modules.items()
            if child is not None and name not in self.resting_parts
            for value in child.parameters()
        ]
        return (*kept, "as in the file" if self.as_in_file else self._state())

    def came_from(self, read_again: Values) -> None:
        """The present weights can be had again from ``read_again``."""
        self._read_again, self._as_read = read_again, self._state()

    def rest(self, part: str) -> None:
        """Let go of the weights of a child (a name with dots), if they can be had again."""
        if not self.as_in_file:
            return
        if self._asleep is None:
            self._asleep = next(value for _, value in self._resting_parameters()).device
        module: nn.Module = self
        for name in part.split("."):
            module = module._modules[name]  # type: ignore[assignment]
        for child in module.modules():
            for name, value in child._parameters.items():
                if value is not None:
                    child._parameters[name] = nn.Parameter(torch.empty_like(value, device="meta"), False)

    def wake(self) -> None:
        """Read again what rests. Raises CheckpointError where the file is no longer what it was."""
        if self._asleep is None or self._read_again is None:
            return
        values = self._read_again()
        device, self._asleep = self._asleep, None
        for name, value in list(self._resting_parameters()):
            if value.is_meta:
                owner, _, last = name.rpartition(".")
                read = nn.Parameter(values[name].to(device), False)
                self.get_submodule(owner)._parameters[last] = read
        self._as_read = self._state()

    def _resting_parameters(self) -> Iterator[tuple[str, Tensor]]:
        for part in self.resting_parts:
            yield from self._modules[part].named_parameters(part)  # type: ignore[union-attr]

    def _state(self) -> tuple[Any, ...]:
        return tuple(
            (value.data_ptr(), value._version, value.dtype, value.requires_grad)
            for _, value in self._resting_parameters()
        )

    # everything that needs values

    def __getattr__(self, name: str) -> Any:
        if name in type(self).resting_parts and self.__dict__.get("_asleep") is not None:
            self.wake()
        return super().__getattr__(name)

    def named_parameters(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Parameter]]:
        self.wake()
        return super().named_parameters(*args, **kwargs)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        self.wake()
        return super().state_dict(*args, **kwargs)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        self.wake()
        return super().load_state_dict(*args, **kwargs)

    def apply(self, fn: Callable[[nn.Module], None]) -> Any:
        self.wake()
        return super().apply(fn)

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        self.wake()
        unchanged = self.as_in_file
        result = super()._apply(*args, **kwargs)
        if unchanged and all(value.dtype == torch.float32 for _, value in self._resting_parameters()):
            self._as_read = self._state()  # only their device is another
        return result

    def __getstate__(self) -> dict[str, Any]:
        self.wake()
        return {**self.__dict__, "_read_again": None, "_as_read": ()}
