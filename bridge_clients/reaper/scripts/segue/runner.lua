-- @noindex
-- The script's life: one turn about thirty times a second, each of them short, until no job is left.

local command = require "segue.command"
local files = require "segue.files"
local history = require "segue.history"
local job = require "segue.job"
local json = require "segue.json"
local project = require "segue.project"
local progress = require "segue.progress"

local runner = {}

local BUDGET_S = 0.006 -- of a turn, for work; drawing comes on top, and 15 ms is what a turn may take
local LEASE_S = 3
local STALE_S = 7 * 86400 -- a job directory that nobody came back for
local SECTION = "segue"

--- Show a sentence to the user, now.
function runner.say(text) reaper.MB(text, "Segue", 0) end

local function lease_key(id) return "lease-" .. id end

local function leased(id)
  local at = tonumber(reaper.GetExtState(SECTION, lease_key(id)))
  return at ~= nil and math.abs(reaper.time_precise() - at) < LEASE_S
end

local state = { jobs = {}, window = nil, errors = 0 }

local function add(one)
  state.jobs[#state.jobs + 1] = one
  reaper.SetExtState(SECTION, lease_key(one.id), tostring(reaper.time_precise()), false)
end

local function renew_leases()
  local now = reaper.time_precise()
  if state.renewed and now - state.renewed < 1 then return end
  state.renewed = now
  for _, one in ipairs(state.jobs) do
    if not one.ended then reaper.SetExtState(SECTION, lease_key(one.id), tostring(now), false) end
  end
end

local function give_up(one) reaper.DeleteExtState(SECTION, lease_key(one.id), false) end

--- Folders of jobs that landed, or that nobody came back for, are removed a few files a turn.
local function sweep(pause)
  local parent = command.jobs_folder()
  for _, entry in ipairs(files.names(parent)) do
    local folder = files.join(parent, entry.name)
    if entry.folder and entry.name:match("^job%-%x+$") and not leased(entry.name) then
      local kept = json.decode(files.read(files.join(folder, "host.json")) or "")
      local asked = type(kept) == "table" and tonumber(kept.asked) or nil
      local age = asked and os.time() - asked or 0
      local landed = files.exists(files.join(folder, "landed"))
      if age > STALE_S or (landed and age > 86400) then files.remove_folder(folder, pause) end
    end
    pause()
  end
end

local function work(until_s)
  local busy = true
  while busy and reaper.time_precise() < until_s do
    busy = false
    for _, one in ipairs(state.jobs) do
      if one:resume(until_s) then busy = true end
      if one.ended and not one.told then
        one.told = true
        give_up(one)
      end
    end
  end
  if state.sweeper and reaper.time_precise() < until_s then
    local ok = coroutine.resume(state.sweeper, until_s)
    if not ok or coroutine.status(state.sweeper) == "dead" then state.sweeper = nil end
  end
end

local function active()
  for _, one in ipairs(state.jobs) do if not one.ended then return true end end
  return false
end

local function turn()
  local ok, problem = xpcall(function()
    renew_leases()
    work(reaper.time_precise() + BUDGET_S)
    state.window = progress.draw(state.window, state.jobs)
  end, debug.traceback)
  if not ok then
    state.errors = state.errors + 1
    if state.errors == 1 then reaper.ShowConsoleMsg("Segue: " .. tostring(problem) .. "\n") end
    if state.errors > 3 then return end -- jobs go on by themselves and are picked up at the next action
  end
  if active() or state.sweeper or progress.wanted(state.window, state.jobs) then
    reaper.defer(turn)
  else
    progress.close(state.window)
  end
end

local function at_exit()
  for _, one in ipairs(state.jobs) do
    if one.closing then pcall(one.closing) end
    pcall(give_up, one)
  end
  pcall(progress.close, state.window)
end

local function take_up_others(proj, here)
  for _, entry in ipairs(history.unfinished(proj)) do
    local known = false
    for _, one in ipairs(state.jobs) do known = known or one.id == entry.id end
    if not known and not leased(entry.id) then
      local one = job.attach(proj, here, entry)
      if one then add(one) end
    end
  end
end

--- Begin with jobs and stay until they have landed. Also picks up what an earlier run left in this project.
function runner.run(proj, here, jobs)
  for _, one in ipairs(jobs) do add(one) end
  take_up_others(proj, here)
  state.window = progress.open()
  reaper.atexit(at_exit)
  state.sweeper = coroutine.create(function(until_s)
    sweep(function()
      if reaper.time_precise() >= until_s then until_s = coroutine.yield() end
    end)
  end)
  reaper.defer(turn) -- the action itself has taken its time: loading these files, looking at the selection
end

--- Run an action: everything in it is inside pcall, so that nothing of ours reaches REAPER as an error.
function runner.guard(action)
  local ok, problem = xpcall(action, function(raised)
    if type(raised) == "table" then return raised end
    return debug.traceback(tostring(raised))
  end)
  if ok then return end
  local text = type(problem) == "table" and problem.said or ("Something unexpected happened: " .. tostring(problem))
  pcall(runner.say, text)
end

--- The project in front, or a sentence.
function runner.project()
  local proj = project.current()
  if not proj then error({ said = "Open a project first." }, 0) end
  return proj
end

return runner
