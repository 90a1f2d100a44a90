std = "lua54"
globals = { "reaper", "gfx" }
max_line_length = 120
self = false
files["*_spec.lua"] = { std = "lua54+busted" }
