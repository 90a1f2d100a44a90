-- @description Segue: Cancel
-- @version 0.1.0
-- @author Segue
-- @about Stops what is under way in this project.
-- @noindex

local here = debug.getinfo(1, "S").source:match("^@(.*)[/\\][^/\\]*$") or "."
package.path = here .. "/?.lua;" .. package.path
require("segue.actions").run("cancel", here)
