local files = require "segue.files"
local wav = require "segue.wav"

local function folder()
  local name = os.tmpname()
  os.remove(name)
  os.execute("mkdir -p '" .. name .. "'")
  finally(function() os.execute("rm -r '" .. name .. "'") end)
  return name
end

describe("files", function()
  it("joins paths", function()
    assert.equal("a" .. files.separator .. "b", files.join("a", "b"))
    assert.equal("C:\\x\\y", (files.join("C:\\x\\", "y")))
    assert.equal("/", files.folder("//x"))
    assert.equal("C:\\a b", files.folder("C:\\a b\\c.lua"))
  end)

  it("knows absolute paths of all systems", function()
    for _, path in ipairs({ "/a", "C:\\a", "d:/a", "\\\\server\\a" }) do assert.is_true(files.is_absolute(path)) end
    for _, path in ipairs({ "a", "a/b", "..\\a", "C:a" }) do assert.is_false(files.is_absolute(path)) end
  end)

  it("writes whole files and leaves no half ones", function()
    local place = folder()
    assert.is_true(files.write(place .. "/a", "one"))
    assert.is_true(files.write(place .. "/a", "two"))
    assert.equal("two", files.read(place .. "/a"))
    assert.is_nil(files.read(place .. "/a.part"))
    assert.is_nil((files.write(place .. "/none/a", "x")))
  end)

  it("reads lines that are still being written", function()
    local place = folder()
    local tail = files.tail(place .. "/p")
    assert.is_nil(tail:line())
    local out = io.open(place .. "/p", "wb")
    out:setvbuf("no")
    out:write("one\ntw")
    assert.equal("one", tail:line())
    assert.is_nil(tail:line())
    out:write("o\n\nthree")
    assert.equal("two", tail:line())
    assert.equal("", tail:line())
    assert.is_nil(tail:line())
    out:write(("x"):rep(100000) .. "\nlast\n")
    out:close()
    local found = {}
    for _ = 1, 10 do found[#found + 1] = tail:line() end
    assert.same({ "three" .. ("x"):rep(100000), "last" }, found)
  end)
end)

describe("wav", function()
  it("reads the header it writes", function()
    local place = folder()
    local samples = { 0.5, -0.25, 1.0, 0.0, -1.0, 0.125 }
    local out = io.open(place .. "/a.wav", "wb")
    out:write(wav.header(44100, 2, 3), wav.pack(samples, 1, 6))
    out:close()
    local info = wav.inspect(place .. "/a.wav")
    assert.same({ rate = 44100, channels = 2, bits = 32, float = true, frames = 3, data_at = 58 }, info)
    local data = files.read(place .. "/a.wav"):sub(info.data_at + 1)
    assert.same(samples, { table.unpack({ string.unpack("<ffffff", data) }, 1, 6) })
  end)

  it("packs many samples in slices", function()
    local samples = {}
    for i = 1, 10000 do samples[i] = i / 16384 end
    local data = wav.pack(samples, 3, 9999)
    assert.equal(4 * 9997, #data)
    assert.equal(9999 / 16384, (string.unpack("<f", data, #data - 3)))
  end)

  it("says what is no WAV", function()
    local place = folder()
    for _, data in ipairs({ "", "RIFF", "RIFF....WAVE", "RIFF....WAVEfmt \4\0\0\0....", ("x"):rep(100) }) do
      files.write(place .. "/a.wav", data)
      local info, why = wav.inspect(place .. "/a.wav")
      assert.is_nil(info)
      assert.is_string(why)
    end
  end)
end)
