-- ardour7-lua ardour_tempo.lua FOLDER PARTS MAPS OUT : the parts' tempo map against Ardour's own, headless.
-- MAPS: a line of JSON each: {"tempi": [[ticks, bpm, end_bpm, note]…], "meters": [[ticks, beats, unit]…], "seams": […], "bars": n}
AudioEngine:set_backend ("None (Dummy)", "Unit-Test", "")
local code = {}
for _, name in ipairs { "json", "files", "tempo" } do
	local f = assert (io.open (arg[2] .. "/" .. name .. ".lua"))
	code[#code + 1] = f:read ("a")
	f:close ()
end
local parts = assert (load (table.concat (code, "\n") .. "\nreturn json, tempo"))
local out = assert (io.open (arg[4], "w"))
local n = 0
for line in io.lines (arg[3]) do
	n = n + 1
	Session = assert (create_session (arg[1] .. n, "tempo", 48000))
	local json, tempo = parts ()
	local given = assert (json.read (line))
	local map = Temporal.TempoMap.fetch_writable ()
	local function at (ticks) return Temporal.timepos_t.from_ticks (ticks) end
	for _, m in ipairs (given.meters) do map:set_meter (Temporal.Meter (m[2], m[3]), at (m[1])) end
	for _, t in ipairs (given.tempi) do map:set_tempo (Temporal.Tempo (t[2], t[3], t[4]), at (t[1])) end
	Temporal.TempoMap.update (map)
	map = nil
	local found = json.array ()
	for _, seam in ipairs (given.seams) do
		local lines = json.array ()
		for i = 0, 40 do lines[i + 1] = at (i * 960):samples () end
		found[#found + 1] = { map = tempo.read (seam, seam + 48000 * 300), bars = tempo.bars_in_samples (seam, given.bars),
			next_bar = tempo.next_bar (seam), lines = lines }
	end
	out:write (json.write (found), "\n")
	close_session ()
end
out:close ()
