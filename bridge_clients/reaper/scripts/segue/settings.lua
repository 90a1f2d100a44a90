-- @noindex
-- The user's settings: kept in the project, with the last ones used as the start for the next project.

local json = require "segue.json"

local settings = {}

local SECTION, KEY = "segue", "settings"

--- Every setting: its name, what it is called, and what it may be. The first choice is the default.
settings.FIELDS = {
  { name = "text", label = "Describe the music", kind = "text", default = "" },
  { name = "negative_text", label = "What to stay away from", kind = "text", default = "" },
  { name = "length", label = "Length", kind = "choice", choices = { "bars", "seconds", "selection" } },
  { name = "bars", label = "Bars", kind = "number", default = 4, low = 0.25, high = 256, step = 1 },
  { name = "seconds", label = "Seconds", kind = "number", default = 8, low = 0.1, high = 600, step = 1 },
  { name = "variations", label = "Variations", kind = "whole", default = 2, low = 1, high = 8, step = 1 },
  { name = "seed", label = "Seed (0: a new one each time)", kind = "whole", default = 0, low = 0,
    high = 2 ^ 53 - 1, step = 1 },
  { name = "start", label = "Begin", kind = "choice", choices = { "edge", "bar" },
    says = { edge = "right at the edge", bar = "on the next bar line" } },
  { name = "loop", label = "End meets the beginning (loop)", kind = "flag", default = false },
  { name = "strength", label = "Vary: how far from the original", kind = "number", default = 0.5, low = 0,
    high = 1, step = 0.1 },
  { name = "source", label = "Listen to", kind = "choice", choices = { "pre", "post" },
    says = { pre = "tracks before their effects", post = "tracks with their effects (renders first)" } },
  { name = "prompt_s", label = "Seconds to listen to", kind = "number", default = 20, low = 1, high = 60,
    step = 1 },
  { name = "takes", label = "Variations as", kind = "choice", choices = { "takes", "lanes" },
    says = { takes = "takes of one item", lanes = "fixed lanes of a new track" } },
  { name = "landing", label = "Audio appears", kind = "choice", choices = { "grow", "end" },
    says = { grow = "while it is made", ["end"] = "when it is complete" } },
  { name = "stems", label = "Stems on tracks of their own", kind = "flag", default = false },
  { name = "crossfade", label = "Crossfade at the seam", kind = "flag", default = true },
  { name = "model", label = "Model (empty: the daemon's own choice)", kind = "text", default = "" },
}

local function usual(field)
  if field.kind == "choice" then return field.choices[1] end
  return field.default
end

--- A value as a field allows it; nil when it cannot be.
function settings.allowed(field, value)
  if field.kind == "flag" then return type(value) == "boolean" and value or nil end
  if field.kind == "text" then return type(value) == "string" and value or nil end
  if field.kind == "choice" then
    for _, choice in ipairs(field.choices) do if choice == value then return value end end
    return nil
  end
  local number = tonumber(value)
  if not number or number ~= number then return nil end
  number = math.min(field.high, math.max(field.low, number))
  if field.kind == "whole" then return math.tointeger(math.floor(number + 0.5)) end
  return number
end

local function merged(into, text)
  local found = text ~= "" and json.decode(text) or nil
  if type(found) ~= "table" then return into end
  for _, field in ipairs(settings.FIELDS) do
    local value = found[field.name]
    if field.kind == "flag" and value == false then into[field.name] = false
    elseif value ~= nil then
      local allowed = settings.allowed(field, value)
      if allowed ~= nil then into[field.name] = allowed end
    end
  end
  return into
end

--- The settings of a project: defaults, then the last ones used anywhere, then the project's own.
function settings.load(proj)
  local made = {}
  for _, field in ipairs(settings.FIELDS) do made[field.name] = usual(field) end
  merged(made, reaper.GetExtState(SECTION, KEY))
  local _, own = reaper.GetProjExtState(proj, SECTION, KEY)
  return merged(made, own or "")
end

--- Keep settings in the project and for the next one. The text is JSON in one line, as ExtState wants it.
function settings.save(proj, values)
  local text = json.encode(values)
  reaper.SetProjExtState(proj, SECTION, KEY, text)
  reaper.SetExtState(SECTION, KEY, text, true)
end

return settings
