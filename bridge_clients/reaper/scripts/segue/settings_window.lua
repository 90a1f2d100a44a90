-- @noindex
-- *Settings*: every setting in a row; a click changes it, or asks for a new text or number.

local settings = require "segue.settings"
local view = require "segue.view"

local window = {}

local WIDTH, ROW, MARGIN, VALUE_X = 640, 26, 12, 270

--- What a setting shows.
function window.shown(field, values)
  local value = values[field.name]
  if field.kind == "flag" then return value and "yes" or "no" end
  if field.kind == "choice" then return field.says and field.says[value] or value end
  if field.kind == "text" then return value == "" and "(nothing)" or (value:gsub("%s+", " ")) end
  return math.type(value) == "integer" and tostring(value) or string.format("%g", value)
end

local function asked(field, value)
  local text = type(value) == "number" and window.shown(field, { [field.name] = value }) or value
  -- one field, and a line break as the separator: commas are part of what people write
  local ok, given = reaper.GetUserInputs("Segue", 1, field.label .. ",extrawidth=320,separator=\n", text)
  if not ok then return nil end
  return settings.allowed(field, given)
end

--- The value after a click.
function window.changed(field, value)
  if field.kind == "flag" then return not value end
  if field.kind == "choice" then
    for i, choice in ipairs(field.choices) do
      if choice == value then return field.choices[i % #field.choices + 1] end
    end
    return field.choices[1]
  end
  local given = asked(field, value)
  if given == nil then return value end
  return given
end

--- The other actions of the folder, put into REAPER's action list where they are not there yet.
function window.register(here)
  local files = require "segue.files"
  local names = {}
  for _, entry in ipairs(files.names(here)) do
    if not entry.folder and entry.name:match("^Segue %- .*%.lua$") then names[#names + 1] = entry.name end
  end
  for i, name in ipairs(names) do
    reaper.AddRemoveReaScript(true, 0, files.join(here, name), i == #names)
  end
  return #names
end

--- Open the window and keep it until it is closed.
function window.open(proj, here)
  local project = require "segue.project"
  window.register(here)
  local values = settings.load(proj)
  local shown = view.open("Segue settings", WIDTH, #settings.FIELDS * ROW + 2 * MARGIN)
  local function turn()
    local ok, problem = xpcall(function()
      if not project.open(proj) then
        shown:close()
        return
      end
      if not shown:begin() then return end
      for i, field in ipairs(settings.FIELDS) do
        local y = MARGIN + (i - 1) * ROW
        shown:text(MARGIN, y + 3, VALUE_X - 2 * MARGIN, field.label)
        if shown:button(field.name, VALUE_X, y, WIDTH - VALUE_X - MARGIN, ROW - 4, window.shown(field, values)) then
          values[field.name] = window.changed(field, values[field.name])
          settings.save(proj, values)
        end
      end
      shown:finish()
    end, debug.traceback)
    if not ok then
      reaper.ShowConsoleMsg("Segue: " .. tostring(problem) .. "\n")
      return
    end
    if not shown.closed then reaper.defer(turn) end
  end
  reaper.atexit(function() pcall(function() shown:close() end) end)
  turn()
end

return window
