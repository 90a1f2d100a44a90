ardour {
	["type"]    = "EditorAction",
	name        = "Segue: Fill range",
	license     = "MIT",
	author      = "Segue",
	description = [[Fill the selected time range, or the gap between two selected regions.]]
}
-- Put together by bridge_clients/ardour/compose.py from bridge_clients/ardour/parts: change those.
function factory () return function ()
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
-- What a musician may set. Kept with the session in segue/settings.json; the last ones are the next session's first.
local settings = {}
settings.DEFAULTS = {
	text = "", negative_text = "", model = "", bars = 4, variations = 2, start = "edge", loop = false,
	strength = 0.5, stems = false, takes = "playlists", crossfade = true, level = "match", handle_ms = 80,
	prompt_s = 30, seed = "", cfg_coef = "", temperature = "", priority = "interactive",
}
local function common () return files.join (ARDOUR.user_config_directory (-1), "segue-settings.json") end
function settings.read ()
	local kept = files.read_json (files.join (files.home (), "settings.json")) or files.read_json (common ()) or {}
	local s = {}
	for k, v in pairs (settings.DEFAULTS) do
		s[k] = v
		if type (kept[k]) == type (v) then s[k] = kept[k] end
	end
	return s
end
function settings.write (s)
	local text = json.write (s)
	files.write (common (), text)
	return files.write (files.join (files.home (), "settings.json"), text)
end
-- Ardour's tempo map as the wire wants it. Ardour 7 lists no points; each question "which point holds here"
-- names the point, so asking just before it again walks the whole map back to its origin.
local tempo = {}
local PULSE = Temporal.ticks_per_beat -- 1920 to a quarter note
local function at_ticks (n) return Temporal.timepos_t.from_ticks (n) end
-- Ardour 7.3 tells a beat count only as text, "beats:ticks"; later ones have to_ticks (not tried there).
local function ticks_of (beats)
	local b, t = beats:str ():match ("^(-?%d+):(%d+)$")
	if b then return tonumber (b) * PULSE + tonumber (t) end
	return beats:to_ticks ()
end
tempo.ticks_of = ticks_of
function tempo.ticks_at (map, sample) return ticks_of (map:quarters_at (Temporal.timepos_t (sample))) end
function tempo.sample_at (ticks) return at_ticks (ticks):samples () end

local function gcd (a, b)
	while b ~= 0 do a, b = b, a % b end
	return a
end
-- "n/d" within what the wire takes (12 and 9 digits), else the nearest double.
local function ratio (n, d)
	if d < 0 then n, d = -n, -d end
	local g = gcd (math.abs (n), d)
	n, d = n // g, d // g
	if d == 1 then return n end
	if math.abs (n) < 1000000000000 and d < 1000000000 then return string.format ("%d/%d", n, d) end
	return n / d
end

-- Points of one kind from the origin to `last` ticks, ascending.
local function points (last, of)
	local found, at = {}, last
	repeat
		local p = of (at)
		p.ticks = math.max (0, math.min (p.ticks, at))
		table.insert (found, 1, p)
		at = p.ticks - 1
	until p.ticks <= 0 or #found > 4000
	return found
end
-- The map's points from the origin to `last` samples.
local function grid (last)
	local map = Temporal.TempoMap.read ()
	local g = { clock = Temporal.superclock_ticks_per_second (), rate = Session:nominal_sample_rate () }
	g.last = tempo.ticks_at (map, last)
	-- asked exactly at a change Ardour 7.3 names the point before it, so both ask one tick later
	g.tempi = points (g.last, function (t)
		local p = map:tempo_at (at_ticks (t + 1))
		local whole = p:to_tempo ()
		-- Ardour keeps a whole number of clock ticks a note; its bpm is only a view of that
		local note = math.floor (g.clock * 60 / whole:note_types_per_minute () + 0.5)
		local kind = math.tointeger (whole:note_type ())
		return { ticks = ticks_of (p:to_point ():beats ()), clock = p:to_point ():sclock (), note = note, kind = kind }
	end)
	g.meters = points (g.last, function (t)
		local p = map:meter_at (at_ticks (t + 1))
		return { ticks = ticks_of (p:to_point ():beats ()), beats = p:divisions_per_bar (), unit = p:note_value () }
	end)
	for i, p in ipairs (g.tempi) do
		p.quarter = p.note * p.kind / 4
		p.sample = tempo.sample_at (p.ticks)
		-- a ramp is told by where its end really lies: constant tempo would put it elsewhere
		local upto = g.tempi[i + 1] and g.tempi[i + 1].ticks or g.last
		local flat = p.sample + (upto - p.ticks) * p.quarter / PULSE / g.clock * g.rate
		p.ramp = math.abs (tempo.sample_at (upto) - flat) > 2
	end
	return g
end
local function holding (list, key, value)
	local found = list[1]
	local after
	for i, p in ipairs (list) do
		if p[key] <= value then found, after = p, list[i + 1] end
	end
	return found, after or (found == list[1] and list[2]) or nil
end
-- Ticks of a sample and back, finer than a tick (12 samples and a half at 120): a seam may lie anywhere.
local function fine_ticks (g, sample)
	local p = holding (g.tempi, "sample", sample)
	if p.ramp then return tempo.ticks_at (Temporal.TempoMap.read (), sample) end
	return p.ticks + (sample * g.clock / g.rate - p.clock) * PULSE / p.quarter
end
local function fine_sample (g, ticks)
	local near = math.floor (ticks + 0.5)
	local p = holding (g.tempi, "ticks", ticks)
	if p.ramp or math.abs (ticks - near) < 1e-6 then return tempo.sample_at (near) end
	-- downwards, as Ardour does it
	return math.floor ((p.clock + (ticks - p.ticks) * p.quarter / PULSE) * g.rate / g.clock + 1e-6)
end

-- The tempo map up to `last` samples as the wire's tempo_map, with the seam at `seam` samples. A change of tempo
-- inside a bar says mid_bar: the bar goes on.
function tempo.read (seam, last)
	local g = grid (last)
	local changes = json.array ()
	local function add (ticks, n, d)
		local m = holding (g.meters, "ticks", ticks)
		local c = { at = ratio (ticks, PULSE), bpm = ratio (n, d), beats = m.beats, unit = m.unit }
		if (ticks - m.ticks) % (m.beats * 4 * PULSE // m.unit) ~= 0 then c.mid_bar = true end
		changes[#changes + 1] = c
	end
	local edges, order = {}, {}
	for _, list in ipairs { g.tempi, g.meters } do
		for _, p in ipairs (list) do
			if not edges[p.ticks] then edges[p.ticks], order[#order + 1] = true, p.ticks end
		end
	end
	table.sort (order)
	for i, t in ipairs (order) do
		local p = holding (g.tempi, "ticks", t)
		local upto = order[i + 1] or g.last
		if not p.ramp then
			add (t, g.clock * 60 * 4, p.note * p.kind)
		else
			-- as steps of a quarter note, each exactly as long as Ardour draws it
			while t < upto and #changes < 4000 do
				local b = math.min (t + PULSE, upto)
				local samples = tempo.sample_at (b) - tempo.sample_at (t)
				if samples < 1 then break end
				add (t, 60 * g.rate * (b - t), samples * PULSE)
				t = b
			end
		end
	end
	local p = holding (g.tempi, "sample", seam)
	local ticks = tempo.ticks_at (Temporal.TempoMap.read (), seam)
	local start = ratio (ticks, PULSE)
	if tempo.sample_at (ticks) ~= seam and not p.ramp then
		start = fine_ticks (g, seam) / PULSE
		local quarter = math.tointeger (p.quarter)
		if quarter and seam * g.clock % g.rate == 0 then
			start = ratio (p.ticks * quarter + (seam * g.clock // g.rate - p.clock) * PULSE, PULSE * quarter)
		end
	end
	return { changes = changes, start = start }
end

-- Bar lines by the meters' own ticks: Ardour 7.3's bbtwalk_to_quarters answered 0 for one bar and crashed at four.
local HORIZON_S = 3600
local function bar_of (g, ticks)
	local m, after = holding (g.meters, "ticks", ticks)
	local length = m.beats * 4 * PULSE // m.unit
	local line = math.floor (m.ticks + (ticks - m.ticks) // length * length)
	local to = line + length
	if after and after.ticks > line and after.ticks < to then to = after.ticks end
	return line, to
end
-- Samples from `from` to `bars` bars after it, on Ardour's own grid; from inside a bar to the same part of another.
function tempo.bars_in_samples (from, bars)
	local g = grid (from + HORIZON_S * Session:nominal_sample_rate ())
	local ticks = tempo.ticks_at (Temporal.TempoMap.read (), from)
	if tempo.sample_at (ticks) ~= from then ticks = fine_ticks (g, from) end
	local line, to = bar_of (g, ticks)
	local goal = (ticks - line) / (to - line) + bars
	while goal >= 1 do
		line, to = bar_of (g, to)
		goal = goal - 1
	end
	return fine_sample (g, line + goal * (to - line)) - from
end
-- The bar line at or after a sample.
function tempo.next_bar (sample)
	local g = grid (sample + HORIZON_S * Session:nominal_sample_rate ())
	local line, to = bar_of (g, tempo.ticks_at (Temporal.TempoMap.read (), sample))
	return tempo.sample_at (line) >= sample and tempo.sample_at (line) or tempo.sample_at (to)
end
-- What is selected, and what a job is to be made of it. Positions are samples on the timeline.
local choose = {}
local function audio_tracks ()
	local found = {}
	for _, r in ipairs (all (Session:get_tracks ())) do
		local t = r:to_track ()
		if not t:isnil () and not t:playlist ():to_audioplaylist ():isnil () then found[#found + 1] = t end
	end
	return found
end
local function id_of (thing) return thing:to_stateful ():id ():to_s () end

-- {from, to, regions: [{id, track, from, to, channels}], tracks: [Track]}; a time range beats regions.
function choose.selection ()
	local sel = Editor:get_selection ()
	local chosen = { regions = {}, tracks = {} }
	local tracks = audio_tracks ()
	local by_name = {}
	for _, t in ipairs (tracks) do by_name[t:name ()] = t end
	for _, r in ipairs (all (sel.tracks:routelist ())) do
		if by_name[r:name ()] then chosen.tracks[#chosen.tracks + 1] = by_name[r:name ()] end
	end
	local from, to = sel.time:start_sample (), sel.time:end_sample ()
	if to > from then
		chosen.from, chosen.to, chosen.range = from, to, true
		return chosen
	end
	chosen.tracks = {}
	local seen = {}
	for _, r in ipairs (all (sel.regions:regionlist ())) do
		if not r:to_audioregion ():isnil () then
			for _, t in ipairs (tracks) do
				if not t:playlist ():region_by_id (r:to_stateful ():id ()):isnil () then
					local a = r:position ():samples ()
					chosen.regions[#chosen.regions + 1] = {
						id = id_of (r), track = t:name (), from = a, to = a + r:length ():samples (),
						channels = r:to_audioregion ():n_channels (),
					}
					if not seen[t:name ()] then seen[t:name ()], chosen.tracks[#chosen.tracks + 1] = true, t end
				end
			end
		end
	end
	table.sort (chosen.regions, function (a, b) return a.from < b.from end)
	for _, r in ipairs (chosen.regions) do
		chosen.from = math.min (chosen.from or r.from, r.from)
		chosen.to = math.max (chosen.to or r.to, r.to)
	end
	return chosen
end

local function channels_of (track, from, to)
	local most = 0
	local touched = track:playlist ():regions_touched (Temporal.timepos_t (from), Temporal.timepos_t (to))
	for _, r in ipairs (all (touched)) do
		local ar = r:to_audioregion ()
		if not ar:isnil () then most = math.max (most, ar:n_channels ()) end
	end
	return most
end
-- One sound of the request: what is selected, or with `track` only that track's part of it.
local function sound (chosen, file, role, from, to, seam, track)
	local pieces, channels = json.array (), 0
	if chosen.range or role == "following" or from < chosen.from then
		for _, t in ipairs (track and { track } or chosen.tracks) do
			local n = channels_of (t, from, to)
			if n > 0 then
				pieces[#pieces + 1] = { playlist = id_of (t:playlist ()) }
				channels = math.max (channels, n)
			end
		end
	else
		for _, r in ipairs (chosen.regions) do
			if (not track or r.track == track:name ()) and r.to > from and r.from < to then
				pieces[#pieces + 1] = { region = r.id }
				channels = math.max (channels, r.channels)
			end
		end
	end
	if #pieces == 0 then return nil end
	return { file = file, role = role, from = from, to = to, position = from - seam,
		channels = math.min (channels, 2), pieces = pieces }
end
local STEMS = { "drums", "bass", "other", "vocals" }
local function stem_of (name)
	for _, s in ipairs (STEMS) do if name:lower ():find (s, 1, true) then return s end end
end

local function number_or_nil (text)
	if text == "" then return nil end
	return tonumber (text) or error ("Segue: “" .. text:sub (1, 40) .. "” in the settings is not a number.", 0)
end
-- The order for the hook. Errors are sentences for the musician.
function choose.order (mode, s)
	local rate = Session:nominal_sample_rate ()
	local chosen = choose.selection ()
	local most = math.floor (s.prompt_s * rate)
	local o = { mode = mode, session = Session:name (), audio = json.array (), takes = s.takes }
	local seam, frames
	if mode == "generate" then
		seam = Session:transport_sample ()
		o.track = chosen.tracks[1] and chosen.tracks[1]:name () or ""
	elseif not chosen.from then
		error ("Select a region, or a time range and its track, first.", 0)
	elseif #chosen.tracks == 0 then
		error ("Select the track that the time range is about as well.", 0)
	end
	o.track = o.track or chosen.tracks[1]:name ()
	if mode == "continue" then
		seam = chosen.to
		o.audio[1] = sound (chosen, "prompt.wav", "prompt", math.max (chosen.from, seam - most), seam, seam)
	elseif mode == "vary" then
		seam, frames = chosen.from, chosen.to - chosen.from
		o.audio[1] = sound (chosen, "source.wav", "source", chosen.from, chosen.to, seam)
	elseif mode == "accompany" then
		seam, frames = chosen.from, chosen.to - chosen.from
		for i, t in ipairs (chosen.tracks) do
			local a = sound (chosen, "context" .. i .. ".wav", "context", chosen.from, chosen.to, seam, t)
			if a then
				a.track, a.stem = i - 1, stem_of (t:name ())
				o.audio[#o.audio + 1] = a
			end
		end
	elseif mode == "fill" then
		local a, b = chosen.from, chosen.to
		if not chosen.range then
			if #chosen.regions ~= 2 or chosen.regions[2].from <= chosen.regions[1].to then
				error ("To fill a gap, select it as a time range, or select the two regions around it.", 0)
			end
			a, b = chosen.regions[1].to, chosen.regions[2].from
		end
		seam, frames = a, b - a
		chosen.range = true
		if a > 0 then
			o.audio[1] = sound (chosen, "prompt.wav", "prompt", math.max (0, a - most), a, a)
		end
		o.audio[#o.audio + 1] = sound (chosen, "following.wav", "following", b, b + most, b)
		if #o.audio == 2 then o.audio[2].position = nil end
	end
	if mode ~= "generate" and (#o.audio == 0 or (mode == "fill" and #o.audio < 2)) then
		error ("There is no audio in what is selected.", 0)
	end
	local first = seam
	if s.start == "bar" and (mode == "continue" or mode == "generate") then first = tempo.next_bar (seam) end
	frames = frames or tempo.bars_in_samples (first, s.bars)
	if frames < 1 then error ("The length comes to nothing: ask for at least a part of a bar.", 0) end
	local channels = 0
	for _, a in ipairs (o.audio) do channels = math.max (channels, a.channels) end
	local map = tempo.read (seam, first + frames + 8 * rate)
	local r = {
		mode = mode, length = { frames = frames }, tempo_map = map, variations = s.variations,
		rate = rate, channels = channels > 0 and channels or 2, handle_ms = s.handle_ms, level = s.level,
		project = Session:name (), start = s.start == "bar" and first > seam and "bar" or nil,
		loop = s.loop or nil, priority = s.priority, seed = math.tointeger (number_or_nil (s.seed)),
		strength = mode == "vary" and s.strength or nil,
	}
	if s.text ~= "" then r.text = s.text end
	if s.negative_text ~= "" then r.negative_text = s.negative_text end
	if s.model ~= "" then r.model = s.model end
	if not s.stems and mode ~= "accompany" then r.stems = json.array { "mix" } end
	if s.cfg_coef ~= "" then r.guidance = { cfg_coef = number_or_nil (s.cfg_coef) } end
	if s.temperature ~= "" then r.sampling = { temperature = number_or_nil (s.temperature) } end
	o.request, o.seam, o.frames, o.rate, o.first = r, seam, frames, rate, first
	-- the region whose end is the seam fades out while the take fades in
	if s.crossfade and (mode == "continue" or mode == "fill") and not r.start then
		o.crossfade = true
		for _, x in ipairs (all (chosen.tracks[1]:playlist ():region_list ())) do
			if x:position ():samples () + x:length ():samples () == seam then o.fade_out = id_of (x) end
			if mode == "fill" and x:position ():samples () == seam + frames then o.fade_in = id_of (x) end
		end
	end
	return o
end
-- What the actions share: they only write an order down; the hook does the work, a little at each tick.
local act = {}
local TITLE = "Segue"
function act.say (text)
	LuaDialog.Message (TITLE, text, LuaDialog.MessageType.Info, LuaDialog.ButtonType.Close):run ()
end
-- Nothing may escape: Ardour unbinds an action that failed for the rest of the session.
function act.guarded (f)
	local ok, why = pcall (f)
	if not ok then
		print ("Segue: " .. tostring (why))
		act.say (tostring (why))
	end
end
function act.hook_runs ()
	local beat = files.read_json (files.join (files.home (), "hook.json"))
	return beat and math.abs (os.time () - beat.time) <= 5
end
function act.need_hook ()
	if act.hook_runs () then return end
	error ("The hook “Segue: jobs” is not switched on, so nobody would do the work.\n\n"
		.. "Once, for all sessions: Edit > Lua Scripts > Script Manager, tab Action Hooks, New Hook, “Segue: jobs”.", 0)
end
function act.place (order)
	if not files.command () then
		error ("Where the segue command is, is not known here: run “segue install ardour” in a terminal.", 0)
	end
	local name = files.random_name ()
	order.name = name
	order.time = os.time ()
	assert (files.write (files.join (files.home (), "orders", name .. ".json"), json.write (order)))
	assert (files.append (files.join (files.home (), "queue"), name))
end
function act.make (mode)
	act.guarded (function ()
		act.need_hook ()
		act.place (choose.order (mode, settings.read ()))
	end)
end
-- The names of the jobs that have not ended.
function act.open_jobs ()
	local found = {}
	for name in (files.read (files.join (files.home (), "queue")) or ""):gmatch ("[^\n]+") do
		if name:match ("^%x+$") and files.exists (files.join (files.home (), "orders", name .. ".json")) then
			found[#found + 1] = name
		end
	end
	return found
end
function act.cancel ()
	act.guarded (function ()
		local jobs = act.open_jobs ()
		for _, name in ipairs (jobs) do
			files.append (files.join (files.home (), "orders", name .. ".cancel"), "cancel")
			files.append (files.join (files.home (), "jobs", name, "cancel"), "cancel")
		end
		if #jobs == 0 then act.say ("There is nothing to cancel.") end
	end)
end
-- The same again with another seed: of the selected take, or of the last job.
function act.retake ()
	act.guarded (function ()
		act.need_hook ()
		local wanted = {}
		for _, r in ipairs (all (Editor:get_selection ().regions:regionlist ())) do
			wanted[r:to_stateful ():id ():to_s ()] = true
		end
		local last, mine
		for line in (files.read (files.join (files.home (), "history")) or ""):gmatch ("[^\n]+") do
			local h = json.read (line)
			if h then
				last = h
				for _, id in ipairs (h.regions or {}) do if wanted[id] then mine = h end end
			end
		end
		local h = mine or last or error ("There is no take yet that could be made again.", 0)
		local o = h.order
		o.request.seed = nil
		act.place (o)
	end)
end
function act.settings ()
	act.guarded (function ()
		local s = settings.read ()
		local choices = {
			{ type = "entry", key = "text", default = s.text, title = "What it shall sound like" },
			{ type = "entry", key = "negative_text", default = s.negative_text, title = "What it shall not sound like" },
			{ type = "number", key = "bars", title = "Length in bars", min = 1, max = 256, step = 1, digits = 0, default = s.bars },
			{ type = "number", key = "variations", title = "Takes to choose from", min = 1, max = 16, step = 1, digits = 0, default = s.variations },
			{ type = "dropdown", key = "start", title = "Begin", values = { ["right at the edge"] = "edge", ["on the next bar"] = "bar" },
				default = s.start == "bar" and "on the next bar" or "right at the edge" },
			{ type = "dropdown", key = "takes", title = "Takes lie on", values = { ["playlists of one track"] = "playlists", ["a track each"] = "tracks" },
				default = s.takes == "tracks" and "a track each" or "playlists of one track" },
			{ type = "checkbox", key = "stems", default = s.stems, title = "Stems on tracks of their own" },
			{ type = "checkbox", key = "crossfade", default = s.crossfade, title = "Crossfade at the seam" },
			{ type = "checkbox", key = "loop", default = s.loop, title = "The end meets the beginning" },
			{ type = "slider", key = "strength", title = "Vary: how far", min = 0, max = 1, digits = 2, default = s.strength },
			{ type = "entry", key = "seed", default = s.seed, title = "Seed (empty: a new one each time)" },
			{ type = "entry", key = "model", default = s.model, title = "Model (empty: the usual one)" },
			{ type = "entry", key = "cfg_coef", default = s.cfg_coef, title = "Guidance (empty: the model's)" },
			{ type = "entry", key = "temperature", default = s.temperature, title = "Temperature (empty: the model's)" },
		}
		local got = LuaDialog.Dialog ("Segue: settings of this session", choices):run ()
		if not got then return end
		for k, v in pairs (got) do if s[k] ~= nil then s[k] = v end end
		s.bars, s.variations = math.floor (s.bars), math.floor (s.variations)
		assert (settings.write (s))
	end)
end
	act.make ("fill")
end end
