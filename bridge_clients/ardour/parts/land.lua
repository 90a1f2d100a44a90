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
