-- @noindex
-- JSON, strict: what this reads is JSON and nothing else, and what it writes is ASCII without a newline, so that
-- it fits into one value of a project file. Arrays are tables made by json.array; null is json.null.

local json = {}

local MAX_DEPTH = 64 -- a file that is nested deeper than this is not one of ours

json.null = setmetatable({}, { __tostring = function() return "null" end, __name = "json.null" })
local array_mt = { __name = "json.array" }

--- A table that is written as an array even when it is empty.
function json.array(list) return setmetatable(list or {}, array_mt) end

--- Whether a table is an array.
function json.is_array(value) return getmetatable(value) == array_mt end

local ESCAPES = { ['"'] = '"', ["\\"] = "\\", ["/"] = "/", b = "\b", f = "\f", n = "\n", r = "\r", t = "\t" }

local function fail(at, what) error({ json = string.format("%s at byte %d", what, at) }, 0) end

local function skip(text, at) return text:match("^[ \t\r\n]*()", at) end

local function hex4(text, at)
  local digits = text:match("^%x%x%x%x", at)
  if not digits then fail(at, "\\u without four hex digits") end
  return tonumber(digits, 16)
end

local function read_string(text, at)
  local parts, from = {}, at + 1
  while true do
    local stop = text:find('[%c"\\]', from)
    if not stop then fail(at, "a string without an end") end
    parts[#parts + 1] = text:sub(from, stop - 1)
    local byte = text:sub(stop, stop)
    if byte == '"' then
      local made = table.concat(parts)
      if not utf8.len(made) then fail(at, "a string that is not UTF-8") end
      return made, stop + 1
    elseif byte ~= "\\" then
      if byte ~= "\127" then fail(stop, "a control character in a string") end
      parts[#parts + 1], from = byte, stop + 1
    else
      local letter = text:sub(stop + 1, stop + 1)
      if letter == "u" then
        local code = hex4(text, stop + 2)
        from = stop + 6
        if code >= 0xD800 and code <= 0xDBFF then
          if text:sub(from, from + 1) ~= "\\u" then fail(stop, "half a surrogate pair") end
          local low = hex4(text, from + 2)
          if low < 0xDC00 or low > 0xDFFF then fail(stop, "half a surrogate pair") end
          code, from = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00), from + 6
        elseif code >= 0xDC00 and code <= 0xDFFF then
          fail(stop, "half a surrogate pair")
        end
        parts[#parts + 1] = utf8.char(code)
      else
        local plain = ESCAPES[letter]
        if not plain then fail(stop, "an unknown escape") end
        parts[#parts + 1], from = plain, stop + 2
      end
    end
  end
end

local function read_number(text, at)
  local whole, after = text:match("^(%-?%d+)()", at)
  if not whole or whole:match("^%-?0%d") then fail(at, "not a value") end
  local fraction, past = text:match("^(%.%d+)()", after)
  after = past or after
  local power, beyond = text:match("^([eE][+-]?%d+)()", after)
  after = beyond or after
  if text:match("^[%w.]", after) then fail(after, "something behind a number") end
  local value = fraction == nil and power == nil and math.tointeger(tonumber(whole))
    or tonumber(whole .. (fraction or "") .. (power or "")) + 0.0
  if value ~= value or value == math.huge or value == -math.huge then fail(at, "a number out of range") end
  return value, after
end

local read_value

local function read_list(text, at, depth)
  local list, place = json.array(), skip(text, at + 1)
  if text:sub(place, place) == "]" then return list, place + 1 end
  while true do
    list[#list + 1], place = read_value(text, place, depth)
    place = skip(text, place)
    local byte = text:sub(place, place)
    if byte == "]" then return list, place + 1 end
    if byte ~= "," then fail(place, "no comma between values") end
    place = skip(text, place + 1)
  end
end

local function read_map(text, at, depth)
  local map, place = {}, skip(text, at + 1)
  if text:sub(place, place) == "}" then return map, place + 1 end
  while true do
    if text:sub(place, place) ~= '"' then fail(place, "a name that is no string") end
    local name
    name, place = read_string(text, place)
    place = skip(text, place)
    if text:sub(place, place) ~= ":" then fail(place, "no colon after a name") end
    if map[name] ~= nil then fail(place, "a name that comes twice") end
    map[name], place = read_value(text, skip(text, place + 1), depth)
    place = skip(text, place)
    local byte = text:sub(place, place)
    if byte == "}" then return map, place + 1 end
    if byte ~= "," then fail(place, "no comma between members") end
    place = skip(text, place + 1)
  end
end

local WORDS = { t = { "true", true }, f = { "false", false }, n = { "null", json.null } }

function read_value(text, at, depth)
  if depth > MAX_DEPTH then fail(at, "nested too deeply") end
  local byte = text:sub(at, at)
  if byte == '"' then return read_string(text, at) end
  if byte == "{" then return read_map(text, at, depth + 1) end
  if byte == "[" then return read_list(text, at, depth + 1) end
  local word = WORDS[byte]
  if word and text:sub(at, at + #word[1] - 1) == word[1] then return word[2], at + #word[1] end
  return read_number(text, at)
end

--- The value that a text holds, or nil and what is wrong with it.
function json.decode(text)
  if type(text) ~= "string" then return nil, "not a text" end
  local ok, value, past = pcall(read_value, text, skip(text, 1), 0)
  if not ok then return nil, type(value) == "table" and value.json or tostring(value) end
  if skip(text, past) <= #text then return nil, string.format("something behind the end at byte %d", past) end
  return value
end

local SHORT = { ['"'] = '\\"', ["\\"] = "\\\\", ["\b"] = "\\b", ["\f"] = "\\f", ["\n"] = "\\n", ["\r"] = "\\r",
  ["\t"] = "\\t" }

local function escaped(code)
  if code < 0x10000 then return string.format("\\u%04x", code) end
  code = code - 0x10000
  return string.format("\\u%04x\\u%04x", 0xD800 + (code >> 10), 0xDC00 + (code & 0x3FF))
end

local function write_string(text)
  local made = text:gsub('[%c"\\]', function(byte) return SHORT[byte] or escaped(byte:byte()) end)
  if not made:find("[\128-\255]") then return '"' .. made .. '"' end
  if utf8.len(made) then return '"' .. made:gsub(utf8.charpattern, function(char)
    return #char > 1 and escaped(utf8.codepoint(char)) or nil
  end) .. '"' end
  -- a name from an old project file may be in another encoding: keep what can be kept, lose no request over it
  return '"' .. made:gsub("[\128-\255]", "\\ufffd") .. '"'
end

local function write_number(value)
  if math.type(value) == "integer" then return tostring(value) end
  if value ~= value or value == math.huge or value == -math.huge then error("JSON has no such number", 0) end
  -- 17 digits bring every double back exactly; a decimal comma would come from the host's locale
  return (string.format("%.17g", value):gsub(",", "."))
end

local function write(value, out, depth)
  local kind = type(value)
  if depth > MAX_DEPTH then error("nested too deeply for JSON", 0) end
  if value == nil or value == json.null then out[#out + 1] = "null"
  elseif kind == "boolean" then out[#out + 1] = tostring(value)
  elseif kind == "number" then out[#out + 1] = write_number(value)
  elseif kind == "string" then out[#out + 1] = write_string(value)
  elseif kind ~= "table" then error("JSON has no " .. kind, 0)
  elseif json.is_array(value) then
    out[#out + 1] = "["
    for i = 1, #value do
      if i > 1 then out[#out + 1] = "," end
      write(value[i], out, depth + 1)
    end
    out[#out + 1] = "]"
  else
    local names = {}
    for name in pairs(value) do
      if type(name) ~= "string" then error("JSON names are texts", 0) end
      names[#names + 1] = name
    end
    table.sort(names)
    out[#out + 1] = "{"
    for i, name in ipairs(names) do
      if i > 1 then out[#out + 1] = "," end
      out[#out + 1] = write_string(name)
      out[#out + 1] = ":"
      write(value[name], out, depth + 1)
    end
    out[#out + 1] = "}"
  end
end

--- A value as text: ASCII, one line, names in order.
function json.encode(value)
  local out = {}
  write(value, out, 0)
  return table.concat(out)
end

--- A member of a map, with null read as nothing.
function json.get(map, name)
  if type(map) ~= "table" then return nil end
  local value = map[name]
  if value == json.null then return nil end
  return value
end

return json
