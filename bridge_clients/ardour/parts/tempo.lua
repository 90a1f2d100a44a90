-- Ardour's tempo map as the wire wants it. Ardour 7 lists no points; each question "which point holds here"
-- names the point, so asking just before it again walks the whole map back to its origin.
local tempo = {}
local PULSE = Temporal.ticks_per_beat -- 1920 to a quarter note
local function at_ticks (n) return Temporal.timepos_t.from_ticks (n) end
-- Ardour 7.3 tells a beat count only as text, "beats:ticks"; later ones have to_ticks (not tried there).
local function ticks_of (beats)
	local b, t = beats:str ():match ("^(-?%d+):(%d+)$")
	if b then return tonumber (b) * PULSE + tonumber (t) end
	return beats:to_ticks ()
end
tempo.ticks_of = ticks_of
function tempo.ticks_at (map, sample) return ticks_of (map:quarters_at (Temporal.timepos_t (sample))) end
function tempo.sample_at (ticks) return at_ticks (ticks):samples () end

local function gcd (a, b)
	while b ~= 0 do a, b = b, a % b end
	return a
end
-- "n/d" within what the wire takes (12 and 9 digits), else the nearest double.
local function ratio (n, d)
	if d < 0 then n, d = -n, -d end
	local g = gcd (math.abs (n), d)
	n, d = n // g, d // g
	if d == 1 then return n end
	if math.abs (n) < 1000000000000 and d < 1000000000 then return string.format ("%d/%d", n, d) end
	return n / d
end

-- Points of one kind from the origin to `last` ticks, ascending.
local function points (last, of)
	local found, at = {}, last
	repeat
		local p = of (at)
		p.ticks = math.max (0, math.min (p.ticks, at))
		table.insert (found, 1, p)
		at = p.ticks - 1
	until p.ticks <= 0 or #found > 4000
	return found
end
-- The map's points from the origin to `last` samples.
local function grid (last)
	local map = Temporal.TempoMap.read ()
	local g = { clock = Temporal.superclock_ticks_per_second (), rate = Session:nominal_sample_rate () }
	g.last = tempo.ticks_at (map, last)
	-- asked exactly at a change Ardour 7.3 names the point before it, so both ask one tick later
	g.tempi = points (g.last, function (t)
		local p = map:tempo_at (at_ticks (t + 1))
		local whole = p:to_tempo ()
		-- Ardour keeps a whole number of clock ticks a note; its bpm is only a view of that
		local note = math.floor (g.clock * 60 / whole:note_types_per_minute () + 0.5)
		local kind = math.tointeger (whole:note_type ())
		return { ticks = ticks_of (p:to_point ():beats ()), clock = p:to_point ():sclock (), note = note, kind = kind }
	end)
	g.meters = points (g.last, function (t)
		local p = map:meter_at (at_ticks (t + 1))
		return { ticks = ticks_of (p:to_point ():beats ()), beats = p:divisions_per_bar (), unit = p:note_value () }
	end)
	for i, p in ipairs (g.tempi) do
		p.quarter = p.note * p.kind / 4
		p.sample = tempo.sample_at (p.ticks)
		-- a ramp is told by where its end really lies: constant tempo would put it elsewhere
		local upto = g.tempi[i + 1] and g.tempi[i + 1].ticks or g.last
		local flat = p.sample + (upto - p.ticks) * p.quarter / PULSE / g.clock * g.rate
		p.ramp = math.abs (tempo.sample_at (upto) - flat) > 2
	end
	return g
end
local function holding (list, key, value)
	local found = list[1]
	local after
	for i, p in ipairs (list) do
		if p[key] <= value then found, after = p, list[i + 1] end
	end
	return found, after or (found == list[1] and list[2]) or nil
end
-- Ticks of a sample and back, finer than a tick (12 samples and a half at 120): a seam may lie anywhere.
local function fine_ticks (g, sample)
	local p = holding (g.tempi, "sample", sample)
	if p.ramp then return tempo.ticks_at (Temporal.TempoMap.read (), sample) end
	return p.ticks + (sample * g.clock / g.rate - p.clock) * PULSE / p.quarter
end
local function fine_sample (g, ticks)
	local near = math.floor (ticks + 0.5)
	local p = holding (g.tempi, "ticks", ticks)
	if p.ramp or math.abs (ticks - near) < 1e-6 then return tempo.sample_at (near) end
	-- downwards, as Ardour does it
	return math.floor ((p.clock + (ticks - p.ticks) * p.quarter / PULSE) * g.rate / g.clock + 1e-6)
end

-- The tempo map up to `last` samples as the wire's tempo_map, with the seam at `seam` samples. A change of tempo
-- inside a bar says mid_bar: the bar goes on.
function tempo.read (seam, last)
	local g = grid (last)
	local changes = json.array ()
	local function add (ticks, n, d)
		local m = holding (g.meters, "ticks", ticks)
		local c = { at = ratio (ticks, PULSE), bpm = ratio (n, d), beats = m.beats, unit = m.unit }
		if (ticks - m.ticks) % (m.beats * 4 * PULSE // m.unit) ~= 0 then c.mid_bar = true end
		changes[#changes + 1] = c
	end
	local edges, order = {}, {}
	for _, list in ipairs { g.tempi, g.meters } do
		for _, p in ipairs (list) do
			if not edges[p.ticks] then edges[p.ticks], order[#order + 1] = true, p.ticks end
		end
	end
	table.sort (order)
	for i, t in ipairs (order) do
		local p = holding (g.tempi, "ticks", t)
		local upto = order[i + 1] or g.last
		if not p.ramp then
			add (t, g.clock * 60 * 4, p.note * p.kind)
		else
			-- as steps of a quarter note, each exactly as long as Ardour draws it
			while t < upto and #changes < 4000 do
				local b = math.min (t + PULSE, upto)
				local samples = tempo.sample_at (b) - tempo.sample_at (t)
				if samples < 1 then break end
				add (t, 60 * g.rate * (b - t), samples * PULSE)
				t = b
			end
		end
	end
	local p = holding (g.tempi, "sample", seam)
	local ticks = tempo.ticks_at (Temporal.TempoMap.read (), seam)
	local start = ratio (ticks, PULSE)
	if tempo.sample_at (ticks) ~= seam and not p.ramp then
		start = fine_ticks (g, seam) / PULSE
		local quarter = math.tointeger (p.quarter)
		if quarter and seam * g.clock % g.rate == 0 then
			start = ratio (p.ticks * quarter + (seam * g.clock // g.rate - p.clock) * PULSE, PULSE * quarter)
		end
	end
	return { changes = changes, start = start }
end

-- Bar lines by the meters' own ticks: Ardour 7.3's bbtwalk_to_quarters answered 0 for one bar and crashed at four.
local HORIZON_S = 3600
local function bar_of (g, ticks)
	local m, after = holding (g.meters, "ticks", ticks)
	local length = m.beats * 4 * PULSE // m.unit
	local line = math.floor (m.ticks + (ticks - m.ticks) // length * length)
	local to = line + length
	if after and after.ticks > line and after.ticks < to then to = after.ticks end
	return line, to
end
-- Samples from `from` to `bars` bars after it, on Ardour's own grid; from inside a bar to the same part of another.
function tempo.bars_in_samples (from, bars)
	local g = grid (from + HORIZON_S * Session:nominal_sample_rate ())
	local ticks = tempo.ticks_at (Temporal.TempoMap.read (), from)
	if tempo.sample_at (ticks) ~= from then ticks = fine_ticks (g, from) end
	local line, to = bar_of (g, ticks)
	local goal = (ticks - line) / (to - line) + bars
	while goal >= 1 do
		line, to = bar_of (g, to)
		goal = goal - 1
	end
	return fine_sample (g, line + goal * (to - line)) - from
end
-- The bar line at or after a sample.
function tempo.next_bar (sample)
	local g = grid (sample + HORIZON_S * Session:nominal_sample_rate ())
	local line, to = bar_of (g, tempo.ticks_at (Temporal.TempoMap.read (), sample))
	return tempo.sample_at (line) >= sample and tempo.sample_at (line) or tempo.sample_at (to)
end
