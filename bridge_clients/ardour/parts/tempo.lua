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
function tempo.meters (map, end_ticks)
	return points (end_ticks, function (t)
		local p = map:meter_at (at_ticks (t + 1))
		return { ticks = ticks_of (p:to_point ():beats ()), beats = p:divisions_per_bar (), unit = p:note_value () }
	end)
end
-- The tempo map up to `last` samples, with the seam at `seam` samples: the wire's tempo_map, and whether every
-- change lies on a bar line (only then the wire's own bar count is Ardour's).
function tempo.read (seam, last)
	local map = Temporal.TempoMap.read ()
	local clock = Temporal.superclock_ticks_per_second ()
	local rate = Session:nominal_sample_rate ()
	local end_ticks = tempo.ticks_at (map, last)
	-- asked exactly at a change Ardour 7.3 names the point before it, so both ask one tick later
	local tempi = points (end_ticks, function (t)
		local p = map:tempo_at (at_ticks (t + 1))
		local whole = p:to_tempo ()
		-- Ardour keeps a whole number of clock ticks a note; its bpm is only a view of that
		local note = math.floor (clock * 60 / whole:note_types_per_minute () + 0.5)
		return { ticks = ticks_of (p:to_point ():beats ()), clock = p:to_point ():sclock (), note = note, kind = whole:note_type () }
	end)
	local meters = tempo.meters (map, end_ticks)
	local changes, whole = json.array (), true
	local ti, mi = 1, 1
	local function add (ticks, n, d)
		local m = meters[mi]
		local length = m.beats * 4 * PULSE // m.unit
		local on_bar = (ticks - m.ticks) % length == 0
		whole = whole and on_bar
		local c = { at = ratio (ticks, PULSE), bpm = ratio (n, d), beats = m.beats, unit = m.unit }
		if not on_bar then c.bar = false end
		changes[#changes + 1] = c
	end
	local edges = {}
	for _, p in ipairs (tempi) do edges[p.ticks] = true end
	for _, p in ipairs (meters) do edges[p.ticks] = true end
	local order = {}
	for t in pairs (edges) do order[#order + 1] = t end
	table.sort (order)
	for i, t in ipairs (order) do
		while tempi[ti + 1] and tempi[ti + 1].ticks <= t do ti = ti + 1 end
		while meters[mi + 1] and meters[mi + 1].ticks <= t do mi = mi + 1 end
		local p = tempi[ti]
		local upto = tempi[ti + 1] and tempi[ti + 1].ticks or end_ticks
		-- A ramp is told by where its end really lies: constant tempo would put it elsewhere.
		local quarter = p.note * p.kind // 4
		local far = tempo.sample_at (upto) - tempo.sample_at (p.ticks)
		local flat = (upto - p.ticks) * quarter / PULSE / clock * rate
		if math.abs (far - flat) <= 2 then
			add (t, clock * 60 * 4, p.note * p.kind)
		else
			-- as steps of a quarter note, each exactly as long as Ardour draws it
			local to = math.min (upto, (order[i + 1] or upto))
			local a = t
			while a < to and #changes < 4000 do
				local b = math.min (a + PULSE, to)
				local samples = tempo.sample_at (b) - tempo.sample_at (a)
				if samples < 1 then break end
				add (a, 60 * rate * (b - a), samples * PULSE)
				a = b
			end
		end
	end
	-- the seam, finer than Ardour's ticks: from the tempo point before it by the clock
	local p
	for _, q in ipairs (tempi) do if not p or tempo.sample_at (q.ticks) <= seam then p = q end end
	local ticks = tempo.ticks_at (map, seam)
	local start = ratio (ticks, PULSE)
	if tempo.sample_at (ticks) ~= seam and seam * clock % rate == 0 then
		local quarter = p.note * p.kind // 4
		start = ratio (p.ticks * quarter + (seam * clock // rate - p.clock) * PULSE, PULSE * quarter)
	end
	return { changes = changes, start = start }, whole
end
-- Bar lines by the meters' own ticks: Ardour 7.3's bbtwalk_to_quarters answered 0 for one bar and crashed at four.
local HORIZON_S = 3600
local function meters_upto (sample)
	local map = Temporal.TempoMap.read ()
	return tempo.meters (map, tempo.ticks_at (map, sample + HORIZON_S * Session:nominal_sample_rate ()))
end
local function bar_of (meters, ticks)
	local m, after
	for i, x in ipairs (meters) do if x.ticks <= ticks or not m then m, after = x, meters[i + 1] end end
	local length = m.beats * 4 * PULSE // m.unit
	local line = m.ticks + (ticks - m.ticks) // length * length
	local to = line + length
	if after and after.ticks < to then to = after.ticks end
	return line, to
end
-- Samples from `from` to `bars` bars after it, on Ardour's own grid; from inside a bar to the same part of another.
function tempo.bars_in_samples (from, bars)
	local meters = meters_upto (from)
	local ticks = tempo.ticks_at (Temporal.TempoMap.read (), from)
	local line, to = bar_of (meters, ticks)
	local goal = (ticks - line) / (to - line) + bars
	while goal >= 1 do
		line, to = bar_of (meters, to)
		goal = goal - 1
	end
	return tempo.sample_at (math.floor (line + goal * (to - line) + 0.5)) - from
end
-- The bar line at or after a sample.
function tempo.next_bar (sample)
	local meters = meters_upto (sample)
	local line, to = bar_of (meters, tempo.ticks_at (Temporal.TempoMap.read (), sample))
	return tempo.sample_at (line) >= sample and tempo.sample_at (line) or tempo.sample_at (to)
end
