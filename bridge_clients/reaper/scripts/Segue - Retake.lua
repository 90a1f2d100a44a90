-- @description Segue: Retake
-- @version 0.1.0
-- @author Segue
-- @about Makes the selected Segue items once more with another seed.
-- @noindex

local here = debug.getinfo(1, "S").source:match("^@(.*)[/\\][^/\\]*$") or "."
package.path = here .. "/?.lua;" .. package.path
require("segue.actions").run("retake", here)
