-- @noindex
-- Audio out of the project into WAV files of the job directory, a few milliseconds at a time. Pre-FX by the
-- tracks' audio accessors; post-FX by a render of each track, which REAPER does with its own progress window.

local files = require "segue.files"
local project = require "segue.project"
local rendering = require "segue.rendering"
local wav = require "segue.wav"

local reading = {}

local BLOCK = 1024 -- frames between two looks at the clock: 0.3 ms for a stereo block here

local function say(text) error({ said = text }, 0) end

--- Samples of a track before its effects: a function (first, count) -> table of interleaved samples or nil.
local function accessor_voice(job, voice, channels, rate, keep)
  local track = project.track(job.proj, voice.track)
  if not track then say("A track of the selection is gone; select again.") end
  local accessor = reaper.CreateTrackAudioAccessor(track)
  if not accessor then say("REAPER does not give the audio of a track; try again.") end
  keep(function() reaper.DestroyAudioAccessor(accessor) end)
  local buffer = reaper.new_array(BLOCK * channels)
  return function(first, count)
    if not reaper.ValidatePtr2(job.proj, track, "MediaTrack*") then
      say("A track was deleted while it was read; select again.")
    end
    if reaper.AudioAccessorStateChanged(accessor) then reaper.AudioAccessorValidateState(accessor) end
    buffer.clear()
    local got = reaper.GetAudioAccessorSamples(accessor, rate, channels, first / rate, count, buffer)
    if got < 0 then say("REAPER could not read the audio of a track; try again.") end
    if got == 0 then return nil end
    return buffer.table(1, count * channels)
  end
end

--- The same from a rendered file, whose first sample lies at `origin`.
local function file_voice(path, channels, origin, keep)
  local file = io.open(path, "rb")
  local info = file and wav.inspect_open(file)
  if not info or not info.float or info.bits ~= 32 or info.channels ~= channels then
    if file then file:close() end
    say("The render did not leave a file that can be read; choose the tracks before their effects in Settings.")
  end
  keep(function() file:close() end)
  local width = channels * 4
  return function(first, count)
    local from, to = math.max(first, origin), math.min(first + count, origin + info.frames)
    if to <= from then return nil end
    file:seek("set", info.data_at + (from - origin) * width)
    local data = file:read((to - from) * width) or ""
    local samples = {}
    for i = 1, (from - first) * channels do samples[i] = 0.0 end
    for at = 1, #data - 3, 4 do samples[#samples + 1] = (string.unpack("<f", data, at)) end
    for i = #samples + 1, count * channels do samples[i] = 0.0 end
    return samples
  end
end

--- Silence where none of the spans lies.
local function gated(samples, first, count, channels, spans)
  if not spans then return samples end
  for _, span in ipairs(spans) do
    if span[1] <= first and span[2] >= first + count then return samples end
  end
  for frame = 0, count - 1 do
    local heard = false
    for _, span in ipairs(spans) do
      heard = heard or (first + frame >= span[1] and first + frame < span[2])
    end
    if not heard then
      for channel = 1, channels do samples[frame * channels + channel] = 0.0 end
    end
  end
  return samples
end

local function mixed(into, samples)
  if not into then return samples end
  for i = 1, #samples do into[i] = into[i] + samples[i] end
  return into
end

--- Write one of a plan's reads into the job directory. `pause` is called after each block.
local function write(job, one, pause)
  local ends = {}
  local function keep(close) ends[#ends + 1] = close end
  job.closing = function() -- also called when the script ends in the middle
    for _, close in ipairs(ends) do pcall(close) end
    ends = {}
  end
  local rate, channels = job.plan.rate, one.channels
  local sources = {}
  for i, voice in ipairs(one.voices) do
    if job.plan.source == "post" then
      local path = rendering.render(job, voice, one.first, one.last, channels, rate)
      pause()
      sources[i] = file_voice(path, channels, one.first, keep)
    else
      sources[i] = accessor_voice(job, voice, channels, rate, keep)
    end
  end
  local path = files.join(job.folder, one.file)
  local file, why = io.open(path .. ".part", "wb")
  if not file then say("The job's folder cannot be written: " .. tostring(why)) end
  keep(function() if io.type(file) == "file" then file:close() end end)
  local total = one.last - one.first
  local silence = ("\0"):rep(BLOCK * channels * 4)
  local ok = file:write(wav.header(rate, channels, total))
  for start = 0, total - 1, BLOCK do
    local count, sum = math.min(BLOCK, total - start), nil
    for i, voice in ipairs(one.voices) do
      local samples = sources[i](one.first + start, count)
      if samples then sum = mixed(sum, gated(samples, one.first + start, count, channels, voice.spans)) end
    end
    ok = ok and file:write(sum and wav.pack(sum, 1, count * channels) or silence:sub(1, count * channels * 4))
    if not ok then say("The disk is full: make room, and press the key again.") end
    pause((start + count) / total)
  end
  if not file:close() or not files.rename(path .. ".part", path) then
    say("The disk is full: make room, and press the key again.")
  end
  job.closing()
  job.closing = nil
end

--- Write all audio that a plan names. Runs in a coroutine; `pause(part)` gives the interface its time.
function reading.write(job, pause)
  for i, one in ipairs(job.plan.reads) do
    write(job, one, function(part) pause((i - 1 + (part or 0)) / #job.plan.reads) end)
  end
end

return reading
