-- @description Segue: Continue selection
-- @version 0.1.0
-- @author Segue
-- @about Goes on from the selected items or the time selection.
-- @noindex

local here = debug.getinfo(1, "S").source:match("^@(.*)[/\\][^/\\]*$") or "."
package.path = here .. "/?.lua;" .. package.path
require("segue.actions").run("continue", here)
