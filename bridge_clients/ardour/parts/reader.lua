-- From the timeline to a float WAV, a slice at a time: packed in blocks, 192,000 stereo frames took 0.34 s in one
-- go value by value, which the editor must never wait for.
local reader = {}
local BLOCK = 2048
local PACK = {}
local function pack_all (t, n)
	local out = {}
	for at = 1, n, 512 do
		local k = math.min (512, n - at + 1)
		PACK[k] = PACK[k] or "<" .. ("f"):rep (k)
		out[#out + 1] = string.pack (PACK[k], table.unpack (t, at, at + k - 1))
	end
	return table.concat (out)
end
function reader.open (path, sound, rate)
	local f = assert (io.open (path, "wb"))
	local n, c = sound.to - sound.from, sound.channels
	f:write ("RIFF", string.pack ("<I4", 36 + n * c * 4), "WAVEfmt ",
		string.pack ("<I4I2I2I4I4I2I2", 16, 3, c, rate, rate * c * 4, c * 4, 32), "data", string.pack ("<I4", n * c * 4))
	return { file = f, sound = sound, at = sound.from, shm = { ARDOUR.DSP.DspShm (BLOCK), ARDOUR.DSP.DspShm (BLOCK), ARDOUR.DSP.DspShm (BLOCK) } }
end
-- One region's own samples at its own gain, without its fades: an edge faded to nothing is no music to go on from.
local function read_region (state, id, from, n, channel)
	local r = ARDOUR.RegionFactory.region_by_id (PBD.ID (id))
	if r:isnil () then error ("What was selected is no longer there.", 0) end
	local ar = r:to_audioregion ()
	local lo = math.max (from, r:position ():samples ())
	local hi = math.min (from + n, r:position ():samples () + r:length ():samples ())
	if hi <= lo then return nil end
	local floats = state.shm[1]:to_float (0)
	local got = ar:to_readable ():read (floats, lo - r:position ():samples (), hi - lo, math.min (channel, ar:n_channels () - 1))
	if got < hi - lo then error ("Ardour could not read the audio of the region “" .. r:name () .. "”.", 0) end
	return floats:get_table (hi - lo), lo - from, hi - lo, ar:scale_amplitude ()
end
-- A track as it sounds before its fader and plugins: layers, fades, gains.
local function read_playlist (state, id, from, n, channel)
	local pl = Session:playlists ():by_id (PBD.ID (id))
	if pl:isnil () then error ("The track that was selected is no longer there.", 0) end
	local floats = state.shm[1]:to_float (0)
	pl:to_audioplaylist ():read (floats, state.shm[2]:to_float (0), state.shm[3]:to_float (0),
		Temporal.timepos_t (from), Temporal.timecnt_t (n), channel)
	return floats:get_table (n), 0, n, 1
end
local function block (state, from, n)
	local sound, columns = state.sound, {}
	for c = 1, sound.channels do
		local column
		for _, piece in ipairs (sound.pieces) do
			local t, skip, count, gain
			if piece.region then
				t, skip, count, gain = read_region (state, piece.region, from, n, c - 1)
			else
				t, skip, count, gain = read_playlist (state, piece.playlist, from, n, c - 1)
			end
			if t and not column and skip == 0 and count == n and gain == 1 then
				column = t
			elseif t then
				if not column then
					column = {}
					for i = 1, n do column[i] = 0.0 end
				end
				for i = 1, count do column[skip + i] = column[skip + i] + t[i] * gain end
			end
		end
		if not column then
			column = {}
			for i = 1, n do column[i] = 0.0 end
		end
		columns[c] = column
	end
	if sound.channels == 1 then return pack_all (columns[1], n) end
	local l, r, both = columns[1], columns[2], {}
	for i = 1, n do
		both[2 * i - 1] = l[i]
		both[2 * i] = r[i]
	end
	return pack_all (both, 2 * n)
end
-- Go on until the clock says `until_us`; true when the file is whole.
function reader.go_on (state, until_us)
	local sound = state.sound
	repeat
		local n = math.min (BLOCK, sound.to - state.at)
		if n > 0 then assert (state.file:write (block (state, state.at, n))) end
		state.at = state.at + n
	until state.at >= sound.to or ARDOUR.LuaAPI.monotonic_time () >= until_us
	if state.at < sound.to then return false end
	assert (state.file:close ())
	return true
end
function reader.close (state) pcall (function () state.file:close () end) end
