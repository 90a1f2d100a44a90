-- @description Segue: Generate at cursor
-- @version 0.1.0
-- @author Segue
-- @about Makes new audio at the edit cursor from the description in the settings.
-- @noindex

local here = debug.getinfo(1, "S").source:match("^@(.*)[/\\][^/\\]*$") or "."
package.path = here .. "/?.lua;" .. package.path
require("segue.actions").run("generate", here)
