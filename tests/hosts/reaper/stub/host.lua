-- REAPER as far as its documentation tells, for scripts that are to be tried without it: the project (model), the
-- tempo map, undo, extension states, deferred scripts, processes and a window. Strict where REAPER is lenient: what
-- a script leaves open (undo blocks, UI locks, audio accessors, sources) is counted and told.

local json = require "segue.json"
local model = require "stub.model"
local strict = require "stub.strict"
local tempo = require "stub.tempo"
local wav = require "segue.wav"
local window = require "stub.gfx"

local host = {}
host.__index = host

local function shell_quoted(text) return "'" .. text:gsub("'", "'\\''") .. "'" end

--- A command line as CreateProcess and REAPER read it: blanks part words, double quotes hold them together.
function host.words(line)
  local words, word, quoted, any = {}, {}, false, false
  for i = 1, #line do
    local char = line:sub(i, i)
    if char == '"' then quoted, any = not quoted, true
    elseif char:match("%s") and not quoted then
      if any then words[#words + 1] = table.concat(word) end
      word, any = {}, false
    else word[#word + 1], any = char, true end
  end
  if quoted then error("ExecProcess: a quote without its end: " .. line) end
  if any then words[#words + 1] = table.concat(word) end
  return words
end

--- `options`: resource (folder), api (path of api.json), run (function of words; default starts a process),
--- os ("Other", "Win64", "macOS-arm64").
function host.new(options)
  local self = setmetatable({ options = options, projects = {}, ext = {}, queue = {}, refresh = 0, accessors = 0,
    sources = {}, messages = {}, console = {}, answers = {}, registered = {}, started = {}, instances = {},
    longest_s = 0, late = 0, turns = 0, blocked_s = 0, wall = 0, wall_clock = os.clock(), commands = {} }, host)
  self:add_project()
  self.gfx, self.window = window.new()
  self.api = strict.wrap(options.api, self:functions(), options.extension)
  return self
end

function host:add_project()
  local project = model.project()
  project.tempo = tempo.new({ { qn = 0, bpm = 120, beats = 4, unit = 4 } })
  project.media = self.options.media or self.options.resource
  self.projects[#self.projects + 1] = project
  self.front = project
  model.keep(project, "")
  return project
end

function host:now() return self.wall + (os.clock() - self.wall_clock) end

--- The clock of the world outside, which goes on while REAPER does nothing.
function host:set_wall(seconds)
  if seconds > self:now() then self.wall, self.wall_clock = seconds, os.clock() end
end

function host:project(proj)
  local found = proj or self.front
  if not found.open then error("a project that was closed is used") end
  return found
end

local function owner(self, pointer)
  for _, project in ipairs(self.projects) do
    if project.open then
      local found, above = model.find(project, pointer)
      if found then return found, project, above end
    end
  end
end

local function live(self, pointer, what)
  local found, project, above = owner(self, pointer)
  if not found then error("a dead " .. what .. " is used") end
  return found, project, above
end

local function string_property(self, kind, fields)
  return function(thing, name, value, set)
    live(self, thing, kind)
    if name == "GUID" then return true, thing.guid end
    local key = fields[name]
    if key then
      if set then thing[key] = value end
      return true, thing[key] or ""
    end
    local ext = name:match("^P_EXT:(.+)$")
    if not ext then error("unknown property " .. name) end
    thing.ext = thing.ext or {}
    if set then thing.ext[ext] = value end
    return thing.ext[ext] ~= nil, thing.ext[ext] or ""
  end
end

local function number_property(self, kind, set)
  return function(thing, name, value)
    live(self, thing, kind)
    local known = thing.info[name] ~= nil or name:match("^C_LANEPLAYS:%d+$")
    if not known then error("unknown property " .. name) end
    if set then
      thing.info[name] = value
      return true
    end
    return thing.info[name] or 0
  end
end

local function all_items(project)
  local found = {}
  for _, track in ipairs(project.tracks) do
    for _, item in ipairs(track.items) do found[#found + 1] = item end
  end
  return found
end

local function selected(list)
  local found = {}
  for _, entry in ipairs(list) do if entry.selected then found[#found + 1] = entry end end
  return found
end

local function listing(kind)
  local kept = {}
  return function(path, index)
    if index < 0 or not kept[path] then
      kept[path] = {}
      local pipe = io.popen("find " .. shell_quoted(path) .. " -mindepth 1 -maxdepth 1 -type " .. kind
        .. " -printf '%f\\n' 2>/dev/null")
      for name in pipe:lines() do kept[path][#kept[path] + 1] = name end
      pipe:close()
      if index < 0 then return nil end
    end
    return kept[path][index + 1]
  end
end

function host:functions()
  local f = {}

  -- projects, tracks, items, takes
  function f.EnumProjects(index)
    local open = {}
    for _, project in ipairs(self.projects) do if project.open then open[#open + 1] = project end end
    local found = index == -1 and self.front or open[index + 1]
    return found, found and "song.rpp" or nil
  end
  function f.ValidatePtr(pointer, kind)
    if kind == "ReaProject*" then return type(pointer) == "table" and pointer.kind == "ReaProject" and pointer.open end
    return owner(self, pointer) ~= nil
  end
  function f.ValidatePtr2(proj, pointer, kind)
    local found, project = owner(self, pointer)
    return found ~= nil and project == self:project(proj) and kind == pointer.kind .. "*"
  end
  function f.GetSetProjectInfo(proj, name, value, set)
    local project = self:project(proj)
    if set then project.info[name] = value end
    return project.info[name] or 0
  end
  function f.GetSetProjectInfo_String(proj, name, value, set)
    local project = self:project(proj)
    if set then project.texts[name] = value end
    return true, project.texts[name] or ""
  end
  function f.GetProjectPathEx(proj) return self:project(proj).media end
  function f.GetAudioDeviceInfo(name) return name == "SRATE" and self.options.device_rate ~= nil,
    tostring(self.options.device_rate or "") end
  function f.CountTracks(proj) return #self:project(proj).tracks end
  function f.GetTrack(proj, index) return self:project(proj).tracks[index + 1] end
  function f.InsertTrackInProject(proj, index) model.track(self:project(proj), index) end
  function f.DeleteTrack(track)
    local project = live(self, track, "track")
    for i, entry in ipairs(project.tracks) do if entry == track then table.remove(project.tracks, i) end end
    model.forget(project)
  end
  function f.GetMediaTrackInfo_Value(track, name)
    local project = live(self, track, "track")
    if name == "IP_TRACKNUMBER" then
      for i, entry in ipairs(project.tracks) do if entry == track then return i + 0.0 end end
    end
    return number_property(self, "track")(track, name)
  end
  f.SetMediaTrackInfo_Value = number_property(self, "track", true)
  f.GetSetMediaTrackInfo_String = string_property(self, "track", { P_NAME = "name" })
  function f.IsTrackSelected(track)
    live(self, track, "track")
    return track.selected
  end
  function f.SetTrackSelected(track, yes)
    live(self, track, "track")
    track.selected = yes
  end
  function f.CountSelectedTracks2(proj) return #selected(self:project(proj).tracks) end
  function f.GetSelectedTrack2(proj, index) return selected(self:project(proj).tracks)[index + 1] end
  function f.CountMediaItems(proj) return #all_items(self:project(proj)) end
  function f.GetMediaItem(proj, index) return all_items(self:project(proj))[index + 1] end
  function f.CountTrackMediaItems(track)
    live(self, track, "track")
    return #track.items
  end
  function f.GetTrackMediaItem(track, index)
    live(self, track, "track")
    return track.items[index + 1]
  end
  function f.CountSelectedMediaItems(proj) return #selected(all_items(self:project(proj))) end
  function f.GetSelectedMediaItem(proj, index) return selected(all_items(self:project(proj)))[index + 1] end
  function f.GetMediaItem_Track(item) return (live(self, item, "item")) end
  function f.AddMediaItemToTrack(track)
    local project = live(self, track, "track")
    local item = model.item(track)
    model.note(project, item, track)
    return item
  end
  function f.DeleteTrackMediaItem(track, item)
    local on, project = live(self, item, "item")
    if on ~= track then return false end
    model.forget(project)
    for i, entry in ipairs(track.items) do if entry == item then table.remove(track.items, i) end end
    return true
  end
  f.GetMediaItemInfo_Value = number_property(self, "item")
  f.SetMediaItemInfo_Value = number_property(self, "item", true)
  f.GetSetMediaItemInfo_String = string_property(self, "item", { P_NOTES = "notes" })
  function f.UpdateItemInProject(item) live(self, item, "item") end
  function f.CountTakes(item)
    live(self, item, "item")
    return #item.takes
  end
  function f.GetTake(item, index)
    live(self, item, "item")
    return item.takes[index + 1]
  end
  function f.GetActiveTake(item)
    live(self, item, "item")
    return item.takes[item.active]
  end
  function f.SetActiveTake(take)
    local item = live(self, take, "take")
    for i, entry in ipairs(item.takes) do if entry == take then item.active = i end end
  end
  function f.AddTakeToMediaItem(item)
    local track, project = live(self, item, "item")
    local take = model.take(item)
    model.note(project, take, item, track)
    return take
  end
  f.GetMediaItemTakeInfo_Value = number_property(self, "take")
  f.SetMediaItemTakeInfo_Value = number_property(self, "take", true)
  f.GetSetMediaItemTakeInfo_String = string_property(self, "take", { P_NAME = "name" })
  function f.TakeIsMIDI(take)
    live(self, take, "take")
    return take.midi == true
  end

  -- sources
  function f.PCM_Source_CreateFromFile(path)
    local source = model.source(path)
    if source then self.sources[source] = true end
    return source
  end
  function f.PCM_Source_Destroy(source)
    if source.destroyed then error("a source is destroyed twice") end
    if owner(self, source) then error("a source that a take uses is destroyed") end
    source.destroyed = true
    self.sources[source] = nil
  end
  function f.SetMediaItemTake_Source(take, source)
    local item, project, track = live(self, take, "take")
    -- the take owns its new source; the old one is the caller's to destroy
    if take.source then
      self.sources[take.source] = true
      model.note(project, take.source)
    end
    model.note(project, source, item, track)
    take.source = source
    self.sources[source] = nil
    return true
  end
  function f.GetMediaItemTake_Source(take)
    live(self, take, "take")
    return take.source
  end
  function f.GetMediaSourceNumChannels(source) return source.channels end
  function f.PCM_Source_BuildPeaks(source, mode)
    if source.destroyed then error("peaks of a source that is gone") end
    local left = model.peaks[source.path] or 3 -- as many calls as it takes
    if mode == 1 then left = math.max(0, left - 1) end
    if mode == 2 then left = "built" end
    model.peaks[source.path] = left
    return left == "built" and 0 or left
  end

  -- reading audio
  function f.CreateTrackAudioAccessor(track)
    live(self, track, "track")
    self.accessors = self.accessors + 1
    return { kind = "AudioAccessor", track = track }
  end
  function f.DestroyAudioAccessor(accessor)
    if accessor.destroyed then error("an accessor is destroyed twice") end
    accessor.destroyed = true
    self.accessors = self.accessors - 1
  end
  function f.AudioAccessorStateChanged() return false end
  function f.AudioAccessorValidateState() return true end
  function f.GetAudioAccessorSamples(accessor, rate, channels, start, count, buffer)
    if accessor.destroyed then error("an accessor that is gone is read") end
    if not owner(self, accessor.track) then return -1 end
    local samples = model.play(accessor.track, rate, channels, math.floor(start * rate + 0.5), count)
    if not samples then return 0 end
    for i = 1, count * channels do buffer.data[i] = samples[i] end
    return 1
  end
  function f.new_array(size)
    local array = { kind = "reaper.array", data = {} }
    function array.clear(value) for i = 1, size do array.data[i] = value or 0.0 end end
    function array.table(offset, count)
      return table.move(array.data, offset or 1, (offset or 1) + (count or size) - 1, 1, {})
    end
    array.clear()
    return array
  end

  -- time
  function f.GetSet_LoopTimeRange2(proj, set, loop, first, last)
    local project = self:project(proj)
    if loop then return 0.0, 0.0 end
    if set then project.selection = { first, last } end
    return project.selection[1], project.selection[2]
  end
  function f.GetCursorPositionEx(proj) return self:project(proj).cursor end
  function f.TimeMap_GetTimeSigAtTime(proj, time)
    local map = self:project(proj).tempo
    local _, beats, unit = map:bar(map:bar_at(map:quarter(time)))
    return beats, unit, map:bpm(time)
  end
  function f.TimeMap_GetMeasureInfo(proj, index)
    local map = self:project(proj).tempo
    local qn, beats, unit = map:bar(index)
    local following = map:bar(index + 1)
    local time = map:time(qn)
    return time, qn, following, beats, unit, map:bpm(time)
  end
  function f.TimeMap2_timeToBeats(proj, time)
    local map = self:project(proj).tempo
    local qn = map:quarter(time)
    local bar = map:bar_at(qn)
    local first, beats, unit = map:bar(bar)
    return (qn - first) * unit / 4, bar, beats, qn * unit / 4, unit
  end
  function f.TimeMap2_timeToQN(proj, time) return self:project(proj).tempo:quarter(time) end
  function f.TimeMap2_QNToTime(proj, quarter) return self:project(proj).tempo:time(quarter) end
  function f.TimeMap2_GetNextChangeTime(proj, time)
    for _, marker in ipairs(self:project(proj).tempo.markers) do
      if marker.time > time then return marker.time end
    end
    return -1.0
  end
  function f.time_precise() return self:now() end

  -- undo and drawing
  function f.Undo_BeginBlock2(proj)
    local project = self:project(proj)
    project.block = project.block + 1
  end
  function f.Undo_EndBlock2(proj, label)
    local project = self:project(proj)
    if project.block < 1 then error("Undo_EndBlock2 without a begin") end
    project.block = project.block - 1
    local at = os.clock() -- how REAPER keeps its state is not the script's time
    model.keep(project, label)
    self.blocked_s = self.blocked_s + os.clock() - at
  end
  function f.Undo_CanUndo2(proj)
    local project = self:project(proj)
    return project.at > 1 and project.history[project.at].label or nil
  end
  function f.Undo_DoUndo2(proj) return model.go(self:project(proj), -1) and 1 or 0 end
  function f.Undo_DoRedo2(proj) return model.go(self:project(proj), 1) and 1 or 0 end
  function f.PreventUIRefresh(by)
    self.refresh = self.refresh + by
    if self.refresh < 0 then error("PreventUIRefresh(-1) without its other half") end
  end
  function f.UpdateArrange() end
  function f.UpdateTimeline() end

  -- what is kept
  function f.SetProjExtState(proj, section, key, value)
    local project = self:project(proj)
    if value:find("[\r\n]") then error("a value with a line break") end
    project.ext[section .. "/" .. key] = value
    return #value
  end
  function f.GetProjExtState(proj, section, key)
    local value = self:project(proj).ext[section .. "/" .. key] or ""
    return #value, value
  end
  function f.SetExtState(section, key, value, persist)
    if persist and value:find("[\r\n]") then error("a value with a line break cannot be kept") end
    self.ext[section .. "/" .. key] = value
  end
  function f.GetExtState(section, key) return self.ext[section .. "/" .. key] or "" end
  function f.DeleteExtState(section, key) self.ext[section .. "/" .. key] = nil end

  -- files and processes; what runs outside blocks REAPER as its documentation says
  local function outside(run)
    return function(...)
      local at = os.clock()
      local results = table.pack(run(...))
      self.blocked_s = self.blocked_s + os.clock() - at
      return table.unpack(results, 1, results.n)
    end
  end
  f.RecursiveCreateDirectory = outside(function(path)
    return os.execute("mkdir -p " .. shell_quoted(path)) and 1 or 0
  end)
  f.EnumerateFiles, f.EnumerateSubdirectories = outside(listing("f")), outside(listing("d"))
  function f.GetResourcePath() return self.options.resource end
  function f.GetAppVersion() return "7.78/linux-x86_64" end
  f.ExecProcess = outside(function(line, timeout)
    if timeout ~= -1 and timeout ~= -2 then error("ExecProcess that waits would block REAPER") end
    local words = host.words(line)
    self.started[#self.started + 1] = json.array(words)
    if self.options.run then return self.options.run(words) end
    local quoted = {}
    for i, word in ipairs(words) do quoted[i] = shell_quoted(word) end
    os.execute("setsid " .. table.concat(quoted, " ") .. " </dev/null >/dev/null 2>&1 &")
    return ""
  end)
  f.genGuid = function()
    local random = assert(io.open("/dev/urandom", "rb"))
    local bytes = random:read(16)
    random:close()
    local hex = bytes:gsub(".", function(byte) return string.format("%02X", byte:byte()) end)
    return "{" .. hex:sub(1, 8) .. "-" .. hex:sub(9, 12) .. "-" .. hex:sub(13, 16) .. "-" .. hex:sub(17, 20) .. "-"
      .. hex:sub(21) .. "}"
  end

  -- the user
  function f.MB(text)
    self.messages[#self.messages + 1] = text
    return 1
  end
  function f.ShowConsoleMsg(text) self.console[#self.console + 1] = text end
  function f.GetUserInputs(_, count, captions, values)
    local whole = count == 1 and captions:find("separator=\n", 1, true)
    if not whole then error("GetUserInputs: commas would part a text") end
    local answer = table.remove(self.answers, 1)
    return answer ~= nil, answer or values
  end
  function f.AddRemoveReaScript(_, _, path)
    self.registered[#self.registered + 1] = path
    return #self.registered
  end

  -- scripts
  function f.defer(run) self.queue[#self.queue + 1] = { run = run, instance = self.running } end
  function f.atexit(run) table.insert(self.running.exits, run) end
  function f.set_action_options(flags) self.running.options = flags end

  -- rendering, which REAPER does while everything waits
  f.Main_OnCommandEx = outside(function(command, _, proj)
    if command ~= 42230 then error("the stub does not know command " .. command) end
    self.commands[#self.commands + 1] = command
    local project = self:project(proj)
    local info, rate = project.info, math.floor(project.info.RENDER_SRATE)
    if info.RENDER_SETTINGS ~= 2 or info.RENDER_BOUNDSFLAG ~= 0 or project.texts.RENDER_FORMAT ~= "ZXZhdyAAAA==" then
      error("the stub renders stems of selected tracks between two times as float WAV")
    end
    local first = math.floor(info.RENDER_STARTPOS * rate + 0.5)
    local count = math.floor(info.RENDER_ENDPOS * rate + 0.5) - first
    local channels = math.floor(info.RENDER_CHANNELS)
    for _, track in ipairs(selected(project.tracks)) do
      local samples = model.play(track, rate, channels, first, count) or {}
      for i = 1, count * channels do samples[i] = (samples[i] or 0.0) * track.gain end
      local path = project.texts.RENDER_FILE .. "/" .. project.texts.RENDER_PATTERN .. ".wav"
      local file = assert(io.open(path, "wb"))
      file:write(wav.header(rate, channels, count), wav.pack(samples, 1, count * channels))
      file:close()
    end
  end)
  return f
end

--- End an instance of a script as REAPER does: what it deferred is dropped, what it left for its end is run.
function host:terminate(instance)
  for i = #self.queue, 1, -1 do if self.queue[i].instance == instance then table.remove(self.queue, i) end end
  self.running = instance
  for i = #instance.exits, 1, -1 do instance.exits[i]() end
  instance.ended, self.running = true, nil
end

function host:timed(run)
  local at, blocked = os.clock(), self.blocked_s
  run()
  local spent = os.clock() - at - (self.blocked_s - blocked)
  self.turns = self.turns + 1
  if spent > self.longest_s then self.longest_s = spent end
  if spent > 0.015 then self.late = self.late + 1 end
  return spent
end

--- Run a script of the scripts' folder, as its action does.
function host:action(path)
  local before = self.instances[path]
  if before and not before.ended then
    local may = before.options and before.options & 1 == 1
    if not may then error("REAPER would ask what to do with the running script") end
    self:terminate(before)
  end
  -- each script has a Lua of its own
  for name in pairs(package.loaded) do if name:match("^segue%.") then package.loaded[name] = nil end end
  local instance = { exits = {} }
  self.instances[path], self.running = instance, instance
  _G.reaper, _G.gfx = self.api, self.gfx
  local chunk = assert(loadfile(path))
  local kept = package.path
  self:timed(chunk)
  package.path, self.running = kept, nil
  self:settle(instance)
end

function host:settle(instance)
  for _, entry in ipairs(self.queue) do if entry.instance == instance then return end end
  if not instance.ended then self:terminate(instance) end
end

--- One turn of everything deferred. Returns how many scripts live on.
function host:tick()
  local due = self.queue
  self.queue = {}
  for _, entry in ipairs(due) do
    self.running = entry.instance
    self:timed(entry.run)
    if self.refresh ~= 0 then error("PreventUIRefresh is left on at the end of a turn") end
    for _, project in ipairs(self.projects) do
      if project.block ~= 0 then error("an undo block is left open at the end of a turn") end
    end
    self.running = nil
    self:settle(entry.instance)
  end
  return #self.queue
end

--- What scripts left behind: every entry is a mistake of theirs.
function host:left_behind()
  local found = json.array()
  if self.accessors ~= 0 then found[#found + 1] = self.accessors .. " audio accessors" end
  for source in pairs(self.sources) do found[#found + 1] = "the source " .. source.path end
  return found
end

return host
