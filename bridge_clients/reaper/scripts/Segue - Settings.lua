-- @description Segue: Settings
-- @version 0.1.0
-- @author Segue
-- @about Sets what the other actions make, and puts them all into the action list.
--   Needs the `segue` command: install it, then run `segue install reaper`.
-- @provides
--   [main] Segue - Continue selection.lua
--   [main] Segue - Accompany selection.lua
--   [main] Segue - Vary.lua
--   [main] Segue - Fill time selection.lua
--   [main] Segue - Generate at cursor.lua
--   [main] Segue - Retake.lua
--   [main] Segue - Cancel.lua
--   [main] .
--   [nomain] segue/*.lua

local here = debug.getinfo(1, "S").source:match("^@(.*)[/\\][^/\\]*$") or "."
package.path = here .. "/?.lua;" .. package.path
require("segue.actions").run("settings", here)
