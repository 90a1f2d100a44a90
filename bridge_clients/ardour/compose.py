"""Puts Ardour's single-file scripts together from their parts: its Lua can load no other file.

Run as ``python -m bridge_clients.ardour.compose`` after a change of a part; a test holds `scripts` against
them.
"""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).resolve().parent
_HEAD = """ardour {{
	["type"]    = "{kind}",
	name        = "Segue: {name}",
	license     = "MIT",
	author      = "Segue",
	description = [[{description}]]
}}
-- Put together by bridge_clients/ardour/compose.py from bridge_clients/ardour/parts: change those.
"""
_ORDER = ("json", "files", "settings", "tempo", "choose", "act")
_ACTIONS = {
    "continue": (
        "Continue selection",
        "Go on from the selected region or range: new audio after its end, on tracks of its own.",
        'act.make ("continue")',
        _ORDER,
    ),
    "accompany": (
        "Accompany selection",
        "Play along: what is selected is heard, and the stems that it lacks come back beside it.",
        'act.make ("accompany")',
        _ORDER,
    ),
    "vary": (
        "Vary selection",
        "The selected audio once more, but different; how far is set in the settings.",
        'act.make ("vary")',
        _ORDER,
    ),
    "fill": (
        "Fill range",
        "Fill the selected time range, or the gap between two selected regions.",
        'act.make ("fill")',
        _ORDER,
    ),
    "generate": (
        "Generate at playhead",
        "New audio at the playhead from the text in the settings.",
        'act.make ("generate")',
        _ORDER,
    ),
    "retake": (
        "Retake",
        "The selected take once more with another seed; without a selection the last one.",
        "act.retake ()",
        _ORDER,
    ),
    "cancel": ("Cancel", "Stop what is being made in this session.", "act.cancel ()", _ORDER),
    "settings": ("Settings", "Text, length, takes and all else of this session.", "act.settings ()", _ORDER),
}
_HOOK = """function signals () return LuaSignal.Set ():add ({{ [LuaSignal.LuaTimerDS] = true }}) end
function factory ()
{parts}
	local busy = false
	return function ()
		-- a dialog of Ardour's runs the clock on while a turn waits for it
		if busy then return end
		busy = true
		local ok, why = pcall (jobs.turn)
		busy = false
		if not ok then print ("Segue: " .. tostring (why)) end
	end
end
"""


def _parts(names: tuple[str, ...]) -> str:
    return "\n".join((HERE / "parts" / f"{name}.lua").read_text("utf-8").rstrip() for name in names)


def scripts() -> dict[str, str]:
    """File name -> the whole text of each script."""
    made = {}
    for word, (name, description, call, parts) in _ACTIONS.items():
        head = _HEAD.format(kind="EditorAction", name=name, description=description)
        body = f"function factory () return function ()\n{_parts(parts)}\n\t{call}\nend end\n"
        made[f"segue_{word}.lua"] = head + body
    head = _HEAD.format(
        kind="EditorHook",
        name="jobs",
        description="Does the work of Segue's actions, a little at a time: without it nothing comes.",
    )
    hook = _HOOK.format(parts=_parts(("json", "files", "reader", "land", "jobs")))
    made["segue_jobs.lua"] = head + hook
    return made


def write() -> None:
    """Write them all into `scripts`."""
    (HERE / "scripts").mkdir(exist_ok=True)
    for name, text in scripts().items():
        (HERE / "scripts" / name).write_text(text, "utf-8")


if __name__ == "__main__":
    write()
