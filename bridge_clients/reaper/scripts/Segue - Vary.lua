-- @description Segue: Vary
-- @version 0.1.0
-- @author Segue
-- @about Makes variations of the selected items.
-- @noindex

local here = debug.getinfo(1, "S").source:match("^@(.*)[/\\][^/\\]*$") or "."
package.path = here .. "/?.lua;" .. package.path
require("segue.actions").run("vary", here)
