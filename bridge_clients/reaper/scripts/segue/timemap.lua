-- @noindex
-- REAPER's tempo map as Segue counts: steps in quarter notes from the bar that the request begins in, every bar
-- line and every change exactly where REAPER has it. Quarter notes are counted in whole parts, so nothing adds up
-- wrongly over a thousand bars; times are always asked of REAPER, never added.

local json = require "segue.json"
local project = require "segue.project"

local timemap = {}

local TICKS = 960 -- of a quarter note; 1/64 notes, triplets and quintuplets are whole numbers of them
local FINE = 10000 -- parts of a tick, for what lies between: 0.05 us at 120 bpm, 1/400 of a sample
local WHOLE = TICKS * FINE
local SAME_TEMPO = 1e-9
local MOST_CHANGES = 1000 -- a request's header holds 64 KiB

local function parts_of(quarters) return math.floor(quarters * WHOLE + 0.5) end

--- One bar: {index, time_s, end_s, quarter (where it begins), quarters, parts, beats, unit}.
function timemap.bar(proj, index)
  local time_s, first, last, beats, unit = reaper.TimeMap_GetMeasureInfo(proj, index)
  local end_s, next_first = reaper.TimeMap_GetMeasureInfo(proj, index + 1)
  local quarters = (last and last > first and last or next_first) - first
  local ticks = math.floor(quarters * TICKS + 0.5)
  return { index = index, time_s = time_s, end_s = end_s, quarter = first, quarters = ticks / TICKS,
    parts = ticks * FINE, beats = math.floor(beats), unit = math.floor(unit) }
end

--- The bar that a sample falls into. A sample that is the nearest one to a bar line is on it.
function timemap.bar_of(proj, frame, rate)
  local time_s = project.seconds(frame, rate)
  local _, measures = reaper.TimeMap2_timeToBeats(proj, math.max(0, time_s))
  local bar = timemap.bar(proj, math.max(0, math.floor(measures or 0)))
  while bar.index > 0 and project.frame(bar.time_s, rate) > frame do bar = timemap.bar(proj, bar.index - 1) end
  while project.frame(bar.end_s, rate) <= frame do bar = timemap.bar(proj, bar.index + 1) end
  return bar
end

--- The first bar line at or after a sample: the sample on it, and the bar's index.
function timemap.next_bar(proj, frame, rate)
  local bar = timemap.bar_of(proj, frame, rate)
  local line = project.frame(bar.time_s, rate)
  if line >= frame then return line, bar.index end
  return project.frame(bar.end_s, rate), bar.index + 1
end

local function place_in(proj, bar, frame, rate)
  if project.frame(bar.time_s, rate) == frame then return 0.0 end
  local quarter = reaper.TimeMap2_timeToQN(proj, project.seconds(frame, rate))
  return math.max(0, (quarter - bar.quarter) / bar.quarters)
end

--- The sample that lies so many bars after another one, counted on the project's own grid: whoever continues a
--- thousand times still lands on the sample nearest to the bar line.
function timemap.after_bars(proj, frame, bars, rate)
  local bar = timemap.bar_of(proj, frame, rate)
  local place = bar.index + place_in(proj, bar, frame, rate) + bars
  local whole = math.floor(place + 1e-7)
  local rest = place - whole
  local last = timemap.bar(proj, whole)
  if rest < 1e-6 then return project.frame(last.time_s, rate) end
  return project.frame(reaper.TimeMap2_QNToTime(proj, last.quarter + rest * last.quarters), rate)
end

local function power_of_two(number) return number >= 1 and number <= 64 and number & (number - 1) == 0 end

local function greatest_divisor(a, b)
  while b ~= 0 do a, b = b, a % b end
  return a
end

--- Whole numbers as the wire takes fractions: a number, or "n/d".
function timemap.fraction(above, below)
  local divisor = greatest_divisor(math.abs(above), below)
  above, below = above // divisor, below // divisor
  return below == 1 and above or string.format("%d/%d", above, below)
end

--- The tempo between two places of a bar, as a number that makes the stretch last exactly as long as it does.
local function tempo_between(proj, from, to)
  local mean = (to.parts - from.parts) / WHOLE * 60 / (to.time_s - from.time_s)
  local _, _, bpm = reaper.TimeMap_GetTimeSigAtTime(proj, from.time_s)
  return math.abs(mean - bpm) <= SAME_TEMPO * mean and bpm or mean
end

--- Whether the tempo glides between two places: then half of the time is not half of the way.
local function glides(proj, from, to)
  local half = reaper.TimeMap2_timeToQN(proj, (from.time_s + to.time_s) / 2)
  return math.abs(half - (from.quarter + to.quarter) / 2) > SAME_TEMPO * (to.quarter - from.quarter)
end

--- The stretches of steady tempo in a bar: list of {parts (from the bar's beginning), time_s, bpm}. A glide becomes
--- a stretch for each quarter note, right at both of its ends.
local function stretches(proj, bar)
  local last = { time_s = bar.end_s, quarter = bar.quarter + bar.quarters, parts = bar.parts }
  local places = { { time_s = bar.time_s, quarter = bar.quarter, parts = 0 } }
  local function add(time_s, quarter)
    local parts = parts_of(quarter - bar.quarter)
    if parts > places[#places].parts and parts < bar.parts then
      places[#places + 1] = { time_s = time_s, quarter = quarter, parts = parts }
    end
  end
  local time_s = bar.time_s
  while true do
    local following = reaper.TimeMap2_GetNextChangeTime(proj, time_s)
    if following <= time_s or following >= bar.end_s - 1e-9 then break end
    add(following, reaper.TimeMap2_timeToQN(proj, following))
    time_s = following
  end
  places[#places + 1] = last
  local edges = places
  places = { edges[1] }
  for i = 1, #edges - 1 do
    if glides(proj, edges[i], edges[i + 1]) then
      for beat = math.floor((edges[i].quarter - bar.quarter) + 1), math.ceil(bar.quarters) do
        local quarter = bar.quarter + beat
        if beat * WHOLE >= edges[i + 1].parts then break end
        add(reaper.TimeMap2_QNToTime(proj, quarter), quarter)
      end
    end
    places[#places + 1] = edges[i + 1]
  end
  for i = 1, #places - 1 do places[i].bpm = tempo_between(proj, places[i], places[i + 1]) end
  places[#places] = nil
  return places
end

--- Where in a bar a sample lies, in parts: on the tick it is nearest to, else between the ticks.
local function seam_in(steady, bar, frame, rate)
  if project.frame(bar.time_s, rate) == frame then return 0 end
  local from = steady[1]
  for _, place in ipairs(steady) do
    if project.frame(place.time_s, rate) <= frame then from = place end
  end
  local ticks = from.parts / FINE + (project.seconds(frame, rate) - from.time_s) * from.bpm / 60 * TICKS
  local near = math.floor(ticks + 0.5)
  local away = math.abs(near - ticks) * 60 / from.bpm / TICKS * rate
  if away <= 0.5 + 1e-6 then return near * FINE end
  return math.floor(ticks * FINE + 0.5)
end

--- The tempo map for a request: from the bar that `first` lies in to past `last` (samples); `seam` is where the
--- new audio begins. `pause` is called between bars. Returns {changes, start}.
function timemap.read(proj, first, seam, last, rate, pause)
  local changes, at, start = json.array(), 0, nil
  local bar = timemap.bar_of(proj, math.max(0, math.min(first, seam)), rate)
  local current, anchor
  while true do
    local beats, unit = bar.beats, bar.unit
    local plain = power_of_two(unit) and beats >= 1 and beats <= 64
    -- a meter that the wire has no word for: every bar says for itself where it begins
    if not plain then beats, unit = math.min(64, math.max(1, -(-bar.parts // WHOLE))), 4 end
    local full = beats * 4 * WHOLE // unit
    local steady = stretches(proj, bar)
    for i, place in ipairs(steady) do
      local whole = current and current.beats == beats and current.unit == unit
        and (i > 1 or (at - anchor) % full == 0)
      if not (whole and current.bpm == place.bpm) and #changes < MOST_CHANGES then
        local inside = i > 1 or nil
        current = { at = timemap.fraction(at + place.parts, WHOLE), bpm = place.bpm, beats = beats, unit = unit,
          mid_bar = inside }
        if not inside then anchor = at end
        changes[#changes + 1] = current
      end
    end
    if not start and (seam < project.frame(bar.end_s, rate) or seam < 0) then
      start = timemap.fraction(at + seam_in(steady, bar, seam, rate), WHOLE)
    end
    at = at + bar.parts
    if start and project.frame(bar.end_s, rate) >= last then break end
    bar = timemap.bar(proj, bar.index + 1)
    if pause then pause() end
  end
  return { changes = changes, start = start }
end

return timemap
