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
