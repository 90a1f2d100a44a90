-- @noindex
-- The progress window: what is under way, how far it is, and a way to stop it. Closing the window stops nothing.

local view = require "segue.view"

local progress = {}

local LINGER_S = 1.5 -- a job that went well is shown for so long
local WIDTH, ROW, MARGIN = 480, 104, 12
local MOST_LINES = 4

function progress.open() return view.open("Segue", WIDTH, ROW * 2 + MARGIN) end

local TITLES = { ["continue"] = "Continue", accompany = "Accompany", vary = "Vary", fill = "Fill",
  generate = "Generate" }

local function remaining(one)
  local eta = tonumber(one.eta_s)
  if not eta or one.ended then return "" end
  if eta >= 90 then return string.format(", about %d min", math.floor(eta / 60 + 0.5)) end
  return string.format(", about %d s", math.max(1, math.floor(eta + 0.5)))
end

--- What is said of a job, in a line.
function progress.line(one)
  local title = TITLES[one.plan.mode] or one.plan.mode
  return string.format("%s: %s%s", title, one.message or "", remaining(one))
end

local function note_ends(jobs)
  local now = reaper.time_precise()
  for _, one in ipairs(jobs) do
    if one.ended and not one.ended_at then one.ended_at = now end
  end
end

--- Draw what is, and do what was clicked. Returns the window.
function progress.draw(window, jobs)
  if not window or window.closed then return window end
  note_ends(jobs)
  if not window:begin() then return window end
  for i, one in ipairs(jobs) do
    local y = MARGIN + (i - 1) * ROW
    if one.state == "failed" then -- what went wrong, whole, in the bar's place
      window:text(MARGIN, y, WIDTH - 2 * MARGIN, progress.line(one), MOST_LINES)
    else
      window:text(MARGIN, y, WIDTH - 2 * MARGIN, progress.line(one))
      window:bar(MARGIN, y + 20, WIDTH - 2 * MARGIN - 90, 14, one.part or 0)
    end
    if not one.ended and window:button("cancel" .. i, WIDTH - MARGIN - 80, y + 17, 80, 20, "Stop") then
      one:cancel()
    end
    if one.remark and not one.ended then window:text(MARGIN, y + 40, WIDTH - 2 * MARGIN, one.remark, 3) end
  end
  window:finish()
  return window
end

--- Whether the window still has something to say: a failure stays until it is closed.
function progress.wanted(window, jobs)
  if not window or window.closed then return false end
  local now = reaper.time_precise()
  for _, one in ipairs(jobs) do
    if one.state == "failed" then return true end
    if not one.ended or not one.ended_at or now - one.ended_at < LINGER_S then return true end
  end
  return false
end

function progress.close(window) if window then window:close() end end

return progress
