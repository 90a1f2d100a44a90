-- What a test does in the editor in place of a user's hands and eyes.
drive = {}
local function esc (s) return '"' .. s:gsub ('[%c"\\]', function (c) return string.format ("\\u%04x", c:byte ()) end) .. '"' end
function drive.import (path, at)
	local list = C.StringVector ()
	list:push_back (path)
	Editor:do_import (list, Editing.ImportDistinctFiles, Editing.ImportAsTrack, ARDOUR.SrcQuality.SrcBest,
		ARDOUR.MidiTrackNameSource.SMFTrackName, ARDOUR.MidiTempoMapDisposition.SMFTempoIgnore,
		Temporal.timepos_t (at), ARDOUR.PluginInfo (), ARDOUR.Track (), false)
end
local function all (list)
	local found = {}
	for x in list:iter () do found[#found + 1] = x end
	return found
end
local function each (f)
	for _, t in ipairs (all (Session:get_tracks ())) do
		local on = t:to_track ():playlist ():to_stateful ():id ():to_s ()
		for _, p in ipairs (all (Session:playlists ():playlists_for_track (t:to_track ()))) do
			for _, r in ipairs (all (p:region_list ())) do f (t, p, r, p:to_stateful ():id ():to_s () == on) end
		end
	end
end
function drive.pick (...)
	local list = ArdourUI.SelectionList ()
	local wanted = { ... }
	each (function (_, _, r, active)
		for _, name in ipairs (wanted) do
			if active and r:name () == name then list:push_back (Editor:regionview_from_region (r)) end
		end
	end)
	Editor:set_selection (list, ArdourUI.SelectionOp.Set)
end
-- a time range over all tracks
function drive.range (from, to)
	drive.pick ()
	Editor:set_loop_range (Temporal.timepos_t (from), Temporal.timepos_t (to), "loop")
	Editor:access_action ("Editor", "select-loop-range")
	Editor:select_all_tracks ()
end
function drive.regions ()
	local out = {}
	each (function (t, p, r, active)
		local ar = r:to_audioregion ()
		out[#out + 1] = string.format (
			'{"track":%s,"playlist":%s,"active":%s,"name":%s,"position":%d,"length":%d,"start":%d,"channels":%d,"file":%s,"fade_in":%s,"fade_out":%s,"sync":%d}',
			esc (t:name ()), esc (p:name ()), tostring (active), esc (r:name ()), r:position ():samples (), r:length ():samples (),
			r:start ():samples (), ar:n_channels (), esc (r:source (0):to_filesource ():path ()),
			tostring (ar:fade_in_active ()), tostring (ar:fade_out_active ()), r:sync_position ():samples ())
	end)
	return "[" .. table.concat (out, ",") .. "]"
end
function drive.marks ()
	local out = {}
	for _, l in ipairs (all (Session:locations ():list ())) do
		out[#out + 1] = string.format ('{"name":%s,"start":%d,"end":%d}', esc (l:name ()), l:start ():samples (), l:_end ():samples ())
	end
	return "[" .. table.concat (out, ",") .. "]"
end
-- a region's samples as raw floats, channel after channel
function drive.dump (name, path)
	each (function (_, _, r)
		if r:name () ~= name then return end
		local ar, f, n = r:to_audioregion (), io.open (path, "wb"), r:length ():samples ()
		local shm = ARDOUR.DSP.DspShm (8192)
		for c = 0, ar:n_channels () - 1 do
			for at = 0, n - 1, 8192 do
				local k = math.min (8192, n - at)
				ar:to_readable ():read (shm:to_float (0), at, k, c)
				local t = shm:to_float (0):get_table (k)
				for i = 0, k - 1, 200 do
					local m = math.min (200, k - i)
					f:write (string.pack ("<" .. ("f"):rep (m), table.unpack (t, i + 1, i + m)))
				end
			end
		end
		f:close ()
	end)
end
