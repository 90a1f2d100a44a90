-- @noindex
-- What the user selected, as a plan: which samples are heard in which role, where the new audio goes and how
-- long it is. A plan is plain data (GUIDs and whole samples), so that it can be stored with the item and read
-- again for a retake.

local json = require "segue.json"
local project = require "segue.project"
local timemap = require "segue.timemap"

local selection = {}

local MOST_CONTEXT = 16 -- tracks that a request tells apart

local function say(text) error({ said = text }, 0) end

--- Selected items with audio: list of {item, track, guid, first, last, channels}, in order of time.
local function items(proj, rate)
  local found = {}
  for i = 0, reaper.CountSelectedMediaItems(proj) - 1 do
    local item = reaper.GetSelectedMediaItem(proj, i)
    local take = reaper.GetActiveTake(item)
    if take and not reaper.TakeIsMIDI(take) then
      local first, last = project.span(item, rate)
      local source = reaper.GetMediaItemTake_Source(take)
      found[#found + 1] = { item = item, track = reaper.GetMediaItem_Track(item), first = first, last = last,
        guid = project.item_guid(item), channels = source and reaper.GetMediaSourceNumChannels(source) or 2 }
    end
  end
  table.sort(found, function(a, b) return a.first < b.first or (a.first == b.first and a.last < b.last) end)
  return found
end

local function time_selection(proj, rate)
  local from, to = reaper.GetSet_LoopTimeRange2(proj, false, false, 0, 0, false)
  local first, last = project.frame(from, rate), project.frame(to, rate)
  if last > first then return first, last end
end

local function selected_tracks(proj)
  local found = {}
  for i = 0, reaper.CountSelectedTracks2(proj, false) - 1 do
    found[#found + 1] = reaper.GetSelectedTrack2(proj, i, false)
  end
  return found
end

--- Tracks of the items, or the selected tracks; in the project's order, each once.
local function tracks_of(proj, list)
  local wanted, found = {}, {}
  for _, entry in ipairs(list) do wanted[project.track_guid(entry.track)] = true end
  if not next(wanted) then
    for _, track in ipairs(selected_tracks(proj)) do wanted[project.track_guid(track)] = true end
  end
  for i = 0, reaper.CountTracks(proj) - 1 do
    local track = reaper.GetTrack(proj, i)
    local guid = project.track_guid(track)
    if wanted[guid] then found[#found + 1] = { track = track, guid = guid } end
  end
  return found
end

local function intervals_on(list, guid)
  local spans = json.array()
  for _, entry in ipairs(list) do
    if project.track_guid(entry.track) == guid then spans[#spans + 1] = json.array({ entry.first, entry.last }) end
  end
  return spans
end

local function extent(list)
  local first, last = math.huge, -math.huge
  for _, entry in ipairs(list) do
    first, last = math.min(first, entry.first), math.max(last, entry.last)
  end
  return math.tointeger(first), math.tointeger(last)
end

--- What of which tracks is heard: `spans` by track, or nothing for all that lies there.
local function voices(tracks, list)
  local found = json.array()
  for _, entry in ipairs(tracks) do
    found[#found + 1] = { track = entry.guid, spans = list and intervals_on(list, entry.guid) or nil }
  end
  return found
end

local function channels_of(list)
  if #list == 0 then return 2 end
  for _, entry in ipairs(list) do if entry.channels ~= 1 then return 2 end end
  return 1
end

local function read(role, file, first, last, seam, heard, channels)
  return { role = role, file = file, first = first, last = last, position = first - seam, voices = heard,
    channels = channels }
end

local function length(proj, plan, values, fallback)
  if values.length == "seconds" then return math.max(1, project.frame(values.seconds, plan.rate)) end
  if values.length == "selection" and fallback then return fallback end
  local from = plan.seam + plan.lead
  return math.max(1, timemap.after_bars(proj, from, values.bars, plan.rate) - from)
end

local function begin(proj, plan, values)
  plan.start = values.start == "bar" and "bar" or "edge"
  plan.lead = plan.start == "bar" and timemap.next_bar(proj, plan.seam, plan.rate) - plan.seam or 0
end

local plans = {}

plans["continue"] = function(proj, plan, values)
  local list = items(proj, plan.rate)
  local from, to = time_selection(proj, plan.rate)
  local heard, first, last
  if #list > 0 then
    first, last = extent(list)
    if from and from < last and to > first then first, last = math.max(first, from), math.min(last, to) end
    heard = voices(tracks_of(proj, list), list)
  else
    local tracks = tracks_of(proj, list)
    if not from or #tracks == 0 then
      say("Select an item, or tracks and a time selection, and press the key again.")
    end
    first, last, heard = from, to, voices(tracks)
  end
  local listen = project.frame(values.prompt_s, plan.rate)
  plan.seam, plan.channels = last, channels_of(list)
  begin(proj, plan, values)
  plan.frames = length(proj, plan, values, last - first)
  plan.reads[1] = read("prompt", "prompt.wav", math.max(first, last - listen), last, last, heard, plan.channels)
  plan.track = heard[#heard].track
  plan.mix = #heard > 1
  for _, entry in ipairs(list) do
    if entry.last == last and #heard == 1 then plan.item = entry.guid end
  end
end

local function region(proj, plan, list, ask)
  local from, to = time_selection(proj, plan.rate)
  if #list == 0 then
    if not from then say(ask) end
    return from, to
  end
  local first, last = extent(list)
  if from and from < last and to > first then return math.max(first, from), math.min(last, to) end
  return first, last
end

plans.accompany = function(proj, plan, values)
  local list = items(proj, plan.rate)
  local tracks = tracks_of(proj, list)
  local ask = "Select the items to accompany, or tracks and a time selection, and press the key again."
  local first, last = region(proj, plan, list, ask)
  if #tracks == 0 then say(ask) end
  local listen = project.frame(values.prompt_s, plan.rate)
  plan.seam, plan.channels, plan.lead, plan.start, plan.frames = first, 2, 0, "edge", last - first
  local heard = voices(tracks, #list > 0 and list or nil)
  local start = math.max(0, first - listen)
  if #heard <= MOST_CONTEXT then
    for i, voice in ipairs(heard) do
      local one = read("context", string.format("context%d.wav", i), start, last, first, json.array({ voice }), 2)
      one.track = i - 1
      plan.reads[i] = one
    end
  else
    plan.reads[1] = read("context", "context.wav", start, last, first, heard, 2)
  end
  plan.track, plan.mix = heard[#heard].track, true
end

plans.vary = function(proj, plan, values)
  local list = items(proj, plan.rate)
  local tracks = tracks_of(proj, list)
  local ask = "Select the item to vary, or a track and a time selection, and press the key again."
  local first, last = region(proj, plan, list, ask)
  if #tracks == 0 then say(ask) end
  plan.seam, plan.channels, plan.lead, plan.start, plan.frames = first, channels_of(list), 0, "edge", last - first
  plan.strength = values.strength
  local heard = voices(tracks, #list > 0 and list or nil)
  plan.reads[1] = read("source", "source.wav", first, last, first, heard, plan.channels)
  plan.track, plan.mix = heard[#heard].track, true
end

plans.fill = function(proj, plan, values)
  local from, to = time_selection(proj, plan.rate)
  local list = items(proj, plan.rate)
  local tracks = tracks_of(proj, list)
  if not from then say("Make a time selection over the gap, and press the key again.") end
  if #tracks == 0 then say("Select the track with the gap, and press the key again.") end
  local listen = project.frame(values.prompt_s, plan.rate)
  local heard = voices(tracks)
  plan.seam, plan.channels, plan.lead, plan.start, plan.frames = from, 2, 0, "edge", to - from
  if from > 0 then
    plan.reads[1] = read("prompt", "prompt.wav", math.max(0, from - listen), from, from, heard, 2)
  end
  plan.reads[#plan.reads + 1] = read("following", "following.wav", to, to + listen, from, heard, 2)
  plan.track, plan.mix = heard[#heard].track, #heard > 1
  if #heard == 1 then -- what the new audio is faded into at both ends
    local track = tracks[1].track
    for i = 0, reaper.CountTrackMediaItems(track) - 1 do
      local item = reaper.GetTrackMediaItem(track, i)
      local first, last = project.span(item, plan.rate)
      if last == from then plan.item = project.item_guid(item) end
      if first == to then plan.next = project.item_guid(item) end
    end
  end
end

plans.generate = function(proj, plan, values)
  local tracks = selected_tracks(proj)
  plan.seam = project.frame(reaper.GetCursorPositionEx(proj), plan.rate)
  plan.channels = 2
  begin(proj, plan, values)
  local from, to = time_selection(proj, plan.rate)
  plan.frames = length(proj, plan, values, from and to - from)
  plan.track = tracks[1] and project.track_guid(tracks[1]) or nil
end

--- The plan for a mode. Raises {said = sentence} when the selection does not fit.
function selection.plan(proj, mode, values)
  local plan = { mode = mode, rate = project.rate(proj), reads = json.array(), source = values.source }
  plans[mode](proj, plan, values)
  if plan.frames < 1 then say("The selection is empty.") end
  return plan
end

return selection
