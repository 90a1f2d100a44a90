-- A project as REAPER keeps it: tracks, items, takes, sources, and undo as whole states. Objects are their own
-- pointers; an undo makes new ones, as REAPER does, so that a pointer kept across it is dead.

local wav = require "segue.wav"

local model = {}

local next_guid = 0
local function guid()
  next_guid = next_guid + 1
  return string.format("{%08X-0000-4000-8000-%012X}", next_guid, next_guid * 7919)
end

local opened = {} -- path -> file; files of the tests do not change once they have their name

model.peaks = {} -- path -> "built", or what is left to do: peaks belong to files, not to projects

--- A source: a WAV file of float32.
function model.source(path)
  local info = wav.inspect(path)
  if not info then return nil end
  return { kind = "PCM_source", path = path, rate = info.rate, channels = info.channels, frames = info.frames,
    data_at = info.data_at }
end

--- Interleaved samples of a source, as a table; zeros beyond its ends.
function model.samples(source, first, count)
  local file = opened[source.path] or assert(io.open(source.path, "rb"))
  opened[source.path] = file
  local made, width = {}, source.channels
  local from, to = math.max(0, first), math.min(source.frames, first + count)
  for i = 1, count * width do made[i] = 0.0 end
  if to > from then
    local format = "<" .. ("f"):rep((to - from) * width)
    file:seek("set", source.data_at + from * width * 4)
    local values = { string.unpack(format, file:read((to - from) * width * 4)) }
    for i = 1, #values - 1 do made[(from - first) * width + i] = values[i] end
  end
  return made
end

function model.project()
  return { kind = "ReaProject", tracks = {}, ext = {}, info = { PROJECT_SRATE = 48000, PROJECT_SRATE_USE = 1 },
    texts = {}, cursor = 0.0, selection = { 0.0, 0.0 }, history = {}, at = 0, block = 0, open = true }
end

function model.track(project, index)
  local made = { kind = "MediaTrack", guid = guid(), name = "", info = { I_FREEMODE = 0 }, items = {}, gain = 1.0,
    selected = false }
  table.insert(project.tracks, index + 1, made)
  model.note(project, made, project)
  return made
end

function model.item(track)
  -- as a user's preferences may have it: new items fade and loop until somebody says otherwise
  local made = { kind = "MediaItem", guid = guid(), selected = false, takes = {}, active = 1, ext = {},
    info = { D_POSITION = 0.0, D_LENGTH = 0.0, B_LOOPSRC = 1, D_VOL = 1.0, D_FADEINLEN = 0.01, D_FADEOUTLEN = 0.01,
      D_FADEINLEN_AUTO = -1.0, D_FADEOUTLEN_AUTO = -1.0, C_FADEINSHAPE = 0, C_FADEOUTSHAPE = 0, B_MUTE = 0,
      I_FIXEDLANE = 0 } }
  track.items[#track.items + 1] = made
  return made
end

function model.take(item)
  local made = { kind = "MediaItem_Take", guid = guid(), name = "", source = nil,
    info = { D_STARTOFFS = 0.0, D_PLAYRATE = 1.0, D_VOL = 1.0 } }
  item.takes[#item.takes + 1] = made
  return made
end

local function copied(value, seen)
  if type(value) ~= "table" then return value end
  if seen[value] then return seen[value] end
  local made = {}
  seen[value] = made
  for key, entry in pairs(value) do made[key] = copied(entry, seen) end
  return made
end

--- Keep the state under a name; what was undone before is gone.
function model.keep(project, label)
  while #project.history > project.at do table.remove(project.history) end
  project.history[#project.history + 1] = { label = label, tracks = copied(project.tracks, {}) }
  project.at = #project.history
end

--- Go back or on by a step. What was changed without an undo point is lost, as in REAPER.
function model.go(project, by)
  local to = project.at + by
  if not project.history[to] then return false end
  project.at = to
  project.tracks = copied(project.history[to].tracks, {})
  project.index = nil
  return true
end

-- pointer -> {what it lies in, what that lies in}, so that a look at a pointer costs what it costs in REAPER
local function build(project)
  project.index = {}
  for _, track in ipairs(project.tracks) do
    project.index[track] = { project }
    for _, item in ipairs(track.items) do
      project.index[item] = { track }
      for _, take in ipairs(item.takes) do
        project.index[take] = { item, track }
        if take.source then project.index[take.source] = { item, track } end
      end
    end
  end
end

--- Note that something was put into the project, or (without an owner) taken out.
function model.note(project, pointer, owner, above)
  if project.index then project.index[pointer] = owner and { owner, above } or nil end
end

--- Note that anything may have changed.
function model.forget(project) project.index = nil end

--- Whether a pointer still leads to something of the project; `owner` is what it lies in.
function model.find(project, pointer)
  if not project.index then build(project) end
  local entry = project.index[pointer]
  if entry then return entry[1], entry[2] end
end

--- What a track plays, before its effects: interleaved samples, or nil where there is nothing.
function model.play(track, rate, channels, first, count)
  local made
  for _, item in ipairs(track.items) do
    local from = math.floor(item.info.D_POSITION * rate + 0.5)
    local to = from + math.floor(item.info.D_LENGTH * rate + 0.5)
    local take = item.takes[item.active]
    local start, stop = math.max(from, first), math.min(to, first + count)
    if take and take.source and item.info.B_MUTE == 0 and stop > start then
      local source = take.source
      if source.rate ~= rate then error("the stub plays sources at the project's rate only") end
      local offset = math.floor(take.info.D_STARTOFFS * rate + 0.5)
      local samples = model.samples(source, start - from + offset, stop - start)
      made = made or {}
      for i = #made + 1, count * channels do made[i] = 0.0 end
      local gain, width = item.info.D_VOL, source.channels
      for frame = 0, stop - start - 1 do
        local at = (start - first + frame) * channels
        for channel = 1, channels do
          local from_channel = math.min(channel, width)
          made[at + channel] = made[at + channel] + gain * samples[frame * width + from_channel]
        end
      end
    end
  end
  return made
end

return model
