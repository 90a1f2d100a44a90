-- @noindex
-- Files and paths, the same on Windows, macOS and Linux. Nothing here waits, and nothing runs a shell.

local files = {}

local WINDOWS = package.config:sub(1, 1) == "\\"
files.separator = WINDOWS and "\\" or "/"

--- A path of parts; a separator at the end of a part is not doubled.
function files.join(first, ...)
  local path = first
  for _, part in ipairs({ ... }) do
    path = path:match("[/\\]$") and path .. part or path .. files.separator .. part
  end
  return path
end

--- The folder that a path lies in.
function files.folder(path) return path:match("^(.*)[/\\][^/\\]*$") or "." end

--- Whether a path leads from the root: /…, C:\… or \\server\….
function files.is_absolute(path)
  return path:match("^/") ~= nil or path:match("^%a:[/\\]") ~= nil or path:match("^\\\\") ~= nil
end

--- A file's bytes, or nil. At most `limit_bytes` of them.
function files.read(path, limit_bytes)
  local file = io.open(path, "rb")
  if not file then return nil end
  local data = file:read(limit_bytes or 16 * 1024 * 1024)
  file:close()
  return data or ""
end

--- Whether a file can be opened.
function files.exists(path)
  local file = io.open(path, "rb")
  if not file then return false end
  file:close()
  return true
end

--- Write a file whole: under another name first, so that nobody reads half of it. Returns true, or nil and why.
function files.write(path, data)
  local beside = path .. ".part"
  local file, why = io.open(beside, "wb")
  if not file then return nil, why end
  local ok, problem = file:write(data)
  local closed, late = file:close()
  if not (ok and closed) then
    os.remove(beside)
    return nil, problem or late
  end
  return files.rename(beside, path)
end

--- Rename over whatever is there. Windows refuses to rename onto a file, so that goes first.
function files.rename(from, to)
  if os.rename(from, to) then return true end
  os.remove(to)
  return os.rename(from, to)
end

local tail = {}
tail.__index = tail

--- A reader of lines that somebody else appends to a file. A line counts once it has its end.
function files.tail(path) return setmetatable({ path = path, at = 0, rest = "" }, tail) end

--- The next line, or nil when there is none yet. Reads at most 64 KiB at a time.
function tail:line()
  local line, rest = self.rest:match("^([^\n]*)\n(.*)$")
  if line then
    self.rest = rest
    return line
  end
  if #self.rest > 1024 * 1024 then self.rest = "" end -- no line of ours is as long: drop what is not text
  local file = io.open(self.path, "rb")
  if not file then return nil end
  file:seek("set", self.at)
  local more = file:read(65536)
  file:close()
  if not more then return nil end
  self.at = self.at + #more
  self.rest = self.rest .. more
  line, rest = self.rest:match("^([^\n]*)\n(.*)$")
  if line then self.rest = rest end
  return line
end

--- The names in a folder, files first. `reaper.EnumerateFiles` caches; index -1 makes it look again.
function files.names(folder)
  local found = {}
  for _, list in ipairs({ reaper.EnumerateFiles, reaper.EnumerateSubdirectories }) do
    list(folder, -1)
    local index = 0
    while true do
      local name = list(folder, index)
      if not name then break end
      found[#found + 1] = { name = name, folder = list == reaper.EnumerateSubdirectories }
      index = index + 1
    end
  end
  return found
end

--- Remove a folder with what is in it, a few files between calls of `pause`. Only below a job folder.
function files.remove_folder(folder, pause, depth)
  if (depth or 0) > 3 then return end
  for _, entry in ipairs(files.names(folder)) do
    local path = files.join(folder, entry.name)
    if entry.folder then files.remove_folder(path, pause, (depth or 0) + 1) else os.remove(path) end
    if pause then pause() end
  end
  os.remove(folder) -- removes an empty folder where the C library can; elsewhere an empty folder stays
end

return files
