-- ardour7-lua ardour_session.lua FOLDER NAME RATE [plain] : a session with a master bus and a tempo map, nothing else.
-- Tempo 120, then 97 from bar 3 on; meter 4/4, then 7/8 from bar 3 on; a change of tempo in the middle of bar 4; plain: 120 and 4/4 throughout.
AudioEngine:set_backend ("None (Dummy)", "Unit-Test", "")
Session = assert (create_session (arg[1], arg[2], tonumber (arg[3])))
-- without a master bus Ardour 7.3 with an OSC surface crashes at the first message
Session:add_master_bus (ARDOUR.ChanCount (ARDOUR.DataType ("audio"), 2))
local map = Temporal.TempoMap.fetch_writable ()
local q = Temporal.ticks_per_beat
local function at (ticks) return Temporal.timepos_t.from_ticks (ticks) end
map:set_tempo (Temporal.Tempo (120, 120, 4), Temporal.timepos_t (0))
if arg[4] ~= "plain" then
	map:set_tempo (Temporal.Tempo (97, 97, 4), at (8 * q))
	map:set_meter (Temporal.Meter (7, 8), at (8 * q))
	map:set_tempo (Temporal.Tempo (141.5, 141.5, 4), at (13 * q))
end
Temporal.TempoMap.update (map)
map = nil
Session:save_state ("")
close_session ()
