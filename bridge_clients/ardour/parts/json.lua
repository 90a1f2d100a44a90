-- JSON, because Ardour's Lua can load no library. null is json.null; arrays are tables made by json.array.
local json = {}
json.null = setmetatable ({}, { __tostring = function () return "null" end })
local ARRAY = {}
function json.array (t) return setmetatable (t or {}, ARRAY) end

local ESCAPES = { ['"'] = '\\"', ["\\"] = "\\\\", ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t" }
local function quoted (s)
	return '"' .. s:gsub ('[%c"\\\127]', function (c)
		return ESCAPES[c] or string.format ("\\u%04x", c:byte ())
	end) .. '"'
end

function json.write (v)
	local kind = type (v)
	if v == json.null then return "null" end
	if kind == "string" then return quoted (v) end
	if kind == "boolean" then return tostring (v) end
	if kind == "number" then
		if math.type (v) == "integer" then return string.format ("%d", v) end
		if v ~= v or v == math.huge or v == -math.huge then error ("not a number that JSON can say") end
		-- a decimal comma would come from the user's locale
		return (string.format ("%.17g", v):gsub (",", "."))
	end
	if kind ~= "table" then error ("JSON cannot say a " .. kind) end
	local out = {}
	if getmetatable (v) == ARRAY then
		for i = 1, #v do out[i] = json.write (v[i]) end
		return "[" .. table.concat (out, ",") .. "]"
	end
	for k, x in pairs (v) do out[#out + 1] = quoted (tostring (k)) .. ":" .. json.write (x) end
	table.sort (out)
	return "{" .. table.concat (out, ",") .. "}"
end

local PLAIN = { ['"'] = '"', ["\\"] = "\\", ["/"] = "/", b = "\b", f = "\f", n = "\n", r = "\r", t = "\t" }
local function read_string (s, at)
	local out, from = {}, at + 1
	while true do
		local i = s:find ('["\\]', from)
		if not i then error ("JSON: a text without an end") end
		out[#out + 1] = s:sub (from, i - 1)
		if s:byte (i) == 34 then return table.concat (out), i + 1 end
		local c = s:sub (i + 1, i + 1)
		if c == "u" then
			local code = tonumber (s:match ("^%x%x%x%x", i + 2) or error ("JSON: a broken \\u"), 16)
			from = i + 6
			if code >= 0xD800 and code < 0xDC00 then
				local low = tonumber (s:match ("^\\u(%x%x%x%x)", from) or "0", 16)
				if low >= 0xDC00 and low < 0xE000 then
					code, from = 0x10000 + (code - 0xD800) * 0x400 + (low - 0xDC00), from + 6
				end
			end
			if code >= 0xD800 and code < 0xE000 then code = 0xFFFD end
			out[#out + 1] = utf8.char (code)
		else
			out[#out + 1] = PLAIN[c] or error ("JSON: a broken escape")
			from = i + 2
		end
	end
end

local read_value
local function read_list (s, at, close, one)
	at = s:match ("^%s*()", at + 1)
	if s:sub (at, at) == close then return at + 1 end
	while true do
		at = one (at)
		at = s:match ("^%s*()", at)
		local c = s:sub (at, at)
		if c == close then return at + 1 end
		if c ~= "," then error ("JSON: expected , or " .. close) end
		at = s:match ("^%s*()", at + 1)
	end
end
local WORDS = { ["true"] = true, ["false"] = false }
function read_value (s, at, depth)
	if depth > 32 then error ("JSON: too deep") end
	at = s:match ("^%s*()", at)
	local c = s:sub (at, at)
	if c == '"' then return read_string (s, at) end
	if c == "{" then
		local t = {}
		return t, read_list (s, at, "}", function (i)
			if s:sub (i, i) ~= '"' then error ("JSON: expected a name") end
			local k, v
			k, i = read_string (s, i)
			i = s:match ("^%s*:()", i) or error ("JSON: expected :")
			v, i = read_value (s, i, depth + 1)
			if v ~= json.null then t[k] = v end
			return i
		end)
	end
	if c == "[" then
		local t = json.array ()
		return t, read_list (s, at, "]", function (i)
			t[#t + 1], i = read_value (s, i, depth + 1)
			return i
		end)
	end
	local word = s:match ("^%a+", at)
	if word == "null" then return json.null, at + 4 end
	if WORDS[word] ~= nil then return WORDS[word], at + #word end
	local digits = s:match ("^-?%d+%.?%d*[eE]?[+-]?%d*", at)
	if not digits then error ("JSON: nothing that can be read") end
	return math.tointeger (tonumber (digits)) or tonumber (digits), at + #digits
end
-- The value of a JSON text, or nil and why.
function json.read (s)
	local ok, v, at = pcall (read_value, s, 1, 0)
	if not ok then return nil, v end
	if s:match ("^%s*()", at) <= #s then return nil, "JSON: more after the end" end
	return v
end
