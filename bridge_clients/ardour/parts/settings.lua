-- What a musician may set. Kept with the session in segue/settings.json; the last ones are the next session's first.
local settings = {}
settings.DEFAULTS = {
	text = "", negative_text = "", model = "", bars = 4, variations = 2, start = "edge", loop = false,
	strength = 0.5, stems = false, takes = "playlists", crossfade = true, level = "match", handle_ms = 80,
	prompt_s = 30, seed = "", cfg_coef = "", temperature = "", priority = "interactive",
}
local function common () return files.join (ARDOUR.user_config_directory (-1), "segue-settings.json") end
function settings.read ()
	local kept = files.read_json (files.join (files.home (), "settings.json")) or files.read_json (common ()) or {}
	local s = {}
	for k, v in pairs (settings.DEFAULTS) do
		s[k] = v
		if type (kept[k]) == type (v) then s[k] = kept[k] end
	end
	return s
end
function settings.write (s)
	local text = json.write (s)
	files.write (common (), text)
	return files.write (files.join (files.home (), "settings.json"), text)
end
