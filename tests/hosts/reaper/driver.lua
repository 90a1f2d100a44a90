-- REAPER's stub as a process: commands come as JSON lines, answers go back as JSON lines. The one who asks is the
-- clock: each `tick` is one turn of REAPER's main loop.
--
--     lua5.4 driver.lua SCRIPTS TESTS

local scripts, tests = arg[1], arg[2]
package.path = scripts .. "/?.lua;" .. tests .. "/?.lua;" .. package.path
local json = require "segue.json"
local host = require "stub.host"
local model = require "stub.model"
local tempo = require "stub.tempo"

local reaper_stub
local commands = {}

function commands.open(given)
  reaper_stub = host.new({ resource = given.resource, media = given.media, api = tests .. "/api.json",
    device_rate = given.device_rate })
  reaper_stub:set_wall(given.wall or 0)
  return { ok = true }
end

--- Lay out the project in front: rate, tempo (markers), tracks with items, selections, cursor.
function commands.lay(given)
  local project = reaper_stub.front
  project.info.PROJECT_SRATE = given.rate or 48000
  if given.tempo then project.tempo = tempo.new(given.tempo) end
  model.forget(project)
  for _, wanted in ipairs(given.tracks or {}) do
    local track = model.track(project, #project.tracks)
    track.name, track.selected, track.gain = wanted.name or "", wanted.selected == true, wanted.gain or 1.0
    for _, one in ipairs(wanted.items or {}) do
      local item = model.item(track)
      item.selected = one.selected == true
      item.info.D_POSITION, item.info.D_LENGTH = one.position, one.length
      local take = model.take(item)
      take.source = assert(model.source(one.path), one.path)
      take.info.D_STARTOFFS = one.offset or 0.0
    end
  end
  if given.selection then project.selection = { given.selection[1], given.selection[2] } end
  project.cursor = given.cursor or 0.0
  model.keep(project, "laid out")
  return { ok = true }
end

--- A project of somebody who has worked for long: many tracks with many items of the same sound.
function commands.crowd(given)
  local project = reaper_stub.front
  local source = assert(model.source(given.path))
  model.forget(project)
  for _ = 1, given.tracks do
    local track = model.track(project, #project.tracks)
    for i = 1, given.items do
      local item = model.item(track)
      item.info.D_POSITION, item.info.D_LENGTH = i * 2.0, 1.0
      model.take(item).source = source
    end
  end
  model.keep(project, "laid out")
  return { ok = true }
end

function commands.settings(given)
  local settings = dofile(scripts .. "/segue/settings.lua")
  _G.reaper = reaper_stub.api
  local values = settings.load(reaper_stub.front)
  for name, value in pairs(given.values) do values[name] = value end
  settings.save(reaper_stub.front, values)
  return { ok = true }
end

function commands.action(given)
  reaper_stub:set_wall(given.wall)
  reaper_stub:action(scripts .. "/Segue - " .. given.name .. ".lua")
  return { alive = #reaper_stub.queue }
end

function commands.tick(given)
  reaper_stub:set_wall(given.wall)
  return { alive = reaper_stub:tick() }
end

function commands.click(given) return { ok = reaper_stub.window.click(given.label) } end
function commands.close_window() reaper_stub.window.clicks = { "close" } return { ok = true } end
function commands.undo() return { ok = reaper_stub.api.Undo_DoUndo2(reaper_stub.front) == 1 } end
function commands.redo() return { ok = reaper_stub.api.Undo_DoRedo2(reaper_stub.front) == 1 } end

--- The user does something of his own, with an undo point.
function commands.touch(given)
  local project = reaper_stub.front
  model.forget(project)
  if given.what == "delete_item" then
    local items = project.tracks[given.track + 1].items
    table.remove(items, given.item + 1)
  elseif given.what == "delete_track" then table.remove(project.tracks, given.track + 1)
  elseif given.what == "select" then
    for t, track in ipairs(project.tracks) do
      for i, item in ipairs(track.items) do item.selected = t == given.track + 1 and i == given.item + 1 end
    end
    return { ok = true }
  end
  model.keep(project, given.what)
  return { ok = true }
end

function commands.new_tab()
  reaper_stub:add_project()
  return { ok = true }
end

function commands.front(given)
  reaper_stub.front = reaper_stub.projects[given.index + 1]
  return { ok = true }
end

function commands.close_project()
  local closed = reaper_stub.front
  for i, project in ipairs(reaper_stub.projects) do
    if project == closed and #reaper_stub.projects == 1 then reaper_stub:add_project() break end
    if project ~= closed and i then reaper_stub.front = project end
  end
  closed.open = false
  return { ok = true }
end

--- Open a project again as it was saved: everything has new pointers.
function commands.reopen(given)
  local old = reaper_stub.projects[given.index + 1]
  model.keep(old, "saved")
  local project = reaper_stub:add_project()
  local saved = { "info", "texts", "ext", "tempo", "media", "selection", "cursor" }
  for _, name in ipairs(saved) do project[name] = old[name] end
  project.history, project.at = { old.history[old.at] }, 1
  model.go(project, 0)
  return { ok = true }
end

local function plain(project)
  local tracks = json.array()
  for t, track in ipairs(project.tracks) do
    local items = json.array()
    for i, item in ipairs(track.items) do
      local takes = json.array()
      for k, take in ipairs(item.takes) do
        takes[k] = { name = take.name, path = take.source and take.source.path, info = take.info,
          peaks = take.source and tostring(model.peaks[take.source.path]) }
      end
      items[i] = { info = item.info, takes = takes, active = item.active, ext = item.ext, guid = item.guid }
    end
    tracks[t] = { name = track.name, items = items, info = track.info, selected = track.selected }
  end
  return tracks
end

function commands.state()
  local project = reaper_stub.front
  local labels, texts = json.array(), json.array()
  for i, entry in ipairs(project.history) do labels[i] = entry.label end
  for i, entry in ipairs(reaper_stub.window.texts) do texts[i] = entry.text end
  return { tracks = plain(project), undo = labels, at = project.at, ext = project.ext, info = project.info,
    texts = project.texts, messages = json.array(reaper_stub.messages), console = json.array(reaper_stub.console),
    window = { open = reaper_stub.window.open, texts = texts }, longest_s = reaper_stub.longest_s,
    late = reaper_stub.late,
    turns = reaper_stub.turns, started = json.array(reaper_stub.started), left = reaper_stub:left_behind(),
    registered = json.array(reaper_stub.registered) }
end

--- What the scripts make of tempo maps, without any job: the map they send, the length of so many bars, the way to
--- the next bar line, and where a chain of continuations of one bar each begins and ends.
function commands.bars(given)
  _G.reaper = reaper_stub.api
  local timemap = require "segue.timemap"
  local project = reaper_stub.front
  local found = json.array()
  for i, one in ipairs(given.maps) do
    project.tempo = tempo.new(one.tempo)
    local seam, rate = one.seam, one.rate
    local last = timemap.after_bars(project, seam, one.bars, rate)
    local line = timemap.next_bar(project, seam, rate)
    local chain = json.array({ seam })
    for k = 1, one.chain or 0 do chain[k + 1] = timemap.after_bars(project, chain[k], 1, rate) end
    found[i] = { map = timemap.read(project, seam, seam, math.max(last, line), rate), frames = last - seam,
      lead = line - seam, chain = chain }
  end
  return { found = found }
end

io.stdout:setvbuf("line")
for line in io.lines() do
  local given = assert(json.decode(line))
  local ok, answer = xpcall(commands[given["do"]], debug.traceback, given)
  io.stdout:write(json.encode(ok and answer or { error = tostring(answer) }), "\n")
end
