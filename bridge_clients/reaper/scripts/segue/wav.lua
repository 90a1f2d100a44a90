-- @noindex
-- WAV files with float32 samples: written in slices, and looked into.

local wav = {}

local AT_ONCE = 2048 -- samples per string.pack: 0.15 ms here, far below a slice of the interface's time
local FORMATS = {}

local function format(count)
  local made = FORMATS[count]
  if not made then
    made = "<" .. ("f"):rep(count)
    FORMATS[count] = made
  end
  return made
end

--- `samples[from … to]` as little-endian float32.
function wav.pack(samples, from, to)
  local parts = {}
  for start = from, to, AT_ONCE do
    local stop = math.min(to, start + AT_ONCE - 1)
    parts[#parts + 1] = string.pack(format(stop - start + 1), table.unpack(samples, start, stop))
  end
  return table.concat(parts)
end

--- The bytes before the samples. All sizes are known before the first sample is.
function wav.header(rate_hz, channels, frames)
  local data_bytes = frames * channels * 4
  return "RIFF" .. string.pack("<I4", 50 + data_bytes) .. "WAVE"
    .. "fmt " .. string.pack("<I4I2I2I4I4I2I2I2", 18, 3, channels, rate_hz, rate_hz * channels * 4,
      channels * 4, 32, 0)
    .. "fact" .. string.pack("<I4I4", 4, frames)
    .. "data" .. string.pack("<I4", data_bytes)
end

--- What a WAV file is: {rate, channels, frames, bits, float, data_at}, or nil and why not.
function wav.inspect(path)
  local file, why = io.open(path, "rb")
  if not file then return nil, why end
  local found, problem = wav.inspect_open(file)
  file:close()
  return found, problem
end

function wav.inspect_open(file)
  local head = file:read(12)
  if not head or #head < 12 or head:sub(1, 4) ~= "RIFF" or head:sub(9, 12) ~= "WAVE" then
    return nil, "not a WAV file"
  end
  local found
  while true do
    local chunk = file:read(8)
    if not chunk or #chunk < 8 then return nil, "a WAV file without samples" end
    local name, size = chunk:sub(1, 4), string.unpack("<I4", chunk, 5)
    if name == "fmt " then
      local body = file:read(size)
      if not body or #body < 16 then return nil, "a damaged WAV file" end
      local kind, channels, rate = string.unpack("<I2I2I4", body)
      local bits = string.unpack("<I2", body, 15)
      if kind == 0xFFFE and #body >= 26 then kind = string.unpack("<I2", body, 25) end
      if channels < 1 or bits < 8 then return nil, "a damaged WAV file" end
      found = { rate = rate, channels = channels, bits = bits, float = kind == 3 }
    elseif name == "data" then
      if not found then return nil, "a damaged WAV file" end
      found.data_at = file:seek()
      found.frames = size // (found.channels * found.bits // 8)
      return found
    else
      file:seek("cur", size)
    end
    if size % 2 == 1 then file:seek("cur", 1) end
  end
end

return wav
