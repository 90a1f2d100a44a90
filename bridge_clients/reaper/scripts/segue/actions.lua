-- @noindex
-- What each action of the list does.

local history = require "segue.history"
local job = require "segue.job"
local landing = require "segue.landing"
local runner = require "segue.runner"
local selection = require "segue.selection"
local settings = require "segue.settings"

local actions = {}

local function begin(proj, here, plans)
  local jobs = {}
  for i, entry in ipairs(plans) do
    local one, why = job.new(proj, here, entry.plan, entry.values)
    if not one then error({ said = why }, 0) end
    jobs[i] = one
  end
  runner.run(proj, here, jobs)
end

local function ask(mode)
  return function(here)
    local proj = runner.project()
    local values = settings.load(proj)
    begin(proj, here, { { plan = selection.plan(proj, mode, values), values = values } })
  end
end

actions["continue"] = ask("continue")
actions.accompany = ask("accompany")
actions.vary = ask("vary")
actions.fill = ask("fill")
actions.generate = ask("generate")

--- The same once more with another seed, for each selected item that Segue made.
function actions.retake(here)
  local proj = runner.project()
  local plans = {}
  for i = 0, reaper.CountSelectedMediaItems(proj) - 1 do
    local item = reaper.GetSelectedMediaItem(proj, i)
    local kept = landing.recall(item)
    if kept then
      local _, guid = reaper.GetSetMediaItemInfo_String(item, "GUID", "", false)
      kept.plan.into = guid
      kept.values.seed = 0
      plans[#plans + 1] = kept
    end
  end
  if #plans == 0 then error({ said = "Select an item that Segue made, and press the key again." }, 0) end
  begin(proj, here, plans)
end

--- Stop what is under way in this project.
function actions.cancel()
  if history.cancel_all(runner.project()) == 0 then runner.say("Nothing is under way in this project.") end
end

function actions.settings(here) require("segue.settings_window").open(runner.project(), here) end

--- Run an action by its name; `here` is the scripts' folder.
function actions.run(name, here)
  runner.guard(function()
    if reaper.set_action_options then reaper.set_action_options(1 | 2) end -- pressed again: end, start anew, take up
    actions[name](here)
  end)
end

return actions
