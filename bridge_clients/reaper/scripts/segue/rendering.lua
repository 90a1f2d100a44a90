-- @noindex
-- Post-FX audio: one track rendered alone, as it leaves its effects and fader. REAPER blocks while it renders
-- and shows its own progress; everything that is set for it is put back.

local files = require "segue.files"
local project = require "segue.project"

local rendering = {}

local RENDER_WITH_LAST_SETTINGS = 42230 -- "File: Render project, using the most recent render settings, auto-close"
local STEMS_OF_SELECTED_TRACKS = 2
local FLOAT_WAV = "ZXZhdyAAAA==" -- REAPER's own description of a WAV file of 32 bit float, base64

local NUMBERS = { "RENDER_SETTINGS", "RENDER_BOUNDSFLAG", "RENDER_CHANNELS", "RENDER_SRATE", "RENDER_STARTPOS",
  "RENDER_ENDPOS", "RENDER_TAILFLAG", "RENDER_ADDTOPROJ", "RENDER_DITHER", "RENDER_NORMALIZE" }
local TEXTS = { "RENDER_FILE", "RENDER_PATTERN", "RENDER_FORMAT", "RENDER_FORMAT2" }

local function kept(proj)
  local state = { numbers = {}, texts = {}, tracks = {} }
  for _, name in ipairs(NUMBERS) do state.numbers[name] = reaper.GetSetProjectInfo(proj, name, 0, false) end
  for _, name in ipairs(TEXTS) do
    local _, text = reaper.GetSetProjectInfo_String(proj, name, "", false)
    state.texts[name] = text
  end
  for i = 0, reaper.CountTracks(proj) - 1 do
    local track = reaper.GetTrack(proj, i)
    state.tracks[i + 1] = { track = track, selected = reaper.IsTrackSelected(track) }
  end
  return state
end

local function put_back(proj, state)
  for name, value in pairs(state.numbers) do reaper.GetSetProjectInfo(proj, name, value, true) end
  for name, text in pairs(state.texts) do reaper.GetSetProjectInfo_String(proj, name, text or "", true) end
  for _, entry in ipairs(state.tracks) do
    if reaper.ValidatePtr2(proj, entry.track, "MediaTrack*") then
      reaper.SetTrackSelected(entry.track, entry.selected)
    end
  end
end

--- Render a track between two samples into the job directory. Returns the file's path.
function rendering.render(job, voice, first, last, channels, rate)
  local proj, track = job.proj, project.track(job.proj, voice.track)
  if not track then error({ said = "A track of the selection is gone; select again." }, 0) end
  job.renders = (job.renders or 0) + 1
  local name = string.format("render%d", job.renders)
  local state = kept(proj)
  reaper.PreventUIRefresh(1)
  local ok, problem = pcall(function()
    for _, entry in ipairs(state.tracks) do reaper.SetTrackSelected(entry.track, entry.track == track) end
    local numbers = { RENDER_SETTINGS = STEMS_OF_SELECTED_TRACKS, RENDER_BOUNDSFLAG = 0, RENDER_CHANNELS = channels,
      RENDER_SRATE = rate, RENDER_STARTPOS = project.seconds(first, rate),
      RENDER_ENDPOS = project.seconds(last, rate), RENDER_TAILFLAG = 0, RENDER_ADDTOPROJ = 0, RENDER_DITHER = 0,
      RENDER_NORMALIZE = 0 }
    for key, value in pairs(numbers) do reaper.GetSetProjectInfo(proj, key, value, true) end
    local texts = { RENDER_FILE = job.folder, RENDER_PATTERN = name, RENDER_FORMAT = FLOAT_WAV, RENDER_FORMAT2 = "" }
    for key, text in pairs(texts) do reaper.GetSetProjectInfo_String(proj, key, text, true) end
    reaper.Main_OnCommandEx(RENDER_WITH_LAST_SETTINGS, 0, proj)
  end)
  put_back(proj, state)
  reaper.PreventUIRefresh(-1)
  if not ok then error(problem, 0) end
  return files.join(job.folder, name .. ".wav")
end

return rendering
