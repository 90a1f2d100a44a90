-- @noindex
-- Audio on the timeline while it is made. A source that REAPER has opened does not grow, so each step writes a
-- longer file in the job directory and gives it to the take; steps grow with the take, which keeps all that is
-- written within some times its length. Nothing here makes an undo step: the landing does, once, for all of it.

local files = require "segue.files"
local landing = require "segue.landing"
local wav = require "segue.wav"

local growing = {}

local FIRST_S, GROWTH = 0.5, 1.5 -- the first step at half a second, then whenever there is half as much again
local COPY_BYTES = 65536

--- Note a chunk that a progress line tells of.
function growing.heard(job, line)
  if type(line.file) ~= "string" or type(line.position) ~= "number" or type(line.frames) ~= "number" then return end
  local stem, variation = line.stem or "mix", line.variation - 1
  local key = stem .. "/" .. variation
  job.chunks = job.chunks or {}
  local list = job.chunks[key] or { stem = stem, variation = variation, shown = 0, steps = 0 }
  job.chunks[key] = list
  -- what comes again from an earlier place replaces what was there
  while #list > 0 and list[#list].position >= line.position do list[#list] = nil end
  list[#list + 1] = { path = landing.path(job, line.file), position = line.position, frames = line.frames }
end

--- What was told at and after a position is void, of everything; it comes again.
function growing.discard(job, line)
  if type(line.position) ~= "number" then return end
  for _, list in pairs(job.chunks or {}) do
    while #list > 0 and list[#list].position >= line.position do list[#list] = nil end
    list.shown = 0
  end
end

local function length(list)
  local last = list[#list]
  return last and math.max(0, last.position + last.frames) or 0
end

--- One longer file of all chunks from position 0 on. Returns its path, or nil when a chunk cannot be read.
local function write(job, list, frames, pause)
  list.steps = list.steps + 1
  local path = files.join(job.folder, string.format("grow-%s-%d-%d.wav", list.stem, list.variation, list.steps))
  local out = io.open(path, "wb")
  if not out then return nil end
  job.closing = function() if io.type(out) == "file" then out:close() end end
  local left, at, channels = frames, 0, nil
  for _, chunk in ipairs(list) do
    local file = io.open(chunk.path, "rb")
    local info = file and wav.inspect_open(file)
    if not info or not info.float or info.bits ~= 32 or (channels and channels ~= info.channels) then
      if file then file:close() end
      break
    end
    if not channels then
      channels = info.channels
      out:write(wav.header(info.rate, channels, frames))
    end
    local width = channels * 4
    local skip = math.max(0, at - chunk.position)
    local wanted = math.min(left, math.max(0, info.frames - skip)) * width
    file:seek("set", info.data_at + skip * width)
    while wanted > 0 do
      local data = file:read(math.min(COPY_BYTES, wanted))
      if not data then break end
      out:write(data)
      wanted = wanted - #data
      left, at = left - #data // width, at + #data // width
      pause()
    end
    file:close()
    if wanted > 0 then break end
  end
  out:close()
  job.closing = nil
  return left == 0 and path or nil
end

--- Let the items grow by what has come, if that is enough to be worth it.
function growing.step(job, pause)
  if job.values.landing ~= "grow" or job.plan.into or not job.chunks or job.growth_over then return end
  local seen = {}
  for _, list in pairs(job.chunks) do seen[list.stem] = true end
  local stems = landing.stems(job, seen)
  local wanted, due = {}, false
  -- a model's stems come beside its mix: until a second step would be due, they may still come
  local least_s = landing.wants_stems(job) and stems[1] == "mix" and FIRST_S * GROWTH or FIRST_S
  for _, stem in ipairs(stems) do
    local shortest, shown
    for _, list in pairs(job.chunks) do
      if list.stem == stem then
        shortest = math.min(shortest or math.huge, length(list))
        shown = math.max(shown or 0, list.shown)
      end
    end
    local enough = math.max(least_s * job.plan.rate, (shown or 0) * GROWTH)
    if shortest and (shortest >= enough or (shortest >= job.plan.frames and shown < shortest)) then
      wanted[stem], due = math.tointeger(math.min(shortest, job.plan.frames)), true
    end
  end
  if not due then return end
  for _, list in pairs(job.chunks) do
    local frames = wanted[list.stem]
    local path = frames and write(job, list, frames, pause)
    if frames and not path then return end -- the next step has another chance; the landing needs none of this
    if path then list.ready = { path = path, frames = frames } end
  end
  if job.items and next(job.items) and not growing.there(job) then
    -- undone or deleted by the user: do not put it back under their hands; the landing will
    job.growth_over = true
    return
  end
  job.undo_before = job.undo_before or reaper.Undo_CanUndo2(job.proj) or ""
  reaper.PreventUIRefresh(1)
  local ok, problem = pcall(function()
    for _, stem in ipairs(stems) do
      for variation = 0, job.values.variations - 1 do
        local list = job.chunks[stem .. "/" .. variation]
        if list and list.ready then
          local item = landing.put(job, stem, variation, list.ready.path, 0, list.ready.frames)
          list.shown, list.ready = list.ready.frames, nil
          reaper.UpdateItemInProject(item)
        end
      end
    end
  end)
  reaper.PreventUIRefresh(-1)
  reaper.UpdateArrange()
  if not ok then error(problem, 0) end
  job:save() -- another run of the script finds the items
end

--- Whether everything that grew is still in the project.
function growing.there(job)
  local project = require "segue.project"
  for _, entry in pairs(job.items) do
    if not project.item(job.proj, entry.guid, project.track(job.proj, entry.track)) then return false end
  end
  return true
end

--- Whether the user made an undo step while something grew: then that step needs the grown files.
function growing.in_undo(job)
  return job.undo_before ~= nil and (reaper.Undo_CanUndo2(job.proj) or "") ~= job.undo_before
end

return growing
