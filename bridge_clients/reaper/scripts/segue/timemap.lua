-- @noindex
-- REAPER's tempo map as Segue counts: steps in quarter notes from the bar the request begins in, every bar line
-- exactly where REAPER has it. Quarter notes are counted in whole ticks, so nothing adds up wrongly over a
-- thousand bars; times are always asked of REAPER, never added.

local json = require "segue.json"
local project = require "segue.project"

local timemap = {}

local TICKS = 960 -- of a quarter note; 1/64 notes, triplets and quintuplets are whole numbers of them
local FINE = 10000 -- parts of a tick for a seam between the ticks: 0.05 us at 120 bpm, 1/400 of a sample
local SAME_TEMPO = 1e-9
local MOST_CHANGES = 1000 -- a request's header holds 64 KiB

--- One bar: {index, time_s, end_s, ticks, beats, unit, bpm, quarter}.
function timemap.bar(proj, index)
  local time_s, first, last, beats, unit = reaper.TimeMap_GetMeasureInfo(proj, index)
  local end_s, next_first = reaper.TimeMap_GetMeasureInfo(proj, index + 1)
  local quarters = (last and last > first and last or next_first) - first
  local ticks = math.floor(quarters * TICKS + 0.5)
  local _, _, bpm = reaper.TimeMap_GetTimeSigAtTime(proj, time_s)
  -- a bar in which the tempo changes, or glides, becomes a bar of its mean tempo: its ends stay where they are
  local mean = ticks / TICKS * 60 / (end_s - time_s)
  if math.abs(mean - bpm) > SAME_TEMPO * mean then bpm = mean end
  return { index = index, time_s = time_s, end_s = end_s, ticks = ticks, beats = math.floor(beats),
    unit = math.floor(unit), bpm = bpm, quarter = first }
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

local function place_in(bar, frame, rate)
  if project.frame(bar.time_s, rate) == frame then return 0.0 end
  return math.max(0, (project.seconds(frame, rate) - bar.time_s) * bar.bpm / 60 * TICKS / bar.ticks)
end

--- The sample that lies so many bars after another one, counted on the project's own grid: whoever continues a
--- thousand times still lands on the sample nearest to the bar line.
function timemap.after_bars(proj, frame, bars, rate)
  local bar = timemap.bar_of(proj, frame, rate)
  local place = bar.index + place_in(bar, frame, rate) + bars
  local whole = math.floor(place + 1e-7)
  local rest = place - whole
  local last = timemap.bar(proj, whole)
  if rest < 1e-6 then return project.frame(last.time_s, rate) end
  return project.frame(last.time_s + rest * (last.end_s - last.time_s), rate)
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

--- Where in a bar a sample lies: (parts, parts of a quarter note), exactly on the tick it is nearest to.
local function seam_in(bar, frame, rate)
  if project.frame(bar.time_s, rate) == frame then return 0, TICKS end
  local seconds = project.seconds(frame, rate) - bar.time_s
  local ticks = seconds * bar.bpm / 60 * TICKS
  local near = math.floor(ticks + 0.5)
  local away = math.abs(near - ticks) * 60 / bar.bpm / TICKS * rate
  if away <= 0.5 + 1e-6 then return near, TICKS end
  return math.floor(ticks * FINE + 0.5), TICKS * FINE
end

--- The tempo map for a request: from the bar that `first` lies in to past `last` (samples); `seam` is where the
--- new audio begins. `pause` is called between bars. Returns {changes, start}.
function timemap.read(proj, first, seam, last, rate, pause)
  local changes, at, start = json.array(), 0, nil
  local bar = timemap.bar_of(proj, math.max(0, math.min(first, seam)), rate)
  local current
  while true do
    local beats, unit = bar.beats, bar.unit
    local whole = power_of_two(unit) and beats >= 1 and beats <= 64
    if not whole then beats, unit = math.min(64, math.max(1, -(-bar.ticks // TICKS))), 4 end
    local full = beats * 4 * TICKS // unit
    local new = not current or current.bpm ~= bar.bpm or current.beats ~= beats or current.unit ~= unit
      or (at - current.ticks) % full ~= 0
    if new and #changes < MOST_CHANGES then
      current = { ticks = at, bpm = bar.bpm, beats = beats, unit = unit }
      changes[#changes + 1] = { at = timemap.fraction(at, TICKS), bpm = bar.bpm, beats = beats, unit = unit }
    end
    if not start and (seam < project.frame(bar.end_s, rate) or seam < 0) then
      local parts, of = seam_in(bar, seam, rate)
      start = timemap.fraction(at * (of // TICKS) + parts, of)
    end
    at = at + bar.ticks
    if start and project.frame(bar.end_s, rate) >= last then break end
    bar = timemap.bar(proj, bar.index + 1)
    if pause then pause() end
  end
  return { changes = changes, start = start }
end

return timemap
