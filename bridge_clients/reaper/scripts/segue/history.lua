-- @noindex
-- What was asked in a project, kept with the project: so that a job that was under way when REAPER was closed
-- is picked up again, and *Cancel* finds what is running.

local files = require "segue.files"
local json = require "segue.json"

local history = {}

local SECTION, KEY = "segue", "jobs"
local MOST = 50

--- The jobs of a project, oldest first: {id, folder, mode, state, seed, asked, landed}.
function history.load(proj)
  local _, text = reaper.GetProjExtState(proj, SECTION, KEY)
  local list = text and text ~= "" and json.decode(text)
  return json.is_array(list) and list or json.array()
end

--- Put one job's entry in place.
function history.put(proj, entry)
  local list, found = history.load(proj), false
  for i, known in ipairs(list) do
    if known.id == entry.id then list[i], found = entry, true end
  end
  if not found then list[#list + 1] = entry end
  while #list > MOST do table.remove(list, 1) end
  reaper.SetProjExtState(proj, SECTION, KEY, json.encode(list))
end

--- Jobs that have not come to an end and whose folder is still there.
function history.unfinished(proj)
  local found = {}
  for _, entry in ipairs(history.load(proj)) do
    if entry.state == "running" and type(entry.folder) == "string"
      and files.exists(files.join(entry.folder, "host.json")) then
      found[#found + 1] = entry
    end
  end
  return found
end

--- Ask every running job of a project to stop. Returns how many were asked.
function history.cancel_all(proj)
  local asked = 0
  for _, entry in ipairs(history.unfinished(proj)) do
    if not files.exists(files.join(entry.folder, "done")) and files.write(files.join(entry.folder, "cancel"), "") then
      asked = asked + 1
    end
  end
  return asked
end

return history
