-- REAPER's Lua is 5.4 with two globals of its own.
std = "lua54"
read_globals = { "reaper", gfx = { other_fields = true, read_only = false } }
max_line_length = 120
self = false
