-- @noindex
-- The `segue` command: where it is, and how it is started. Only one thing is ever handed to it, a folder whose
-- name we made of safe characters; what the user typed goes into a file in that folder.

local files = require "segue.files"

local command = {}

command.FILE = "segue-command.txt" -- written by `segue install reaper`: one line, the command's absolute path
command.MISSING = "REAPER does not know where the segue command is: run `segue install reaper` in a terminal."

--- The command's path, or nil and a sentence. `here` is the scripts' folder.
function command.find(here)
  local installed = files.join(reaper.GetResourcePath(), "Scripts", "Segue", command.FILE)
  for _, place in ipairs({ files.join(here, command.FILE), installed }) do
    local line = (files.read(place, 8192) or ""):match("^%s*(.-)%s*[\r\n]") or (files.read(place, 8192) or "")
      :match("^%s*(.-)%s*$")
    if line and line ~= "" then
      if not files.is_absolute(line) or line:find('["%c]') then
        return nil, "The file " .. place .. " is damaged: run `segue install reaper` again."
      end
      if not files.exists(line) then
        return nil, "There is no " .. line .. " any more: run `segue install reaper` again."
      end
      return line
    end
  end
  return nil, command.MISSING
end

local function quoted(path)
  if path:find('["%c]') then return nil end
  return '"' .. path .. '"'
end

--- Start `segue job FOLDER` and do not wait. Returns true, or nil and a sentence.
function command.start(here, folder)
  local path, why = command.find(here)
  if not path then return nil, why end
  local program, place = quoted(path), quoted(folder)
  -- a backslash before a closing quote would quote the quote on Windows; our folders never end in one
  if not program or not place or folder:match("[/\\]$") then
    return nil, "The folder " .. folder .. " has a name that cannot be passed on."
  end
  -- -2: do not wait, and on Windows open no console window
  if reaper.ExecProcess(program .. " job " .. place, -2) == nil then
    return nil, "The segue command could not be started: run `segue install reaper` again."
  end
  return true
end

--- Where job directories lie: in REAPER's own folder of the user, not in a folder that others can write to.
function command.jobs_folder() return files.join(reaper.GetResourcePath(), "Data", "Segue", "jobs") end

--- A new job directory with a random name of safe characters. Returns its path, or nil and a sentence.
function command.new_folder()
  local name = reaper.genGuid(""):gsub("[^%x]", ""):lower()
  local folder = files.join(command.jobs_folder(), "job-" .. name)
  reaper.RecursiveCreateDirectory(folder, 0)
  local probe = files.join(folder, "host.part")
  local ok, why = files.write(probe, "")
  if not ok then return nil, "The folder " .. command.jobs_folder() .. " cannot be written: " .. tostring(why) end
  os.remove(probe)
  return folder
end

return command
