-- @description Segue: Accompany selection
-- @version 0.1.0
-- @author Segue
-- @about Plays along with the selected items or tracks.
-- @noindex

local here = debug.getinfo(1, "S").source:match("^@(.*)[/\\][^/\\]*$") or "."
package.path = here .. "/?.lua;" .. package.path
require("segue.actions").run("accompany", here)
