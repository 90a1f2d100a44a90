-- @noindex
-- A small window with texts, bars and buttons: ReaImGui's where it is installed, else REAPER's own gfx. Both are
-- drawn anew in every turn from the same few calls.

local view = {}

local imgui = {}
imgui.__index = imgui

function imgui:begin()
  if self.sized ~= true then
    reaper.ImGui_SetNextWindowSize(self.context, self.width, self.height, reaper.ImGui_Cond_FirstUseEver())
    self.sized = true
  end
  local visible, open = reaper.ImGui_Begin(self.context, self.title, true)
  if open == false then self.closing = true end
  if not visible then
    self:after()
    return false
  end
  return true
end

function imgui:after()
  if self.closing then self.closed = true end
end

function imgui:text(_, _, _, text) reaper.ImGui_TextWrapped(self.context, text) end

function imgui:bar(_, _, width, height, part)
  reaper.ImGui_ProgressBar(self.context, part, width, height, string.format("%d %%", math.floor(part * 100 + 0.5)))
end

function imgui:button(id, _, _, width, height, label)
  return reaper.ImGui_Button(self.context, label .. "##" .. id, width, height)
end

function imgui:finish()
  reaper.ImGui_End(self.context)
  self:after()
end

function imgui:close() self.closed = true end

local plain = {}
plain.__index = plain

function plain:begin()
  local key = gfx.getchar()
  if key < 0 or key == 27 then
    self:close()
    return false
  end
  local down = gfx.mouse_cap & 1 == 1
  self.clicked = self.was_down and not down
  self.was_down = down
  gfx.set(0.17, 0.18, 0.20, 1)
  gfx.rect(0, 0, gfx.w, gfx.h, 1)
  gfx.setfont(1, "Arial", 15)
  return true
end

local LINE = 18

--- A text as lines that fit into a width; a word that does not fit alone is cut by the window.
function view.lines(text, width)
  local lines, line = {}, ""
  for word in text:gmatch("%S+") do
    local longer = line == "" and word or line .. " " .. word
    if line ~= "" and gfx.measurestr(longer) > width then
      lines[#lines + 1], line = line, word
    else
      line = longer
    end
  end
  lines[#lines + 1] = line
  return lines
end

function plain:text(x, y, width, text, most)
  gfx.set(0.90, 0.91, 0.92, 1)
  for i, line in ipairs(view.lines(text, width)) do
    if i > (most or 1) then break end
    gfx.x, gfx.y = x, y + (i - 1) * LINE
    gfx.drawstr(line, 0, x + width, gfx.y + LINE)
  end
end

function plain:bar(x, y, width, height, part)
  gfx.set(0.27, 0.28, 0.30, 1)
  gfx.rect(x, y, width, height, 1)
  gfx.set(0.28, 0.65, 0.52, 1)
  gfx.rect(x, y, width * math.max(0, math.min(1, part)), height, 1)
end

function plain:inside(x, y, width, height)
  return gfx.mouse_x >= x and gfx.mouse_x < x + width and gfx.mouse_y >= y and gfx.mouse_y < y + height
end

function plain:button(_, x, y, width, height, label)
  local over = self:inside(x, y, width, height)
  local light = over and 0.42 or 0.34
  gfx.set(light, light, light + 0.02, 1)
  gfx.rect(x, y, width, height, 1)
  gfx.set(0.95, 0.95, 0.95, 1)
  gfx.x, gfx.y = x, y
  gfx.drawstr(label, 1 | 4, x + width, y + height)
  return over and self.clicked
end

function plain:finish() gfx.update() end

function plain:close()
  if not self.closed then gfx.quit() end
  self.closed = true
end

--- Open a window. Without ReaImGui, or where it does not work, it is a gfx window.
function view.open(title, width, height)
  if reaper.ImGui_CreateContext then
    local ok, context = pcall(reaper.ImGui_CreateContext, title)
    if ok and context then
      return setmetatable({ context = context, title = title, width = width, height = height }, imgui)
    end
  end
  gfx.ext_retina = 1
  gfx.init(title, width, height, 0)
  return setmetatable({ width = width, height = height }, plain)
end

return view
