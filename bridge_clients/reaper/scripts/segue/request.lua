-- @noindex
-- A plan and the settings as the `request.json` of a job directory.

local json = require "segue.json"
local project = require "segue.project"
local timemap = require "segue.timemap"

local request = {}

local MOST_TEXT_BYTES = 16384 -- a text on the wire

local function text(value, what)
  if value == "" then return nil end
  if #value > MOST_TEXT_BYTES then
    error({ said = string.format("%s is too long: at most %d bytes.", what, MOST_TEXT_BYTES) }, 0)
  end
  return value
end

--- A name for takes that every file system allows.
function request.takes_name(id) return "segue-" .. id:sub(-8) end

--- What `segue job` is asked. `values` are the settings, `seed` nil for a new one.
function request.build(job, pause)
  local plan, values = job.plan, job.values
  local first, last = plan.seam, plan.seam + plan.lead + plan.frames
  local audio = json.array()
  for i, one in ipairs(plan.reads) do
    first, last = math.min(first, one.first), math.max(last, one.last)
    audio[i] = { file = one.file, role = one.role, position = one.position, track = one.track }
  end
  local wanted = { version = 1, host = "reaper " .. reaper.GetAppVersion(),
    mode = plan.mode, rate = plan.rate, channels = plan.channels, audio = audio,
    length = { frames = plan.frames }, start = plan.start, variations = values.variations,
    tempo_map = timemap.read(job.proj, first, plan.seam, last, plan.rate, pause),
    text = text(values.text, "The description"), negative_text = text(values.negative_text, "The negative text"),
    model = values.model ~= "" and values.model or nil, seed = values.seed ~= 0 and values.seed or nil,
    takes_folder = project.media_folder(job.proj), takes_name = request.takes_name(job.id),
    chunks = values.landing == "grow" }
  if values.loop and plan.mode ~= "fill" then wanted.loop = true end
  if plan.mode == "vary" then wanted.strength = plan.strength end
  if not values.stems and plan.mode ~= "accompany" then wanted.stems = json.array({ "mix" }) end
  return wanted
end

return request
