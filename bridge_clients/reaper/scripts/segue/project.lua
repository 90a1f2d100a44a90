-- @noindex
-- What stands in a REAPER project, found again by its GUID: pointers die with an undo, a deletion or a closed
-- tab, and a job lasts longer than that. Places are whole samples at the project's rate.

local project = {}

--- Whether a project is still open.
function project.open(proj) return proj ~= nil and reaper.ValidatePtr(proj, "ReaProject*") end

--- The project of the tab in front.
function project.current() return (reaper.EnumProjects(-1)) end

--- The project's sample rate: its own if it has one, else that of the audio device, else 48000.
function project.rate(proj)
  if reaper.GetSetProjectInfo(proj, "PROJECT_SRATE_USE", 0, false) > 0 then
    local own = reaper.GetSetProjectInfo(proj, "PROJECT_SRATE", 0, false)
    if own > 0 then return math.floor(own + 0.5) end
  end
  local known, text = reaper.GetAudioDeviceInfo("SRATE")
  local device = known and tonumber(text)
  if device and device > 0 then return math.floor(device + 0.5) end
  return 48000
end

--- The whole sample that a time falls on; half a sample goes to the even one, as everywhere in Segue.
function project.frame(time_s, rate)
  local exact = time_s * rate
  local below = math.floor(exact)
  local part = exact - below
  -- a time at sample 10^9 is known to 10^-7 samples in a double: what is nearer to a half is a half
  if math.abs(part - 0.5) < 1e-6 then return below % 2 == 0 and below or below + 1 end
  return part > 0.5 and below + 1 or below
end

--- The time of a whole sample.
function project.seconds(frame, rate) return frame / rate end

local function string_of(getter, thing, name)
  local ok, value = getter(thing, name, "", false)
  return ok and value or ""
end

function project.track_guid(track) return string_of(reaper.GetSetMediaTrackInfo_String, track, "GUID") end
function project.item_guid(item) return string_of(reaper.GetSetMediaItemInfo_String, item, "GUID") end

local known = {} -- GUID -> pointer that it led to last; only ever a guess

-- A project may have thousands of items: asking each for its GUID at every look would take longer than a turn may.
local function guessed(proj, guid, kind, guid_of)
  local pointer = known[guid]
  if pointer and reaper.ValidatePtr2(proj, pointer, kind) and guid_of(pointer) == guid then return pointer end
  known[guid] = nil
end

--- The track with a GUID, or nil.
function project.track(proj, guid)
  if not guid then return nil end
  local guess = guessed(proj, guid, "MediaTrack*", project.track_guid)
  if guess then return guess end
  for i = 0, reaper.CountTracks(proj) - 1 do
    local track = reaper.GetTrack(proj, i)
    if project.track_guid(track) == guid then
      known[guid] = track
      return track
    end
  end
end

--- The item with a GUID on one track, or nil.
function project.item_on(track, guid)
  -- from the end: what was made last is looked for most
  for i = reaper.CountTrackMediaItems(track) - 1, 0, -1 do
    local item = reaper.GetTrackMediaItem(track, i)
    if project.item_guid(item) == guid then
      known[guid] = item
      return item
    end
  end
end

--- The item with a GUID, or nil. Looks on the track it was on first.
function project.item(proj, guid, near)
  if not guid then return nil end
  local guess = guessed(proj, guid, "MediaItem*", project.item_guid)
  if guess then return guess end
  local found = near and project.item_on(near, guid)
  if found then return found end
  for i = 0, reaper.CountTracks(proj) - 1 do
    local track = reaper.GetTrack(proj, i)
    found = track ~= near and project.item_on(track, guid)
    if found then return found end
  end
end

--- Where an item lies, in samples: first, and the one behind its last.
function project.span(item, rate)
  local start = reaper.GetMediaItemInfo_Value(item, "D_POSITION")
  local length = reaper.GetMediaItemInfo_Value(item, "D_LENGTH")
  return project.frame(start, rate), project.frame(start + length, rate)
end

--- A track's place among the tracks, from 0.
function project.index(track)
  return math.floor(reaper.GetMediaTrackInfo_Value(track, "IP_TRACKNUMBER") + 0.5) - 1
end

--- Whether nothing lies on a track between two samples.
function project.free(track, first, last, rate, but)
  for i = 0, reaper.CountTrackMediaItems(track) - 1 do
    local item = reaper.GetTrackMediaItem(track, i)
    if item ~= but then
      local from, to = project.span(item, rate)
      if from < last and to > first then return false end
    end
  end
  return true
end

--- A new track behind another one, or at the end. Returns it.
function project.add_track(proj, after, name)
  local index = after and project.index(after) + 1 or reaper.CountTracks(proj)
  reaper.InsertTrackInProject(proj, index, 0)
  local track = reaper.GetTrack(proj, index)
  reaper.GetSetMediaTrackInfo_String(track, "P_NAME", name, true)
  return track
end

--- Where the project keeps its recordings: takes belong there. REAPER makes that folder with the first recording.
function project.media_folder(proj)
  local folder = reaper.GetProjectPathEx(proj)
  reaper.RecursiveCreateDirectory(folder, 0)
  return folder
end

return project
