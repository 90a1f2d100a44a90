-- What the actions share: they only write an order down; the hook does the work, a little at each tick.
local act = {}
local TITLE = "Segue"
function act.say (text)
	LuaDialog.Message (TITLE, text, LuaDialog.MessageType.Info, LuaDialog.ButtonType.Close):run ()
end
-- Nothing may escape: Ardour unbinds an action that failed for the rest of the session.
function act.guarded (f)
	local ok, why = pcall (f)
	if not ok then
		print ("Segue: " .. tostring (why))
		act.say (tostring (why))
	end
end
function act.hook_runs ()
	local beat = files.read_json (files.join (files.home (), "hook.json"))
	return beat and math.abs (os.time () - beat.time) <= 5
end
function act.need_hook ()
	if act.hook_runs () then return end
	error ("The hook “Segue: jobs” is not switched on, so nobody would do the work.\n\n"
		.. "Once, for all sessions: Edit > Lua Scripts > Script Manager, tab Action Hooks, New Hook, “Segue: jobs”.", 0)
end
function act.place (order)
	if not files.command () then
		error ("Where the segue command is, is not known here: run “segue install ardour” in a terminal.", 0)
	end
	local name = files.random_name ()
	order.name = name
	order.time = os.time ()
	assert (files.write (files.join (files.home (), "orders", name .. ".json"), json.write (order)))
	assert (files.append (files.join (files.home (), "queue"), name))
end
function act.make (mode)
	act.guarded (function ()
		act.need_hook ()
		act.place (choose.order (mode, settings.read ()))
	end)
end
-- The names of the jobs that have not ended.
function act.open_jobs ()
	local found = {}
	for name in (files.read (files.join (files.home (), "queue")) or ""):gmatch ("[^\n]+") do
		if name:match ("^%x+$") and files.exists (files.join (files.home (), "orders", name .. ".json")) then
			found[#found + 1] = name
		end
	end
	return found
end
function act.cancel ()
	act.guarded (function ()
		local jobs = act.open_jobs ()
		for _, name in ipairs (jobs) do
			files.append (files.join (files.home (), "orders", name .. ".cancel"), "cancel")
			files.append (files.join (files.home (), "jobs", name, "cancel"), "cancel")
		end
		if #jobs == 0 then act.say ("There is nothing to cancel.") end
	end)
end
-- The same again with another seed: of the selected take, or of the last job.
function act.retake ()
	act.guarded (function ()
		act.need_hook ()
		local wanted = {}
		for _, r in ipairs (all (Editor:get_selection ().regions:regionlist ())) do
			wanted[r:to_stateful ():id ():to_s ()] = true
		end
		local last, mine
		for line in (files.read (files.join (files.home (), "history")) or ""):gmatch ("[^\n]+") do
			local h = json.read (line)
			if h then
				last = h
				for _, id in ipairs (h.regions or {}) do if wanted[id] then mine = h end end
			end
		end
		local h = mine or last or error ("There is no take yet that could be made again.", 0)
		local o = h.order
		o.request.seed = nil
		act.place (o)
	end)
end
function act.settings ()
	act.guarded (function ()
		local s = settings.read ()
		local choices = {
			{ type = "entry", key = "text", default = s.text, title = "What it shall sound like" },
			{ type = "entry", key = "negative_text", default = s.negative_text, title = "What it shall not sound like" },
			{ type = "number", key = "bars", title = "Length in bars", min = 1, max = 256, step = 1, digits = 0, default = s.bars },
			{ type = "number", key = "variations", title = "Takes to choose from", min = 1, max = 16, step = 1, digits = 0, default = s.variations },
			{ type = "dropdown", key = "start", title = "Begin", values = { ["right at the edge"] = "edge", ["on the next bar"] = "bar" },
				default = s.start == "bar" and "on the next bar" or "right at the edge" },
			{ type = "dropdown", key = "takes", title = "Takes lie on", values = { ["playlists of one track"] = "playlists", ["a track each"] = "tracks" },
				default = s.takes == "tracks" and "a track each" or "playlists of one track" },
			{ type = "checkbox", key = "stems", default = s.stems, title = "Stems on tracks of their own" },
			{ type = "checkbox", key = "crossfade", default = s.crossfade, title = "Crossfade at the seam" },
			{ type = "checkbox", key = "loop", default = s.loop, title = "The end meets the beginning" },
			{ type = "slider", key = "strength", title = "Vary: how far", min = 0, max = 1, digits = 2, default = s.strength },
			{ type = "entry", key = "seed", default = s.seed, title = "Seed (empty: a new one each time)" },
			{ type = "entry", key = "model", default = s.model, title = "Model (empty: the usual one)" },
			{ type = "entry", key = "cfg_coef", default = s.cfg_coef, title = "Guidance (empty: the model's)" },
			{ type = "entry", key = "temperature", default = s.temperature, title = "Temperature (empty: the model's)" },
		}
		local got = LuaDialog.Dialog ("Segue: settings of this session", choices):run ()
		if not got then return end
		for k, v in pairs (got) do if s[k] ~= nil then s[k] = v end end
		s.bars, s.variations = math.floor (s.bars), math.floor (s.variations)
		assert (settings.write (s))
	end)
end
