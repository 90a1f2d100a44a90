-- @noindex
-- Takes into the project: an item at the exact sample, of the exact length, one undo step for all of it.

local files = require "segue.files"
local json = require "segue.json"
local project = require "segue.project"

local landing = {}

local EQUAL_POWER = 1 -- REAPER's fade shape that keeps the power when one fades in and another out
local FIXED_LANES = 2

function landing.wants_stems(job) return job.values.stems or job.plan.mode == "accompany" end

--- Which of the stems that came are landed: the stems where stems were wanted and the model has them.
function landing.stems(job, seen)
  local parts = {}
  for stem in pairs(seen) do if stem ~= "mix" then parts[#parts + 1] = stem end end
  table.sort(parts)
  if landing.wants_stems(job) and #parts > 0 then return parts end
  return seen.mix and { "mix" } or parts
end

--- Where the new audio begins, in samples of the project.
function landing.start(job) return job.plan.seam + (job.lead or job.plan.lead) end

local function wants_lanes(job) return job.values.takes == "lanes" and not job.plan.into end

--- The item that new takes are put beside, for a retake; nil when it is gone or was cut.
local function retaken(job)
  local item = job.plan.into and project.item(job.proj, job.plan.into)
  if not item then return nil end
  local first, last = project.span(item, job.plan.rate)
  local open, behind = landing.start(job) - first, last - landing.start(job) - job.plan.frames
  if open < 0 or behind < 0 then return nil end
  for _, take in ipairs(job.takes) do
    if take.handle_frames < open or take.tail_frames < behind then return nil end
  end
  return item, open
end

local function new_item(track)
  local item = reaper.AddMediaItemToTrack(track)
  -- the user's preferences may fade and loop new items: this one is to sound exactly as its file does
  for name, value in pairs({ B_LOOPSRC = 0, D_FADEINLEN = 0, D_FADEOUTLEN = 0, D_VOL = 1 }) do
    reaper.SetMediaItemInfo_Value(item, name, value)
  end
  return item
end

local function track_for(job, stem, last)
  local own = project.track(job.proj, job.plan.track)
  local simple = own and not job.plan.mix and stem == "mix" and not wants_lanes(job)
  if simple then
    local source = job.plan.item and project.item(job.proj, job.plan.item, own)
    if project.free(own, landing.start(job), last, job.plan.rate, source) then return own end
  end
  local after = job.last_track and project.track(job.proj, job.last_track) or own
  local made = project.add_track(job.proj, after, stem == "mix" and "segue" or "segue " .. stem)
  job.last_track = project.track_guid(made)
  return made
end

--- Items for stems and variations, as far as they are not there yet: job.items[key] = {guid, track}.
local function slot(job, stem, variation)
  local lanes = wants_lanes(job)
  local key = lanes and stem .. variation or stem
  job.items = job.items or {}
  local known = job.items[key]
  local near = known and project.track(job.proj, known.track)
  local item = known and project.item(job.proj, known.guid, near)
  if item then return item, lanes and 0 or variation, key end
  local open
  if not lanes and stem == "mix" then item, open = retaken(job) end
  if item then
    job.items[key] = { guid = project.item_guid(item), track = project.track_guid(reaper.GetMediaItem_Track(item)),
      stem = stem, before = reaper.CountTakes(item), open = open }
    return item, variation, key
  end
  local last = landing.start(job) + job.plan.frames
  local track
  for _, entry in pairs(job.items) do
    if lanes and entry.stem == stem then track = project.track(job.proj, entry.track) end
  end
  if not track then
    track = track_for(job, stem, last)
    if lanes then reaper.SetMediaTrackInfo_Value(track, "I_FREEMODE", FIXED_LANES) end
  end
  item = new_item(track)
  if lanes then
    reaper.SetMediaItemInfo_Value(item, "I_FIXEDLANE", variation)
    -- the first variation plays, the others wait in their lanes
    reaper.SetMediaTrackInfo_Value(track, "C_LANEPLAYS:" .. variation, variation == 0 and 1 or 0)
  end
  job.items[key] = { guid = project.item_guid(item), track = project.track_guid(track), stem = stem, before = 0 }
  return item, lanes and 0 or variation, key
end

local function name_of(job, stem, variation)
  local part = stem == "mix" and "" or " " .. stem
  return string.format("segue %s v%d%s seed %s", job.plan.mode, variation + 1, part, tostring(job.seed or "?"))
end

local function set_source(take, path)
  local source = reaper.PCM_Source_CreateFromFile(path)
  if not source then error({ said = "REAPER could not open the take " .. path .. "." }, 0) end
  local old = reaper.GetMediaItemTake_Source(take)
  reaper.SetMediaItemTake_Source(take, source)
  if old then reaper.PCM_Source_Destroy(old) end
  return source
end

--- Put a file under a variation of a stem: `skip` samples of it lie before the item's beginning, `frames` are
--- heard. Returns the item, the take and the source.
function landing.put(job, stem, variation, path, skip, frames)
  local item, index, key = slot(job, stem, variation)
  local rate = job.plan.rate
  local open = job.items[key].open -- of an item that was there before: how far it is pulled open over its handle
  index = index + (job.items[key].before or 0)
  while reaper.CountTakes(item) <= index do reaper.AddTakeToMediaItem(item) end
  local take = reaper.GetTake(item, index)
  local source = set_source(take, path)
  reaper.SetMediaItemTakeInfo_Value(take, "D_STARTOFFS", project.seconds(skip - (open or 0), rate))
  reaper.GetSetMediaItemTakeInfo_String(take, "P_NAME", name_of(job, stem, variation), true)
  if not open then
    reaper.SetMediaItemInfo_Value(item, "D_POSITION", project.seconds(landing.start(job), rate))
    reaper.SetMediaItemInfo_Value(item, "D_LENGTH", project.seconds(frames, rate))
  end
  return item, take, source
end

--- The item on the same track that ends (or begins) at a sample, if it is long enough to be faded over.
local function neighbour(job, track, guid, edge, frame, least)
  local item = guid and project.item_on(track, guid)
  if not item then return nil end
  local first, last = project.span(item, job.plan.rate)
  local at = edge == "end" and last or first
  return at == frame and last - first >= least and item or nil
end

--- Pull the item open over its handles and fade it and its neighbours into each other. Only where the new audio
--- follows its own item, or goes before the one behind the gap, on the same track without a space between.
local function crossfade(job, item, handle, tail)
  if not job.values.crossfade or (job.lead or 0) > 0 then return end
  local plan, rate = job.plan, job.plan.rate
  local track = reaper.GetMediaItem_Track(item)
  local before = handle > 0 and neighbour(job, track, plan.item, "end", plan.seam, handle)
  local behind = tail > 0 and neighbour(job, track, plan.next, "begin", plan.seam + plan.frames, tail)
  local opened, longer = before and handle or 0, behind and tail or 0
  reaper.SetMediaItemInfo_Value(item, "D_POSITION", project.seconds(plan.seam - opened, rate))
  reaper.SetMediaItemInfo_Value(item, "D_LENGTH", project.seconds(opened + plan.frames + longer, rate))
  for index = 0, reaper.CountTakes(item) - 1 do
    local take = reaper.GetTake(item, index)
    local offset = project.frame(reaper.GetMediaItemTakeInfo_Value(take, "D_STARTOFFS"), rate)
    reaper.SetMediaItemTakeInfo_Value(take, "D_STARTOFFS", project.seconds(offset - opened, rate))
  end
  local function fade(one, name, frames)
    reaper.SetMediaItemInfo_Value(one, "D_FADE" .. name .. "LEN_AUTO", project.seconds(frames, rate))
    reaper.SetMediaItemInfo_Value(one, "C_FADE" .. name .. "SHAPE", EQUAL_POWER)
  end
  if before then
    fade(item, "IN", handle)
    fade(before, "OUT", handle)
  end
  if behind then
    fade(item, "OUT", tail)
    fade(behind, "IN", tail)
  end
end

--- What stands with the item: enough to ask again, now or in ten years.
local function remember(job, item)
  local text = json.encode({ version = 1, job = job.number, seed = job.seed, lead_frames = job.lead, plan = job.plan,
    values = job.values, settings = job.settings })
  reaper.GetSetMediaItemInfo_String(item, "P_EXT:segue", text, true)
end

--- A mix that grew before the stems came is not what was wanted.
local function remove_others(job, stems)
  local wanted = {}
  for _, stem in ipairs(stems) do wanted[stem] = true end
  for key, entry in pairs(job.items or {}) do
    if not wanted[entry.stem] then
      landing.remove_item(job, entry)
      job.items[key] = nil
    end
  end
end

local function place_all(job)
  local seen, most = {}, 0
  for _, take in ipairs(job.takes) do seen[take.stem] = true end
  local stems = landing.stems(job, seen)
  remove_others(job, stems)
  local sources, items, handles, tails = {}, {}, {}, {}
  for _, stem in ipairs(stems) do
    for _, take in ipairs(job.takes) do
      if take.stem == stem then
        most = math.max(most, take.variation + 1)
        local item, made, source = landing.put(job, stem, take.variation, take.path, take.handle_frames,
          take.frames)
        sources[#sources + 1] = source
        items[#items + 1] = { item = item, take = made, variation = take.variation }
        handles[item] = math.min(handles[item] or take.handle_frames, take.handle_frames)
        tails[item] = math.min(tails[item] or take.tail_frames, take.tail_frames)
      end
    end
  end
  local done = {}
  for _, entry in ipairs(items) do
    if entry.variation == 0 then reaper.SetActiveTake(entry.take) end
    if not done[entry.item] then
      done[entry.item] = true
      if not job.plan.into then crossfade(job, entry.item, handles[entry.item], tails[entry.item]) end
      remember(job, entry.item)
    end
    reaper.UpdateItemInProject(entry.item)
  end
  return sources, most
end

--- Land all takes as one undo step. Returns the sources whose peaks are to be built. Raises {said = …}.
function landing.land(job)
  table.sort(job.takes, function(a, b)
    if a.stem ~= b.stem then return a.stem < b.stem end
    return a.variation < b.variation
  end)
  reaper.Undo_BeginBlock2(job.proj)
  reaper.PreventUIRefresh(1)
  local ok, sources, most = pcall(place_all, job)
  if not ok then pcall(landing.remove, job) end
  reaper.PreventUIRefresh(-1)
  if wants_lanes(job) then reaper.UpdateTimeline() else reaper.UpdateArrange() end
  local word = most == 1 and "take" or "takes"
  reaper.Undo_EndBlock2(job.proj, string.format("Segue: %s, %s %s", job.plan.mode, tostring(ok and most or 0), word),
    -1)
  if not ok then error(sources, 0) end
  return sources
end

--- Take back an item that was made for a job, and its track if that was made for it and is empty.
function landing.remove_item(job, entry)
  local track = project.track(job.proj, entry.track)
  local item = entry.before == 0 and project.item(job.proj, entry.guid, track)
  if not item then return end
  local on = reaper.GetMediaItem_Track(item)
  reaper.DeleteTrackMediaItem(on, item)
  if on == track and entry.track ~= job.plan.track and reaper.CountTrackMediaItems(track) == 0 then
    reaper.DeleteTrack(track)
  end
end

--- Take back what grew, where the job has come to nothing.
function landing.remove(job)
  for _, entry in pairs(job.items or {}) do landing.remove_item(job, entry) end
  job.items, job.last_track = {}, nil
  reaper.UpdateArrange()
end

--- The plan and settings that are stored with an item, or nil.
function landing.recall(item)
  local ok, text = reaper.GetSetMediaItemInfo_String(item, "P_EXT:segue", "", false)
  local found = ok and text ~= "" and json.decode(text)
  if type(found) ~= "table" or type(found.plan) ~= "table" or type(found.values) ~= "table" then return nil end
  return found
end

--- A take's file as a path.
function landing.path(job, name)
  if files.is_absolute(name) then return name end
  return files.join(job.folder, name)
end

return landing
