-- A `reaper` table that is as strict as REAPER's header: an unknown name, a wrong count or type of arguments is an
-- error. What Lua passes follows from the C prototypes: outputs come back as values, sizes of buffers go away.

local json = require "segue.json"

local strict = {}

-- In the header an output, in Lua passed in as well: the value is read when `isSet` is true.
local ALSO_IN = { GetSet_LoopTimeRange2 = { startOut = true, endOut = true } }

-- Lua's own functions: {fewest, most} arguments.
local LUA_ONLY = { defer = { 1, 1 }, atexit = { 1, 1 }, new_array = { 1, 2 }, get_action_context = { 0, 0 },
  set_action_options = { 1, 1 } }

local NUMBERS = { double = "number", int = "integer", size_t = "integer", INT64 = "integer" }

--- The kinds of arguments that Lua passes to a function of the header.
function strict.arguments(name, prototype)
  local kinds = {}
  for _, parameter in ipairs(prototype.parameters) do
    local kind, called = parameter[1], parameter[2]
    local out = called:match("Out$") or called:match("OutOptional$") or called:match("OutNeedBig$")
    local also = ALSO_IN[name] and ALSO_IN[name][called]
    local dropped = called:match("_sz$") or (out and not also)
    if not dropped then
      local base = kind:gsub("const%s*", ""):gsub("%s*%*$", "")
      local optional = called:match("Optional$") ~= nil
      if kind == "bool" then kinds[#kinds + 1] = { "boolean", optional }
      elseif NUMBERS[kind] then kinds[#kinds + 1] = { NUMBERS[kind], optional }
      elseif base == "char" then kinds[#kinds + 1] = { "string", optional }
      elseif base == "GUID" then kinds[#kinds + 1] = { "string", optional }
      elseif kind == "double*" and called == "samplebuffer" then kinds[#kinds + 1] = { "reaper.array", false }
      elseif NUMBERS[base] then kinds[#kinds + 1] = { NUMBERS[base], optional }
      elseif base == "void" then kinds[#kinds + 1] = { "pointer", true }
      else kinds[#kinds + 1] = { base, base == "ReaProject" } end
    end
  end
  return kinds
end

local function fits(value, kind)
  local want, optional = kind[1], kind[2]
  if value == nil then return optional end
  if want == "integer" then return type(value) == "number" and math.floor(value) == value end
  if want == "number" or want == "boolean" or want == "string" then return type(value) == want end
  if want == "pointer" then return true end
  return type(value) == "table" and value.kind == want
end

local function check(name, kinds, count, ...)
  if count ~= #kinds then
    error(string.format("reaper.%s takes %d arguments, not %d", name, #kinds, count), 3)
  end
  for i, kind in ipairs(kinds) do
    local value = (select(i, ...))
    if not fits(value, kind) then
      error(string.format("reaper.%s: argument %d is %s, not %s", name, i, tostring(value), kind[1]), 3)
    end
  end
end

--- Wrap implementations. `extra` are functions of an extension (ReaImGui), unchecked by the header.
function strict.wrap(path, implementations, extra)
  local file = assert(io.open(path, "rb"))
  local header = assert(json.decode(file:read("a")))
  file:close()
  local made = {}
  for name, run in pairs(implementations) do
    local prototype = header.functions[name]
    if prototype then
      local kinds = strict.arguments(name, prototype)
      made[name] = function(...)
        check(name, kinds, select("#", ...), ...)
        return run(...)
      end
    elseif LUA_ONLY[name] then
      local least, most = table.unpack(LUA_ONLY[name])
      made[name] = function(...)
        local count = select("#", ...)
        if count < least or count > most then error("reaper." .. name .. ": " .. count .. " arguments", 2) end
        return run(...)
      end
    else
      error("the stub has reaper." .. name .. ", the header has not")
    end
  end
  for name, run in pairs(extra or {}) do made[name] = run end
  return setmetatable(made, { __index = function(_, name)
    -- an extension's function is asked for before it is used; any other unknown name is a mistake
    if name:match("^ImGui_") then return nil end
    error("reaper." .. tostring(name) .. " is not a function that the stub knows", 2)
  end })
end

return strict
