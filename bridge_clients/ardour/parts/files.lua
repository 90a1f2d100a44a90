-- Where things lie. All of a session's jobs are in its own folder, so that they come back with the session.
local files = {}
-- The items of one of Ardour's lists. Its own iterators do not keep the list they walk: a list that nothing else
-- holds is collected in the middle of the loop, and Ardour ends with it (it did).
local function all (list)
	local found = {}
	for x in list:iter () do found[#found + 1] = x end
	return found
end
function files.join (...) return (table.concat ({ ... }, "/"):gsub ("//+", "/")) end
function files.home () return files.join (Session:path (), "segue") end
function files.read (path)
	local f = io.open (path, "rb")
	if not f then return nil end
	local s = f:read ("a")
	f:close ()
	return s
end
function files.exists (path)
	local f = io.open (path, "rb")
	if f then f:close () end
	return f ~= nil
end
-- Whole or not at all: written beside, then renamed.
function files.write (path, text)
	local f, why = io.open (path .. ".new", "wb")
	if not f then return nil, why end
	local ok = f:write (text)
	ok = f:close () and ok
	if not ok then os.remove (path .. ".new"); return nil, "the disk took only part of it" end
	return os.rename (path .. ".new", path)
end
function files.read_json (path)
	local s = files.read (path)
	if not s then return nil end
	return json.read (s)
end
function files.append (path, line)
	local f, why = io.open (path, "ab")
	if not f then return nil, why end
	f:write (line, "\n")
	return f:close ()
end
-- 32 hex digits that nobody guesses.
function files.random_name ()
	local f = io.open ("/dev/urandom", "rb")
	if not f then error ("Segue: this system has no /dev/urandom") end
	local s = f:read (16)
	f:close ()
	return (s:gsub (".", function (c) return string.format ("%02x", c:byte ()) end))
end
-- `segue install ardour` writes the command's absolute path beside the scripts.
function files.command ()
	local found = files.read (files.join (ARDOUR.user_config_directory (-1), "scripts", "segue-command.txt"))
	return found and found:match ("^(/[^\r\n]+)")
end
-- Start a program with its arguments as they are: no shell looks at them, and nobody waits for it.
function files.start (...) os.forkexec (...) end
