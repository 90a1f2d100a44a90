-- @description Segue: Fill time selection
-- @version 0.1.0
-- @author Segue
-- @about Fills the gap of the time selection.
-- @noindex

local here = debug.getinfo(1, "S").source:match("^@(.*)[/\\][^/\\]*$") or "."
package.path = here .. "/?.lua;" .. package.path
require("segue.actions").run("fill", here)
