-- A tempo map as REAPER keeps one: markers with a tempo, perhaps a meter, perhaps a glide to the next marker.
-- Positions of markers are quarter notes here; times follow.

local tempo = {}
tempo.__index = tempo

--- `markers`: list of {qn, bpm, beats, unit, linear}, the first at 0; beats and unit nil keep the meter.
function tempo.new(markers)
  local made = setmetatable({ markers = {}, bars = {} }, tempo)
  local time = 0.0
  for i, marker in ipairs(markers) do
    local entry = { qn = marker.qn, bpm = marker.bpm, beats = marker.beats, unit = marker.unit,
      linear = marker.linear and markers[i + 1] ~= nil, time = time }
    made.markers[i] = entry
    local following = markers[i + 1]
    if following then
      local quarters = following.qn - marker.qn
      entry.to = entry.linear and following.bpm or marker.bpm
      entry.span = quarters * 60 / ((marker.bpm + entry.to) / 2)
      time = time + entry.span
    else
      entry.to = marker.bpm
    end
  end
  made:count_bars()
  return made
end

function tempo:at(field, value)
  local found = self.markers[1]
  for _, marker in ipairs(self.markers) do
    if marker[field] <= value + 1e-12 then found = marker end
  end
  return found
end

function tempo:time(qn)
  local marker = self:at("qn", qn)
  local quarters = qn - marker.qn
  if not marker.linear then return marker.time + quarters * 60 / marker.bpm end
  -- bpm(t) = b0 + s t, quarters = (b0 t + s t^2 / 2) / 60
  local slope = (marker.to - marker.bpm) / marker.span
  if math.abs(slope) < 1e-12 then return marker.time + quarters * 60 / marker.bpm end
  return marker.time + (math.sqrt(marker.bpm ^ 2 + 2 * slope * quarters * 60) - marker.bpm) / slope
end

function tempo:quarter(time)
  local marker = self:at("time", time)
  local t = time - marker.time
  if not marker.linear then return marker.qn + t * marker.bpm / 60 end
  local slope = (marker.to - marker.bpm) / marker.span
  return marker.qn + (marker.bpm * t + slope * t * t / 2) / 60
end

function tempo:bpm(time)
  local marker = self:at("time", time)
  if not marker.linear then return marker.bpm end
  return marker.bpm + (marker.to - marker.bpm) / marker.span * (time - marker.time)
end

--- Bars up to the last change of meter; behind it they follow by counting.
function tempo:count_bars()
  local beats, unit = 4, 4
  local meters = {}
  for _, marker in ipairs(self.markers) do
    if marker.beats then meters[#meters + 1] = marker end
  end
  if #meters == 0 or meters[1].qn > 0 then
    table.insert(meters, 1, { qn = 0, beats = beats, unit = unit })
  end
  for i, meter in ipairs(meters) do
    local qn, bar = meter.qn, 0
    beats, unit = meter.beats, meter.unit
    local stop = meters[i + 1] and meters[i + 1].qn
    while stop and qn < stop - 1e-9 do
      self.bars[#self.bars + 1] = { qn = qn, beats = beats, unit = unit }
      bar = bar + 1
      qn = meter.qn + bar * beats * 4 / unit
    end
  end
  self.tail = { qn = meters[#meters].qn, beats = beats, unit = unit, index = #self.bars }
end

--- A bar's first quarter note, and its meter. Bars count from 0.
function tempo:bar(index)
  local known = self.bars[index + 1]
  if known then return known.qn, known.beats, known.unit end
  local tail = self.tail
  return tail.qn + (index - tail.index) * tail.beats * 4 / tail.unit, tail.beats, tail.unit
end

function tempo:bar_at(qn)
  local tail = self.tail
  if qn >= tail.qn then return tail.index + math.floor((qn - tail.qn) / (tail.beats * 4 / tail.unit) + 1e-9) end
  local low, high = 1, #self.bars
  while low < high do
    local middle = (low + high + 1) // 2
    if self.bars[middle].qn <= qn + 1e-9 then low = middle else high = middle - 1 end
  end
  return low - 1
end

return tempo
