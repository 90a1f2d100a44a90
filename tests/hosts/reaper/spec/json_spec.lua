local json = require "segue.json"

describe("json", function()
  it("reads what it writes", function()
    local values = { 0, -1, 1.5, 1e300, -2.5e-10, 0.1, 2 ^ 53 // 1, true, false, "", "plain", 'quotes " and \\',
      "line\nbreak\r\ttab\b\f\0\31\127", "ünï 日本 🎷", json.array(), json.array({ 1, json.array({ "a" }) }), {},
      { a = 1, b = { c = json.array({ {} }) } } }
    for _, value in ipairs(values) do
      local text = json.encode(value)
      assert.is_nil(text:find("[^\32-\126]"), text) -- ASCII in one line
      assert.same(value, json.decode(text))
    end
  end)

  it("brings every double back exactly", function()
    math.randomseed(7)
    for _ = 1, 2000 do
      local value = string.unpack("<d", string.pack("<i8", math.random(0)))
      if value == value and math.abs(value) ~= math.huge then
        assert.equal(value, (json.decode(json.encode(value))))
      end
    end
  end)

  it("tells whole numbers from others", function()
    assert.equal("integer", math.type(json.decode("48000")))
    assert.equal("float", math.type(json.decode("48000.0")))
    assert.equal("[1,1.5]", json.encode(json.array({ 1, 1.5 })))
  end)

  it("reads escapes", function()
    assert.equal("🎷é/\n\"", (json.decode([["\ud83c\udfb7\u00e9\/\n\""]])))
    assert.equal(json.null, (json.decode("null")))
    assert.is_nil(json.get(json.decode('{"a": null}'), "a"))
  end)

  it("refuses what is not JSON", function()
    local wrong = { "", " ", "{", "[1,]", "{,}", '{"a" 1}', '{"a":1,}', "{a:1}", "'a'", "01", "-", "1.",
      ".5", "1e", "+1",
      "0x10", "NaN", "Infinity", "nul", "truex", '"', '"\n"', '"\\x"', '"\\u12"', '"\\ud800"', '"\\udc00"',
      '"\\ud800\\u0041"', "[1] 2", '{"a":1,"a":2}', '"\255"', "1e999", ("["):rep(100) .. ("]"):rep(100) }
    for _, text in ipairs(wrong) do
      local value, why = json.decode(text)
      assert.is_nil(value, text)
      assert.is_string(why)
    end
    assert.is_nil(json.decode(nil))
  end)

  it("writes no number that JSON has not, and nothing but data", function()
    for _, value in ipairs({ 0 / 0, math.huge, print, { [1] = "x" } }) do
      assert.is_false(pcall(json.encode, value))
    end
  end)

  it("keeps what can be kept of a text in another encoding", function()
    assert.equal("a\u{fffd}b", (json.decode(json.encode("a\255b"))))
  end)

  it("says what is wrong with random damage and never breaks", function()
    math.randomseed(11)
    local text = json.encode({ a = json.array({ 1, 2.5, "x\n🎷", json.null, true }), b = { c = "d" } })
    for _ = 1, 3000 do
      local at = math.random(#text)
      local damaged = text:sub(1, at - 1) .. string.char(math.random(0, 255)) .. text:sub(at + math.random(0, 2))
      local ok = pcall(json.decode, damaged)
      assert.is_true(ok, damaged)
    end
  end)
end)
