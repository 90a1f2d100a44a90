-- @noindex
-- One job, from the selection to the timeline: a coroutine that gives the interface its time back after a few
-- milliseconds, wherever it is. All it knows is in the job directory and the project, so that another run of the
-- script can take it up.

local command = require "segue.command"
local files = require "segue.files"
local growing = require "segue.growing"
local history = require "segue.history"
local json = require "segue.json"
local landing = require "segue.landing"
local project = require "segue.project"
local reading = require "segue.reading"
local request = require "segue.request"

local job = {}
job.__index = job

local SILENT_S = 10 -- no sign of life for so long: the command has ended
local SILENT_TICKS = 100 -- and so many looks at it: REAPER itself may have stood still behind a dialog
local MOST_STARTS = 4


local function say(text) error({ said = text }, 0) end

--- A new job for a plan, or nil and a sentence.
function job.new(proj, here, plan, values)
  local path, missing = command.find(here)
  if not path then return nil, missing end
  local folder, why = command.new_folder()
  if not folder then return nil, why end
  local made = setmetatable({ proj = proj, here = here, plan = plan, values = values, folder = folder,
    id = folder:match("([%w_-]+)$"), state = "reading", message = "Reading the selection", part = 0,
    takes = {}, notes = {}, asked = os.time() }, job)
  made:save()
  return made
end

--- A job that an earlier run of the script, or an earlier REAPER, left behind. Nil when its folder is no use.
function job.attach(proj, here, entry)
  local kept = json.decode(files.read(files.join(entry.folder, "host.json")) or "")
  if type(kept) ~= "table" or type(kept.plan) ~= "table" or type(kept.values) ~= "table" then return nil end
  if not files.exists(files.join(entry.folder, "request.json")) then return nil end
  return setmetatable({ proj = proj, here = here, plan = kept.plan, values = kept.values, folder = entry.folder,
    id = entry.id, state = "running", message = "Picking up where it was", part = 0, takes = {}, notes = {},
    asked = kept.asked, items = kept.items, attached = true }, job)
end

--- Keep what another run needs to go on.
function job:save()
  files.write(files.join(self.folder, "host.json"), json.encode({ version = 1, asked = self.asked,
    plan = self.plan, values = self.values, items = self.items or {} }))
end

function job:note(state)
  if project.open(self.proj) then
    history.put(self.proj, { id = self.id, folder = self.folder, mode = self.plan.mode, state = state,
      seed = self.seed, asked = self.asked })
  end
end

--- Ask it to stop. The daemon stops within a step; until the command says so the job is still there.
function job:cancel()
  if self.ended then return end
  self.cancelling, self.message = true, "Stopping"
  files.write(files.join(self.folder, "cancel"), "")
end

function job:step_aside(part)
  if part then self.part = 0.05 * part end
  if reaper.time_precise() >= self.until_s then coroutine.yield() end
  if self.cancelling and self.state == "reading" then error({ stopped = true }, 0) end
  if not project.open(self.proj) then error({ closed = true }, 0) end
end

local handlers = {}

function handlers.accepted(self, line)
  self.seed, self.lead = line.seed or self.seed, line.lead_frames or self.plan.lead
  self.number = line.job
  if type(line.frames) == "number" then self.plan.frames = line.frames end
  self:note("running")
end

function handlers.tick(self, line)
  self.message = line.message or self.message
  if type(line.total) == "number" and line.total > 0 and type(line.done) == "number" then
    self.part = 0.05 + 0.9 * math.min(1, line.done / line.total)
  end
  self.eta_s = line.eta_s
end

function handlers.note(self, line) self.remark = line.message end

handlers.audio = growing.heard
handlers.discard = growing.discard

function handlers.take(self, line)
  if type(line.file) ~= "string" then return end
  for _, known in ipairs(self.takes) do -- a second start may tell again what the first one told
    if known.variation == line.variation - 1 and known.stem == line.stem then return end
  end
  self.takes[#self.takes + 1] = { variation = line.variation - 1, stem = line.stem, frames = line.frames,
    path = landing.path(self, line.file), handle_frames = line.handle_frames or 0, tail_frames = line.tail_frames or 0 }
end

function job:listen()
  while true do
    local text = self.tail:line()
    if not text then return end
    local line = json.decode(text)
    local handler = type(line) == "table" and handlers[line.event]
    if handler then
      for name, value in pairs(line) do if value == json.null then line[name] = nil end end
      handler(self, line)
    end
    self:step_aside()
  end
end

function job:start()
  self.starts = (self.starts or 0) + 1
  local ok, why = command.start(self.here, self.folder)
  if not ok then say(why) end
end

--- Whether the command shows that it lives; where it does not, it is started again and goes on. Lua cannot see
--- when `heartbeat` was touched, but what stands in it changes with every beat.
function job:look_for_life()
  local sign = (files.read(files.join(self.folder, "heartbeat"), 256) or "") .. "/" .. self.tail.at
  self.looks = (self.looks or 0) + 1
  local now = reaper.time_precise()
  if sign ~= self.sign then self.sign, self.sign_at, self.looks = sign, now, 0 end
  if now - self.sign_at < SILENT_S or self.looks < SILENT_TICKS then return end
  if self.starts and self.starts >= MOST_STARTS then
    say("The segue command does not answer: run `segue doctor` in a terminal, it says what is wrong.")
  end
  self.remark = "The segue command had ended; it was started again."
  self.sign = nil
  self:start()
end

function job:watch()
  self.tail = files.tail(files.join(self.folder, "progress"))
  local done_path = files.join(self.folder, "done")
  while true do
    local text = files.read(done_path) -- before the lines: what stands there when it is written is complete
    self:listen()
    if text and text ~= "" then
      local done = json.decode(text)
      if type(done) == "table" then return done end
    end
    growing.step(self, function() self:step_aside() end)
    self:look_for_life()
    coroutine.yield("wait")
    if not project.open(self.proj) then error({ closed = true }, 0) end
  end
end

local function sentence(done)
  local message = json.get(done, "message")
  return message or ("The job failed (" .. tostring(json.get(done, "code") or "no reason was told") .. ").")
end

function job:finish(done)
  self.settings = json.get(done, "settings")
  self.seed = json.get(done, "seed") or self.seed
  local state = json.get(done, "state")
  if state == "cancelled" then error({ stopped = true }, 0) end
  if state ~= "done" then say(sentence(done)) end
  local ignored = json.get(done, "ignored")
  if json.is_array(ignored) and type(ignored[1]) == "string" then self.remark = ignored[1] end
  if #self.takes == 0 then say("The job ended without a take: run `segue doctor` in a terminal.") end
  self.state, self.message = "landing", "Landing"
  local keep = growing.in_undo(self)
  local sources = landing.land(self)
  files.write(files.join(self.folder, "landed"), "")
  self:note("done")
  self.part = 0.97
  for _, source in ipairs(sources) do
    if reaper.PCM_Source_BuildPeaks(source, 0) ~= 0 then
      while reaper.ValidatePtr2(self.proj, source, "PCM_source*") and reaper.PCM_Source_BuildPeaks(source, 1) ~= 0 do
        self:step_aside()
      end
      if reaper.ValidatePtr2(self.proj, source, "PCM_source*") then reaper.PCM_Source_BuildPeaks(source, 2) end
    end
  end
  reaper.UpdateArrange()
  if not keep then files.remove_folder(self.folder, function() self:step_aside() end) end
end

function job:run()
  if not self.attached then
    reading.write(self, function(part) self:step_aside(part) end)
    local wanted = request.build(self, function() self:step_aside() end)
    local ok, why = files.write(files.join(self.folder, "request.json"), json.encode(wanted))
    if not ok then say("The job's folder cannot be written: " .. tostring(why)) end
    self.state, self.message = "running", "Starting Segue"
    self:note("running")
    self:start()
  end
  self:finish(self:watch())
end

--- How it ended, in a sentence; `problem` is what was raised.
function job:settle(problem)
  self.ended = true
  if self.closing then pcall(self.closing) end
  if problem == nil then
    self.state, self.message, self.part, self.eta_s = "done", "Done", 1, nil
    return
  end
  local kind = type(problem) == "table" and problem or { said = nil, why = tostring(problem) }
  if kind.closed then -- the project is gone: the job goes on, and is picked up when the project is opened again
    self.state, self.message = "closed", "The project was closed"
    return
  end
  pcall(landing.remove, self)
  if kind.stopped then
    self.state, self.message = "cancelled", "Stopped"
  else
    self.state = "failed"
    self.message = kind.said or ("Something unexpected happened: " .. tostring(kind.why))
    pcall(self.cancel_files, self)
  end
  pcall(self.note, self, self.state)
  if self.state == "cancelled" then pcall(files.remove_folder, self.folder) end
end

--- A job that failed on this side must not go on in the daemon.
function job:cancel_files()
  if not files.exists(files.join(self.folder, "done")) then files.write(files.join(self.folder, "cancel"), "") end
end

--- Give it time until `until_s`. Returns whether it could use more of it.
function job:resume(until_s)
  if self.ended then return false end
  self.until_s = until_s
  self.thread = self.thread or coroutine.create(function() self:run() end)
  local ok, what = coroutine.resume(self.thread)
  if not ok then
    local trace = type(what) ~= "table" and debug.traceback(self.thread, tostring(what)) or nil
    self:settle(trace or what)
    return false
  end
  if coroutine.status(self.thread) == "dead" then
    self:settle(nil)
    return false
  end
  return what ~= "wait"
end

return job
