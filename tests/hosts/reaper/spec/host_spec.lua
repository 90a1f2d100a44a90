-- The stub is as strict as it says, and the scripts' parts do what they say in it.

local stub = require "stub.host"
local tempo = require "stub.tempo"
local model = require "stub.model"
local here = assert(os.getenv("SEGUE_TESTS"))

local function host(options)
  options = options or {}
  options.resource, options.api = options.resource or "/nonexistent", here .. "/api.json"
  local made = stub.new(options)
  _G.reaper, _G.gfx = made.api, made.gfx
  return made
end

describe("the stub", function()
  it("knows no function that the header does not", function()
    local made = host()
    assert.has_error(function() return made.api.MakeMusic end)
    assert.is_nil(made.api.ImGui_CreateContext)
  end)

  it("counts arguments and looks at their types", function()
    local made = host()
    local proj = made.api.EnumProjects(-1)
    assert.has_error(function() made.api.CountTracks() end)
    assert.has_error(function() made.api.CountTracks(proj, 1) end)
    assert.has_error(function() made.api.GetTrack(proj, 1.5) end)
    assert.has_error(function() made.api.SetExtState("a", "b", 3, true) end)
    assert.has_error(function() made.api.GetMediaItem_Track(proj) end)
    assert.has_error(function() made.api.SetExtState("a", "b", "two\nlines", true) end)
  end)

  it("undoes whole states, with new pointers", function()
    local made = host()
    local proj = made.api.EnumProjects(-1)
    made.api.Undo_BeginBlock2(proj)
    made.api.InsertTrackInProject(proj, 0, 0)
    made.api.Undo_EndBlock2(proj, "a track", -1)
    local track = made.api.GetTrack(proj, 0)
    assert.equal("a track", made.api.Undo_CanUndo2(proj))
    made.api.Undo_DoUndo2(proj)
    assert.equal(0, made.api.CountTracks(proj))
    assert.is_false(made.api.ValidatePtr2(proj, track, "MediaTrack*"))
    made.api.Undo_DoRedo2(proj)
    assert.equal(1, made.api.CountTracks(proj))
    assert.has_error(function() made.api.CountTrackMediaItems(track) end)
  end)

  it("loses at an undo what was changed without an undo point", function()
    local made = host()
    local proj = made.api.EnumProjects(-1)
    made.api.InsertTrackInProject(proj, 0, 0)
    made.api.Undo_BeginBlock2(proj)
    made.api.Undo_EndBlock2(proj, "something", -1)
    made.api.Undo_DoUndo2(proj)
    assert.equal(0, made.api.CountTracks(proj))
  end)

  it("tells what was left open", function()
    local made = host()
    local proj = made.api.EnumProjects(-1)
    local track = model.track(proj, 0)
    made.api.CreateTrackAudioAccessor(track)
    assert.same({ "1 audio accessors" }, { table.unpack(made:left_behind()) })
    made.running = { exits = {} }
    made.api.defer(function() made.api.PreventUIRefresh(1) end)
    assert.has_error(function() made:tick() end)
  end)

  it("walks glides both ways", function()
    local map = tempo.new({ { qn = 0, bpm = 120, beats = 4, unit = 4, linear = true }, { qn = 16, bpm = 60 } })
    for qn = 0, 40 do assert.is_true(math.abs(map:quarter(map:time(qn)) - qn) < 1e-9) end
    assert.is_true(math.abs(map:time(16) - 16 * 60 / 90) < 1e-9)
    assert.equal(4, map:bar_at(16))
  end)
end)

describe("command", function()
  local command = require "segue.command"

  it("quotes paths with blanks and refuses what cannot be quoted", function()
    local place = os.tmpname()
    os.remove(place)
    local resources = place .. " with blanks"
    os.execute("mkdir -p '" .. resources .. "/Scripts/Segue'")
    finally(function() os.execute("rm -r '" .. resources .. "'") end)
    local program = resources .. "/se gue"
    io.open(program, "w"):close()
    local file = io.open(resources .. "/Scripts/Segue/segue-command.txt", "w")
    file:write(program, "\r\n")
    file:close()
    local made = host({ resource = resources, run = function() return "" end })
    assert.is_true(command.start("/nowhere", "/jobs/of a user/job-1"))
    assert.same({ program, "job", "/jobs/of a user/job-1" }, { table.unpack(made.started[1]) })
    assert.is_nil((command.start("/nowhere", 'a"b')))
    assert.is_nil((command.start("/nowhere", "C:\\jobs\\")))
    made.options.run = function() return nil end
    local ok, why = command.start("/nowhere", "/jobs/job-1")
    assert.is_nil(ok)
    assert.is_truthy(why:find("segue install reaper", 1, true))
  end)

  it("reads a Windows command line as Windows does", function()
    assert.same({ "C:\\Program Files\\Segue\\segue.exe", "job", "C:\\Users\\A B\\job-1" },
      stub.words('"C:\\Program Files\\Segue\\segue.exe" job "C:\\Users\\A B\\job-1"'))
  end)
end)

describe("settings", function()
  local settings = require "segue.settings"

  it("keeps to the project, with the last used ones for the next", function()
    local made = host()
    local proj = made.api.EnumProjects(-1)
    local values = settings.load(proj)
    assert.equal("bars", values.length)
    values.text, values.variations, values.crossfade = 'a "warm"\nloop 🎹', 5, false
    settings.save(proj, values)
    local other = made:add_project()
    assert.same(values, settings.load(other))
    values.variations = 3
    settings.save(other, values)
    assert.equal(5, settings.load(proj).variations)
  end)

  it("takes nothing that is not allowed", function()
    local made = host()
    local proj = made.api.EnumProjects(-1)
    made.api.SetProjExtState(proj, "segue", "settings",
      '{"variations": 99, "bars": "x", "length": "miles", "crossfade": 3, "strength": 7, "text": 5, "seed": 1.4}')
    local values = settings.load(proj)
    assert.same({ 8, 4, "bars", true, 1, "", 1 },
      { values.variations, values.bars, values.length, values.crossfade, values.strength, values.text, values.seed })
    made.api.SetProjExtState(proj, "segue", "settings", "{broken")
    assert.equal(2, settings.load(proj).variations)
  end)
end)

describe("the settings window", function()
  it("changes what is clicked, keeps it, and puts the actions into the list", function()
    local made = host({ resource = here })
    local proj = made.api.EnumProjects(-1)
    made.running = { exits = {} }
    local window = require "segue.settings_window"
    made.answers = { "rain, on a roof", "12" }
    window.open(proj, assert(os.getenv("SEGUE_SCRIPTS")))
    assert.equal(8, #made.registered)
    made:tick()
    assert.is_true(made.window.click("(nothing)"))
    for _ = 1, 3 do made:tick() end
    assert.is_true(made.window.click("2"))
    for _ = 1, 3 do made:tick() end
    assert.is_true(made.window.click("right at the edge"))
    for _ = 1, 3 do made:tick() end
    local settings = require "segue.settings"
    local values = settings.load(proj)
    assert.same({ "rain, on a roof", 8, "bar" }, { values.text, values.variations, values.start })
    made.window.clicks = { "close" }
    made:tick()
    assert.equal(0, made:tick())
  end)
end)

describe("the view with ReaImGui", function()
  it("draws, reports clicks and closes", function()
    local calls, clicked, open = {}, nil, true
    local function note(name, ...)
      local results = table.pack(...)
      return function(...)
        calls[#calls + 1] = { name, ... }
        return table.unpack(results, 1, results.n)
      end
    end
    host({ extension = { ImGui_CreateContext = note("context", { kind = "ImGui_Context" }),
      ImGui_Cond_FirstUseEver = note("cond", 4), ImGui_SetNextWindowSize = note("size"),
      ImGui_Begin = function() return true, open end, ImGui_End = note("end"), ImGui_TextWrapped = note("text"),
      ImGui_ProgressBar = note("bar"), ImGui_Button = function(_, label) return label == clicked end } })
    local progress = require "segue.progress"
    local cancelled = false
    local job = { plan = { mode = "continue" }, message = "Playing", part = 0.5, eta_s = 3,
      cancel = function() cancelled = true end }
    local window = progress.draw(progress.open(), { job })
    assert.is_false(cancelled)
    assert.same({ "text", calls[1] and calls[4][2], "Continue: Playing, about 3 s" }, calls[4])
    clicked = "Stop##cancel1"
    progress.draw(window, { job })
    assert.is_true(cancelled)
    open = false
    progress.draw(window, { job })
    assert.is_false(progress.wanted(window, { job }))
    assert.equal("end", calls[#calls][1])
  end)

  it("falls back to gfx where ReaImGui does not work", function()
    local made = host({ extension = { ImGui_CreateContext = function() error("no") end } })
    require("segue.view").open("x", 10, 10)
    assert.is_true(made.window.open)
  end)
end)

describe("long sentences", function()
  it("are shown whole, in lines that fit", function()
    local made = host()
    local progress = require "segue.progress"
    local sentence = ("The model is not here, pull it with a command "):rep(4)
    local window = progress.draw(progress.open(), { { plan = { mode = "vary" }, state = "failed", message = sentence,
      ended = true } })
    local said = {}
    for i, entry in ipairs(made.window.texts) do
      said[i] = entry.text
      assert.is_true(8 * #entry.text <= 480)
    end
    assert.is_true(#said >= 3)
    assert.equal(("Vary: " .. sentence):gsub("%s+$", ""), table.concat(said, " "))
    assert.is_true(progress.wanted(window, { { state = "failed", ended = true } }))
  end)
end)
