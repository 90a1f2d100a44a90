ardour {
	["type"]    = "EditorHook",
	name        = "Segue: jobs",
	license     = "MIT",
	author      = "Segue",
	description = [[Does the work of Segue's actions, a little at a time: without it nothing comes.]]
}
-- Put together by bridge_clients/ardour/compose.py from bridge_clients/ardour/parts: change those.
function signals () return LuaSignal.Set ():add ({ [LuaSignal.LuaTimerDS] = true }) end
function factory ()
-- JSON, because Ardour's Lua can load no library. null is json.null; arrays are tables made by json.array.
local json = {}
json.null = setmetatable ({}, { __tostring = function () return "null" end })
local ARRAY = {}
function json.array (t) return setmetatable (t or {}, ARRAY) end

local ESCAPES = { ['"'] = '\\"', ["\\"] = "\\\\", ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t" }
local function quoted (s)
	return '"' .. s:gsub ('[%c"\\\127]', function (c)
		return ESCAPES[c] or string.format ("\\u%04x", c:byte ())
	end) .. '"'
end

function json.write (v)
	local kind = type (v)
	if v == json.null then return "null" end
	if kind == "string" then return quoted (v) end
	if kind == "boolean" then return tostring (v) end
	if kind == "number" then
		if math.type (v) == "integer" then return string.format ("%d", v) end
		if v ~= v or v == math.huge or v == -math.huge then error ("not a number that JSON can say") end
		-- a decimal comma would come from the user's locale
		return (string.format ("%.17g", v):gsub (",", "."))
	end
	if kind ~= "table" then error ("JSON cannot say a " .. kind) end
	local out = {}
	if getmetatable (v) == ARRAY then
		for i = 1, #v do out[i] = json.write (v[i]) end
		return "[" .. table.concat (out, ",") .. "]"
	end
	for k, x in pairs (v) do out[#out + 1] = quoted (tostring (k)) .. ":" .. json.write (x) end
	table.sort (out)
	return "{" .. table.concat (out, ",") .. "}"
end

local PLAIN = { ['"'] = '"', ["\\"] = "\\", ["/"] = "/", b = "\b", f = "\f", n = "\n", r = "\r", t = "\t" }
local function read_string (s, at)
	local out, from = {}, at + 1
	while true do
		local i = s:find ('["\\]', from)
		if not i then error ("JSON: a text without an end") end
		out[#out + 1] = s:sub (from, i - 1)
		if s:byte (i) == 34 then return table.concat (out), i + 1 end
		local c = s:sub (i + 1, i + 1)
		if c == "u" then
			local code = tonumber (s:match ("^%x%x%x%x", i + 2) or error ("JSON: a broken \\u"), 16)
			from = i + 6
			if code >= 0xD800 and code < 0xDC00 then
				local low = tonumber (s:match ("^\\u(%x%x%x%x)", from) or "0", 16)
				if low >= 0xDC00 and low < 0xE000 then
					code, from = 0x10000 + (code - 0xD800) * 0x400 + (low - 0xDC00), from + 6
				end
			end
			if code >= 0xD800 and code < 0xE000 then code = 0xFFFD end
			out[#out + 1] = utf8.char (code)
		else
			out[#out + 1] = PLAIN[c] or error ("JSON: a broken escape")
			from = i + 2
		end
	end
end

local read_value
local function read_list (s, at, close, one)
	at = s:match ("^%s*()", at + 1)
	if s:sub (at, at) == close then return at + 1 end
	while true do
		at = one (at)
		at = s:match ("^%s*()", at)
		local c = s:sub (at, at)
		if c == close then return at + 1 end
		if c ~= "," then error ("JSON: expected , or " .. close) end
		at = s:match ("^%s*()", at + 1)
	end
end
local WORDS = { ["true"] = true, ["false"] = false }
function read_value (s, at, depth)
	if depth > 32 then error ("JSON: too deep") end
	at = s:match ("^%s*()", at)
	local c = s:sub (at, at)
	if c == '"' then return read_string (s, at) end
	if c == "{" then
		local t = {}
		return t, read_list (s, at, "}", function (i)
			if s:sub (i, i) ~= '"' then error ("JSON: expected a name") end
			local k, v
			k, i = read_string (s, i)
			i = s:match ("^%s*:()", i) or error ("JSON: expected :")
			v, i = read_value (s, i, depth + 1)
			if v ~= json.null then t[k] = v end
			return i
		end)
	end
	if c == "[" then
		local t = json.array ()
		return t, read_list (s, at, "]", function (i)
			t[#t + 1], i = read_value (s, i, depth + 1)
			return i
		end)
	end
	local word = s:match ("^%a+", at)
	if word == "null" then return json.null, at + 4 end
	if WORDS[word] ~= nil then return WORDS[word], at + #word end
	local digits = s:match ("^-?%d+%.?%d*[eE]?[+-]?%d*", at)
	if not digits then error ("JSON: nothing that can be read") end
	return math.tointeger (tonumber (digits)) or tonumber (digits), at + #digits
end
-- The value of a JSON text, or nil and why.
function json.read (s)
	local ok, v, at = pcall (read_value, s, 1, 0)
	if not ok then return nil, v end
	if s:match ("^%s*()", at) <= #s then return nil, "JSON: more after the end" end
	return v
end
-- Where things lie. All of a session's jobs are in its own folder, so that they come back with the session.
local files = {}
-- The items of one of Ardour's lists. Its own iterators do not keep the list they walk: a list that nothing else
-- holds is collected in the middle of the loop, and Ardour ends with it (it did).
local function all (list)
	local found = {}
	for x in list:iter () do found[#found + 1] = x end
	return found
end
function files.join (...) return (table.concat ({ ... }, "/"):gsub ("//+", "/")) end
function files.home () return files.join (Session:path (), "segue") end
function files.read (path)
	local f = io.open (path, "rb")
	if not f then return nil end
	local s = f:read ("a")
	f:close ()
	return s
end
function files.exists (path)
	local f = io.open (path, "rb")
	if f then f:close () end
	return f ~= nil
end
-- Whole or not at all: written beside, then renamed.
function files.write (path, text)
	local f, why = io.open (path .. ".new", "wb")
	if not f then return nil, why end
	local ok = f:write (text)
	ok = f:close () and ok
	if not ok then os.remove (path .. ".new"); return nil, "the disk took only part of it" end
	return os.rename (path .. ".new", path)
end
function files.read_json (path)
	local s = files.read (path)
	if not s then return nil end
	return json.read (s)
end
function files.append (path, line)
	local f, why = io.open (path, "ab")
	if not f then return nil, why end
	f:write (line, "\n")
	return f:close ()
end
-- 32 hex digits that nobody guesses.
function files.random_name ()
	local f = io.open ("/dev/urandom", "rb")
	if not f then error ("Segue: this system has no /dev/urandom") end
	local s = f:read (16)
	f:close ()
	return (s:gsub (".", function (c) return string.format ("%02x", c:byte ()) end))
end
-- `segue install ardour` writes the command's absolute path beside the scripts.
function files.command ()
	local found = files.read (files.join (ARDOUR.user_config_directory (-1), "scripts", "segue-command.txt"))
	return found and found:match ("^(/[^\r\n]+)")
end
-- Start a program with its arguments as they are: no shell looks at them, and nobody waits for it.
function files.start (...) os.forkexec (...) end
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
-- Finished takes onto the timeline. What Ardour cannot undo (a new track, a new playlist, a file brought in) is
-- done first, one at a time; what the user sees as the landing is one undo step at the end.
local land = {}
local AUDIO = ARDOUR.DataType ("audio")
local function whole_file_region (path)
	local name = path:match ("([^/]+)%.[^.]*$") or path
	local regions = ARDOUR.RegionFactory.regions ()
	for _, r in regions:iter () do
		if r:name ():sub (1, #name) == name and r:whole_file () then
			local source = r:source (0):to_filesource ()
			if not source:isnil () and source:path () == path then return r end
		end
	end
end
-- Where the file lies: it is at the session's rate, so that nothing is converted (an import that converts gave
-- 192,001 samples for 192,000), and in the session's own folder, so that it moves with the session.
local function bring_in (path)
	local known = whole_file_region (path)
	if known then return known end
	local list = C.StringVector ()
	list:push_back (path)
	local args = { list, Editing.ImportDistinctFiles, Editing.ImportAsRegion, Temporal.timepos_t (0), ARDOUR.PluginInfo () }
	-- Ardour makes an undo step of it in which nothing is done: inside one of ours, which is dropped, it makes none
	Session:begin_reversible_command ("Segue: file")
	-- Ardour 7 wants a track as well; later versions may not (not tried there)
	local ok = pcall (function () Editor:do_embed (args[1], args[2], args[3], args[4], args[5], ARDOUR.Track ()) end)
		or pcall (function () Editor:do_embed (table.unpack (args)) end)
	if not Session:abort_empty_reversible_command () then Session:commit_reversible_command (nil) end
	if not ok then error ("Ardour cannot bring in a file from Lua here.", 0) end
	return whole_file_region (path) or error ("Ardour did not take the file " .. path, 0)
end
local function track_named (name)
	local r = Session:route_by_name (name)
	if r:isnil () or r:to_track ():isnil () or r:to_track ():playlist ():to_audioplaylist ():isnil () then return nil end
	return r:to_track ()
end
local function is_free (playlist, from, to)
	return playlist:regions_touched (Temporal.timepos_t (from), Temporal.timepos_t (to)):empty ()
end
local function playlist_by (id) return Session:playlists ():by_id (PBD.ID (id)) end
local function id_of (thing) return thing:to_stateful ():id ():to_s () end

-- "Bass segue", "Bass segue drums", and with a track each "Bass segue 2": a take of a take stays where it is.
local function home_of (order, take)
	local name = order.track:gsub ("^segue.*$", ""):gsub (" segue .*$", ""):gsub (" segue$", "")
	name = name == "" and "segue" or name .. " segue"
	if take.stem ~= "mix" then name = name .. " " .. take.stem end
	if order.takes == "tracks" and take.variation > 1 then name = name .. " " .. take.variation end
	return name
end
function land.plan (order, done)
	local takes, stems = {}, false
	for _, t in ipairs (done.takes) do stems = stems or t.stem ~= "mix" end
	for _, t in ipairs (done.takes) do
		-- the sum of the stems beside the stems would sound twice
		if not (stems and t.stem == "mix") then takes[#takes + 1] = t end
	end
	table.sort (takes, function (a, b)
		if a.variation ~= b.variation then return a.variation < b.variation end
		return a.stem < b.stem
	end)
	return { takes = takes, at = 1, seed = done.seed }
end
local function extent (order, take)
	local at = order.seam + take.position
	local before, after = 0, 0
	if order.crossfade then
		before = math.min (take.handle_frames, at)
		if order.mode == "fill" then after = take.tail_frames or 0 end
	end
	return at, before, after
end
-- One thing per call, which `plan.did` names; true when everything is ready for `land.finish`.
function land.prepare (order, plan)
	-- all files before any track: to bring one in waits until everything is drawn, and a new track draws much
	for _, t in ipairs (plan.takes) do
		if not t.region then
			plan.did = "file"
			t.region = id_of (bring_in (t.file))
			return false
		end
	end
	local take = plan.takes[plan.at]
	if not take then return true end
	plan.did = "place"
	local at = extent (order, take)
	local name = home_of (order, take)
	local track = track_named (name)
	if not track then
		-- Ardour's own work of a tenth of a second, once for each new track, as when the user adds one
		local made = Session:new_audio_track (take.channels, math.max (2, take.channels), nil, 1, name,
			ARDOUR.PresentationInfo.max_order, ARDOUR.TrackMode.Normal, true)
		if made:empty () then error ("Ardour could not add a track.", 0) end
		plan.did = "track"
		return false
	end
	plan.used = plan.used or {}
	local playlist = track:playlist ()
	if plan.used[id_of (playlist)] or not is_free (playlist, at, at + take.frames) then
		plan.first = plan.first or {}
		if plan.used[id_of (playlist)] and not plan.first[name] then plan.first[name] = id_of (playlist) end
		plan.did = "playlist"
		track:use_new_playlist (AUDIO)
		playlist = track:playlist ()
	end
	plan.used[id_of (playlist)] = true
	take.playlist = id_of (playlist)
	plan.at = plan.at + 1
	return false
end
local function fade (region, which, samples)
	local ar = region:to_audioregion ()
	if ar:isnil () then return end
	ar["set_fade_" .. which .. "_active"] (ar, samples > 0)
	if samples > 0 then
		ar["set_fade_" .. which .. "_shape"] (ar, ARDOUR.FadeShape.FadeConstantPower)
		ar["set_fade_" .. which .. "_length"] (ar, samples)
	end
end
function land.title (order, take)
	local name = "segue " .. order.mode .. " v" .. take.variation .. " seed " .. tostring (take.seed)
	return take.stem == "mix" and name or name .. " " .. take.stem
end
-- The source with another fade is another region in its place: Ardour 7 undoes a change of the regions of a
-- playlist, but not one of a fade that its Lua has set.
local function replace (playlist, id, which, samples)
	local old = ARDOUR.RegionFactory.region_by_id (PBD.ID (id))
	local new = ARDOUR.RegionFactory.clone_region (old, true, false)
	new:set_name (old:name ())
	fade (new, which, math.min (samples, old:length ():samples () - 1))
	playlist:remove_region (old)
	playlist:add_region (new, old:position (), 1, false, 0, 0, false)
	return id_of (new)
end
-- Everything in one undo step; gives the ids of the regions, and of those that took the place of others.
function land.finish (order, plan)
	local ids, replaced = json.array (), {}
	local work, names = {}, {}
	local function on (id)
		if not work[id] then work[id], names[#names + 1] = { takes = {}, fades = {} }, id end
		return work[id]
	end
	local _, before, after = extent (order, plan.takes[1])
	local function neighbour (id, which, samples)
		local r = id and samples > 0 and ARDOUR.RegionFactory.region_by_id (PBD.ID (id))
		if not r or r:isnil () or r:playlist ():isnil () then return end
		local playlist = r:playlist ()
		-- an undo or a cut may have taken it away meanwhile
		if playlist:region_by_id (PBD.ID (id)):isnil () then return end
		table.insert (on (id_of (playlist)).fades, { id = id, which = which, samples = samples })
	end
	neighbour (order.fade_out, "out", before)
	neighbour (order.fade_in, "in", after)
	for _, t in ipairs (plan.takes) do table.insert (on (t.playlist).takes, t) end
	Session:begin_reversible_command ("Segue: " .. order.mode)
	local ok, why = pcall (function ()
		for _, id in ipairs (names) do
			local playlist = playlist_by (id)
			playlist:to_stateful ():clear_changes ()
			for _, f in ipairs (work[id].fades) do replaced[f.id] = replace (playlist, f.id, f.which, f.samples) end
			for _, t in ipairs (work[id].takes) do
				local whole = ARDOUR.RegionFactory.region_by_id (PBD.ID (t.region))
				local region = ARDOUR.RegionFactory.clone_region (whole, true, false)
				local at, lead, tail = extent (order, t)
				region:set_initial_position (Temporal.timepos_t (at - t.handle_frames))
				region:trim_to (Temporal.timepos_t (at - lead), Temporal.timecnt_t (lead + t.frames + tail))
				region:set_name (land.title (order, t))
				fade (region, "in", lead)
				if tail > 0 then fade (region, "out", tail) end
				if lead > 0 then region:set_sync_position (Temporal.timepos_t (at)) end
				playlist:add_region (region, Temporal.timepos_t (at - lead), 1, false, 0, 0, false)
				ids[#ids + 1] = id_of (region)
			end
			Session:add_stateful_diff_command (playlist:to_statefuldestructible ())
		end
	end)
	if not ok then
		Session:abort_reversible_command ()
		error (why, 0)
	end
	if not Session:abort_empty_reversible_command () then Session:commit_reversible_command (nil) end
	for name, id in pairs (plan.first or {}) do
		local track = track_named (name)
		if track then track:use_playlist (AUDIO, playlist_by (id), false) end
	end
	return ids, replaced
end
-- What the hook does with each job, a little per tick: read the audio, start `segue job`, follow it, land its
-- takes. All it knows of a job is on disk, so that it goes on after Ardour was closed or has crashed.
local jobs = { open = {}, offset = 0, turns = 0, longest_us = 0, longest_in = "", longest_add_us = 0, waiting_us = 0 }
local TURN_US = 12000 -- go on no longer than so at a time; the user feels 50 ms
local now = ARDOUR.LuaAPI.monotonic_time
local function path (...) return files.join (files.home (), ...) end

-- Progress as a range over the place where the take will lie: Ardour's Lua has no window that is not modal.
local function mark (job, text)
	text = "segue " .. text:gsub ("[%c]+", " "):sub (1, 160)
	if text == job.mark_text then return end
	local list = Session:locations ()
	if job.mark_text then
		for _, l in ipairs (all (list:list ())) do
			if l:name () == job.mark_text then l:set_name (text); job.mark_text = text; return end
		end
		return -- the user took it away
	end
	local o = job.order
	local l = list:add_range (Temporal.timepos_t (o.first), Temporal.timepos_t (o.first + o.frames))
	if l then l:set_name (text) end
	job.mark_text = text
end
local function unmark (text)
	for _, l in ipairs (all (Session:locations ():list ())) do
		if l:name () == text then Session:locations ():remove (l); return end
	end
end

local function close (job)
	if job.reader then reader.close (job.reader) end
	os.remove (path ("orders", job.name .. ".json"))
	os.remove (path ("orders", job.name .. ".cancel"))
	if job.mark_text and not job.failed then unmark (job.mark_text) end
	files.start ("/bin/rm", "-rf", "--", job.folder)
	job.step = nil
end
local function fail (job, why)
	job.failed = true
	print ("Segue: " .. why)
	mark (job, "failed: " .. why)
	jobs.failed = { text = job.mark_text, at = now () }
	close (job)
end

-- Where Ardour keeps this session's audio, so that takes move with it: named after the session's folder as a rule,
-- after its name if it was renamed; else a folder of our own, never the job's, which is deleted.
local function takes_folder ()
	local dir = ARDOUR.LuaAPI.FileTest.IsDir
	for _, name in ipairs { Session:path ():match ("([^/]+)/*$"), Session:name () } do
		local folder = files.join (Session:path (), "interchange", name, "audiofiles")
		if ARDOUR.LuaAPI.file_test (folder, dir) then return folder end
	end
	return path ("takes")
end

local steps = {}
function steps.make (job)
	files.start ("/bin/mkdir", "-m", "700", job.folder)
	job.step, job.wait = "made", 0
end
function steps.made (job)
	local f = io.open (job.folder .. "/.host", "wb")
	if f then
		f:close ()
		job.step, job.sound = "read", 1
	else
		job.wait = job.wait + 1
		if job.wait > 50 then error ("The folder for the job could not be made in the session's folder.", 0) end
	end
end
function steps.read (job, until_us)
	mark (job, "reading")
	local sound = job.order.audio[job.sound]
	if sound then
		job.reader = job.reader or reader.open (job.folder .. "/" .. sound.file, sound, job.order.rate)
		if reader.go_on (job.reader, until_us) then job.reader, job.sound = nil, job.sound + 1 end
		return
	end
	local r = job.order.request
	r.version, r.host, r.key = 1, "ardour " .. tostring (ARDOUR.revision or ""), job.name
	r.audio = json.array ()
	for i, s in ipairs (job.order.audio) do
		r.audio[i] = { file = s.file, role = s.role, position = s.position, stem = s.stem, track = s.track }
	end
	r.takes_folder, r.takes_name = takes_folder (), "segue-" .. job.name:sub (1, 12)
	assert (files.write (job.folder .. "/request.json", json.write (r)))
	job.step = "start"
end
function steps.start (job)
	local command = files.command ()
	if not command then error ("Where the segue command is, is not known here: run “segue install ardour” in a terminal.", 0) end
	files.start (command, "job", job.folder)
	job.started, job.step, job.line, job.heard = now (), "follow", job.line or 0, now ()
end
local function percent (e)
	if (e.total or 0) > 0 then return string.format ("%d %%", math.floor (100 * (e.done or 0) / e.total)) end
	return e.state or ""
end
local function heard (job, e)
	if e.event == "tick" then
		local text = percent (e)
		if e.eta_s and e.eta_s > 0 then text = text .. string.format (", %d s", math.ceil (e.eta_s)) end
		if e.message then text = text .. " · " .. e.message end
		mark (job, text)
	elseif e.event == "note" and e.message then
		print ("Segue: " .. e.message)
		mark (job, e.message)
	end
end
-- Whether the process that does the job is there: its beat is another text each second, or /proc has it.
local function alive (job)
	local beat = files.read (job.folder .. "/heartbeat")
	if beat and beat ~= job.beat then
		job.beat, job.heard = beat, now ()
		return true
	end
	if now () - job.heard < 5e6 then return true end
	local pid = beat and beat:match ("%d+")
	local stat = pid and files.read ("/proc/" .. pid .. "/stat")
	if stat and not stat:match ("%) Z") then return true end
	return not pid and now () - job.started < 30e6
end
function steps.follow (job, until_us)
	local f = io.open (job.folder .. "/progress", "rb")
	local e
	if f then
		f:seek ("set", job.line)
		local text = f:read (65536) or ""
		f:close ()
		for line in text:gmatch ("([^\n]*)\n") do
			job.line = job.line + #line + 1
			e = json.read (line)
			if e and e.event then heard (job, e) end
			if now () > until_us then return end
		end
	end
	local done = not e and files.read_json (job.folder .. "/done")
	if not done then
		if not alive (job) then
			print ("Segue: the program that does the job ended; it is started again.")
			job.step = "start"
		end
		return
	end
	if done.state == "cancelled" then
		print ("Segue: cancelled.")
		close (job)
	elseif done.state ~= "done" then
		fail (job, done.message or "the job failed")
	else
		job.plan = land.plan (job.order, done)
		job.done, job.step = done, "prepare"
		for _, t in ipairs (job.plan.takes) do
			if t.file:sub (1, 1) ~= "/" then t.file = job.folder .. "/" .. t.file end
		end
		mark (job, "landing")
		if #job.plan.takes == 0 then error ("There is no take in what came back.", 0) end
	end
end
function steps.prepare (job)
	if land.prepare (job.order, job.plan) then job.step = "finish" end
end
function steps.finish (job)
	local ids, replaced = land.finish (job.order, job.plan)
	for _, sound in ipairs (job.order.audio) do
		for _, piece in ipairs (sound.pieces) do piece.region = piece.region and (replaced[piece.region] or piece.region) end
	end
	for _, key in ipairs { "fade_out", "fade_in" } do
		local old = job.order[key]
		job.order[key] = old and (replaced[old] or old)
	end
	files.append (path ("history"), json.write ({ time = os.time (), name = job.name, regions = ids,
		seed = job.done.seed, job = job.done.job, settings = job.done.settings, order = job.order }))
	close (job)
end

local function take_up (name)
	local order = files.read_json (path ("orders", name .. ".json"))
	if not order or order.name ~= name then return end
	local job = { name = name, order = order, folder = path ("jobs", name), step = "make" }
	-- after Ardour was closed or crashed: what was asked already goes on where it is
	if files.exists (job.folder .. "/request.json") then job.step = "start" end
	if job.step == "make" and files.exists (job.folder .. "/.host") then job.step, job.sound = "read", 1 end
	jobs.open[#jobs.open + 1] = job
end
local function look_at_queue ()
	local f = io.open (path ("queue"), "rb")
	if not f then return end
	local size = f:seek ("end")
	if size > jobs.offset then
		f:seek ("set", jobs.offset)
		for name in f:read ("a"):gmatch ("([^\n]*)\n") do
			jobs.offset = jobs.offset + #name + 1
			if name:match ("^%x+$") and #name == 32 then take_up (name) end
		end
	end
	f:close ()
	if #jobs.open == 0 and size > 0 and size == jobs.offset then
		os.remove (path ("queue"))
		jobs.offset = 0
	end
end
local function begin ()
	files.start ("/bin/mkdir", "-p", path ("orders"), path ("jobs"), path ("takes"))
	-- marks of jobs that a crash left behind
	local left = {}
	for _, l in ipairs (all (Session:locations ():list ())) do
		if l:is_range_marker () and l:name ():sub (1, 6) == "segue " then left[#left + 1] = l:name () end
	end
	for _, text in ipairs (left) do unmark (text) end
	jobs.offset, jobs.open, jobs.of, jobs.beaten = 0, {}, Session:path (), false
end
local function beat ()
	jobs.turns = jobs.turns + 1
	if jobs.beaten and jobs.turns % 10 ~= 0 then return end
	jobs.beaten = files.write (path ("hook.json"), json.write ({ time = os.time (), turns = jobs.turns, open = #jobs.open,
		longest_ms = jobs.longest_us / 1000, longest_in = jobs.longest_in, longest_with_waiting_ms = jobs.waiting_us / 1000,
		longest_add_track_ms = jobs.longest_add_us / 1000 }))
end
-- How long Linux kept this thread waiting for a processor so far: what others took is not what a turn took.
local function waited_us ()
	local text = files.read ("/proc/thread-self/schedstat")
	return text and (tonumber (text:match ("^%d+ (%d+)")) or 0) // 1000 or 0
end
function jobs.turn ()
	local t0, waited, did = now (), waited_us (), ""
	if jobs.of ~= Session:path () then begin () end
	beat ()
	look_at_queue ()
	if jobs.failed and t0 - jobs.failed.at > 60e6 then
		unmark (jobs.failed.text)
		jobs.failed = nil
	end
	local added = false
	for i = #jobs.open, 1, -1 do
		local job = jobs.open[i]
		if job.step and now () - t0 < TURN_US then
			if job.step ~= "follow" and files.exists (path ("orders", job.name .. ".cancel"))
				and job.step ~= "prepare" and job.step ~= "finish" then
				close (job)
			else
				did = did .. job.step .. " "
				local ok, why = pcall (steps[job.step], job, t0 + TURN_US)
				if not ok then fail (job, tostring (why)) end
				if job.plan and job.plan.did then
					added, did, job.plan.did = added or job.plan.did == "track", did .. job.plan.did .. " ", nil
				end
			end
		end
		if not job.step then table.remove (jobs.open, i) end
	end
	local took = now () - t0
	local alone = took - (waited_us () - waited)
	if added then
		jobs.longest_add_us = math.max (jobs.longest_add_us, alone)
	else
		if alone > jobs.longest_us then jobs.longest_us, jobs.longest_in = alone, did end
		jobs.waiting_us = math.max (jobs.waiting_us, took)
	end
end
	local busy = false
	return function ()
		-- a dialog of Ardour's runs the clock on while a turn waits for it
		if busy then return end
		busy = true
		local ok, why = pcall (jobs.turn)
		busy = false
		if not ok then print ("Segue: " .. tostring (why)) end
	end
end
