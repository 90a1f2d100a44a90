-- What the hook does with each job, a little per tick: read the audio, start `segue job`, follow it, land its
-- takes. All it knows of a job is on disk, so that it goes on after Ardour was closed or has crashed.
local jobs = { open = {}, offset = 0, turns = 0, longest_us = 0, longest_in = "", longest_add_us = 0, waiting_us = 0 }
local TURN_US = 12000 -- go on no longer than so at a time; the user feels 50 ms
local now = ARDOUR.LuaAPI.monotonic_time
local function path (...) return files.join (files.home (), ...) end

-- Progress as a range over the place where the take will lie: Ardour's Lua has no window that is not modal.
local function mark (job, text)
	text = "segue " .. text:gsub ("[%c]+", " "):sub (1, 160)
	if text == job.mark_text then return end
	local list = Session:locations ()
	if job.mark_text then
		for _, l in ipairs (all (list:list ())) do
			if l:name () == job.mark_text then l:set_name (text); job.mark_text = text; return end
		end
		return -- the user took it away
	end
	local o = job.order
	local l = list:add_range (Temporal.timepos_t (o.first), Temporal.timepos_t (o.first + o.frames))
	if l then l:set_name (text) end
	job.mark_text = text
end
local function unmark (text)
	for _, l in ipairs (all (Session:locations ():list ())) do
		if l:name () == text then Session:locations ():remove (l); return end
	end
end

local function close (job)
	if job.reader then reader.close (job.reader) end
	os.remove (path ("orders", job.name .. ".json"))
	os.remove (path ("orders", job.name .. ".cancel"))
	if job.mark_text and not job.failed then unmark (job.mark_text) end
	files.start ("/bin/rm", "-rf", "--", job.folder)
	job.step = nil
end
local function fail (job, why)
	job.failed = true
	print ("Segue: " .. why)
	mark (job, "failed: " .. why)
	jobs.failed = { text = job.mark_text, at = now () }
	close (job)
end

-- Where Ardour keeps this session's audio, so that takes move with it: named after the session's folder as a rule,
-- after its name if it was renamed; else a folder of our own, never the job's, which is deleted.
local function takes_folder ()
	local dir = ARDOUR.LuaAPI.FileTest.IsDir
	for _, name in ipairs { Session:path ():match ("([^/]+)/*$"), Session:name () } do
		local folder = files.join (Session:path (), "interchange", name, "audiofiles")
		if ARDOUR.LuaAPI.file_test (folder, dir) then return folder end
	end
	return path ("takes")
end

local steps = {}
function steps.make (job)
	files.start ("/bin/mkdir", "-m", "700", job.folder)
	job.step, job.wait = "made", 0
end
function steps.made (job)
	local f = io.open (job.folder .. "/.host", "wb")
	if f then
		f:close ()
		job.step, job.sound = "read", 1
	else
		job.wait = job.wait + 1
		if job.wait > 50 then error ("The folder for the job could not be made in the session's folder.", 0) end
	end
end
function steps.read (job, until_us)
	mark (job, "reading")
	local sound = job.order.audio[job.sound]
	if sound then
		job.reader = job.reader or reader.open (job.folder .. "/" .. sound.file, sound, job.order.rate)
		if reader.go_on (job.reader, until_us) then job.reader, job.sound = nil, job.sound + 1 end
		return
	end
	local r = job.order.request
	r.version, r.host, r.key = 1, "ardour " .. tostring (ARDOUR.revision or ""), job.name
	r.audio = json.array ()
	for i, s in ipairs (job.order.audio) do
		r.audio[i] = { file = s.file, role = s.role, position = s.position, stem = s.stem, track = s.track }
	end
	r.takes_folder, r.takes_name = takes_folder (), "segue-" .. job.name:sub (1, 12)
	assert (files.write (job.folder .. "/request.json", json.write (r)))
	job.step = "start"
end
function steps.start (job)
	local command = files.command ()
	if not command then error ("Where the segue command is, is not known here: run “segue install ardour” in a terminal.", 0) end
	files.start (command, "job", job.folder)
	job.started, job.step, job.line, job.heard = now (), "follow", job.line or 0, now ()
end
local function percent (e)
	if (e.total or 0) > 0 then return string.format ("%d %%", math.floor (100 * (e.done or 0) / e.total)) end
	return e.state or ""
end
local function heard (job, e)
	if e.event == "tick" then
		local text = percent (e)
		if e.eta_s and e.eta_s > 0 then text = text .. string.format (", %d s", math.ceil (e.eta_s)) end
		if e.message then text = text .. " · " .. e.message end
		mark (job, text)
	elseif e.event == "note" and e.message then
		print ("Segue: " .. e.message)
		mark (job, e.message)
	end
end
-- Whether the process that does the job is there: its beat is another text each second, or /proc has it.
local function alive (job)
	local beat = files.read (job.folder .. "/heartbeat")
	if beat and beat ~= job.beat then
		job.beat, job.heard = beat, now ()
		return true
	end
	if now () - job.heard < 5e6 then return true end
	local pid = beat and beat:match ("%d+")
	local stat = pid and files.read ("/proc/" .. pid .. "/stat")
	if stat and not stat:match ("%) Z") then return true end
	return not pid and now () - job.started < 30e6
end
function steps.follow (job, until_us)
	local f = io.open (job.folder .. "/progress", "rb")
	local e
	if f then
		f:seek ("set", job.line)
		local text = f:read (65536) or ""
		f:close ()
		for line in text:gmatch ("([^\n]*)\n") do
			job.line = job.line + #line + 1
			e = json.read (line)
			if e and e.event then heard (job, e) end
			if now () > until_us then return end
		end
	end
	local done = not e and files.read_json (job.folder .. "/done")
	if not done then
		if not alive (job) then
			print ("Segue: the program that does the job ended; it is started again.")
			job.step = "start"
		end
		return
	end
	if done.state == "cancelled" then
		print ("Segue: cancelled.")
		close (job)
	elseif done.state ~= "done" then
		fail (job, done.message or "the job failed")
	else
		job.plan = land.plan (job.order, done)
		job.done, job.step = done, "prepare"
		for _, t in ipairs (job.plan.takes) do
			if t.file:sub (1, 1) ~= "/" then t.file = job.folder .. "/" .. t.file end
		end
		mark (job, "landing")
		if #job.plan.takes == 0 then error ("There is no take in what came back.", 0) end
	end
end
function steps.prepare (job)
	if land.prepare (job.order, job.plan) then job.step = "finish" end
end
function steps.finish (job)
	local ids, replaced = land.finish (job.order, job.plan)
	for _, sound in ipairs (job.order.audio) do
		for _, piece in ipairs (sound.pieces) do piece.region = piece.region and (replaced[piece.region] or piece.region) end
	end
	for _, key in ipairs { "fade_out", "fade_in" } do
		local old = job.order[key]
		job.order[key] = old and (replaced[old] or old)
	end
	files.append (path ("history"), json.write ({ time = os.time (), name = job.name, regions = ids,
		seed = job.done.seed, job = job.done.job, settings = job.done.settings, order = job.order }))
	close (job)
end

local function take_up (name)
	local order = files.read_json (path ("orders", name .. ".json"))
	if not order or order.name ~= name then return end
	local job = { name = name, order = order, folder = path ("jobs", name), step = "make" }
	-- after Ardour was closed or crashed: what was asked already goes on where it is
	if files.exists (job.folder .. "/request.json") then job.step = "start" end
	if job.step == "make" and files.exists (job.folder .. "/.host") then job.step, job.sound = "read", 1 end
	jobs.open[#jobs.open + 1] = job
end
local function look_at_queue ()
	local f = io.open (path ("queue"), "rb")
	if not f then return end
	local size = f:seek ("end")
	if size > jobs.offset then
		f:seek ("set", jobs.offset)
		for name in f:read ("a"):gmatch ("([^\n]*)\n") do
			jobs.offset = jobs.offset + #name + 1
			if name:match ("^%x+$") and #name == 32 then take_up (name) end
		end
	end
	f:close ()
	if #jobs.open == 0 and size > 0 and size == jobs.offset then
		os.remove (path ("queue"))
		jobs.offset = 0
	end
end
local function begin ()
	files.start ("/bin/mkdir", "-p", path ("orders"), path ("jobs"), path ("takes"))
	-- marks of jobs that a crash left behind
	local left = {}
	for _, l in ipairs (all (Session:locations ():list ())) do
		if l:is_range_marker () and l:name ():sub (1, 6) == "segue " then left[#left + 1] = l:name () end
	end
	for _, text in ipairs (left) do unmark (text) end
	jobs.offset, jobs.open, jobs.of, jobs.beaten = 0, {}, Session:path (), false
end
local function beat ()
	jobs.turns = jobs.turns + 1
	if jobs.beaten and jobs.turns % 10 ~= 0 then return end
	jobs.beaten = files.write (path ("hook.json"), json.write ({ time = os.time (), turns = jobs.turns, open = #jobs.open,
		longest_ms = jobs.longest_us / 1000, longest_in = jobs.longest_in, longest_with_waiting_ms = jobs.waiting_us / 1000,
		longest_add_track_ms = jobs.longest_add_us / 1000 }))
end
-- How long Linux kept this thread waiting for a processor so far: what others took is not what a turn took.
local function waited_us ()
	local text = files.read ("/proc/thread-self/schedstat")
	return text and (tonumber (text:match ("^%d+ (%d+)")) or 0) // 1000 or 0
end
function jobs.turn ()
	local t0, waited, did = now (), waited_us (), ""
	if jobs.of ~= Session:path () then begin () end
	beat ()
	look_at_queue ()
	if jobs.failed and t0 - jobs.failed.at > 60e6 then
		unmark (jobs.failed.text)
		jobs.failed = nil
	end
	local added = false
	for i = #jobs.open, 1, -1 do
		local job = jobs.open[i]
		if job.step and now () - t0 < TURN_US then
			if job.step ~= "follow" and files.exists (path ("orders", job.name .. ".cancel"))
				and job.step ~= "prepare" and job.step ~= "finish" then
				close (job)
			else
				did = did .. job.step .. " "
				local ok, why = pcall (steps[job.step], job, t0 + TURN_US)
				if not ok then fail (job, tostring (why)) end
				if job.plan and job.plan.did then
					added, did, job.plan.did = added or job.plan.did == "track", did .. job.plan.did .. " ", nil
				end
			end
		end
		if not job.step then table.remove (jobs.open, i) end
	end
	local took = now () - t0
	local alone = took - (waited_us () - waited)
	if added then
		jobs.longest_add_us = math.max (jobs.longest_add_us, alone)
	else
		if alone > jobs.longest_us then jobs.longest_us, jobs.longest_in = alone, did end
		jobs.waiting_us = math.max (jobs.waiting_us, took)
	end
end
