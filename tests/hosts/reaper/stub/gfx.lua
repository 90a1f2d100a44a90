-- REAPER's `gfx`: a window that remembers what was drawn, and a mouse that tests move.

local window = {}

--- A fresh gfx table and the means to look at it.
function window.new()
  local self = { texts = {}, frame = {}, open = false, clicks = {}, opened = 0 }
  local gfx = { w = 0, h = 0, x = 0, y = 0, mouse_x = -1, mouse_y = -1, mouse_cap = 0, ext_retina = 0 }

  function gfx.init(title, width, height)
    assert(type(title) == "string" and width > 0 and height > 0, "gfx.init")
    self.open, gfx.w, gfx.h = true, width, height
    self.opened = self.opened + 1
  end

  function gfx.quit() self.open = false end

  function gfx.getchar()
    if not self.open then return -1 end
    self.frame = {}
    local click = table.remove(self.clicks, 1)
    if click == "close" then
      self.open = false
      return -1
    elseif type(click) == "table" then
      gfx.mouse_x, gfx.mouse_y, gfx.mouse_cap = click.x, click.y, click.down and 1 or 0
    end
    return 0
  end

  function gfx.set(...) assert(select("#", ...) >= 3, "gfx.set") end
  function gfx.rect(x, y, w, h) assert(x and y and w and h, "gfx.rect") end
  function gfx.setfont(index) assert(index, "gfx.setfont") end

  function gfx.measurestr(text) return 8 * (utf8.len(text) or #text), 15 end

  function gfx.drawstr(text, _, right, bottom)
    assert(type(text) == "string", "gfx.drawstr")
    self.frame[#self.frame + 1] = { text = text, x = gfx.x, y = gfx.y, right = right, bottom = bottom }
  end

  function gfx.update()
    assert(self.open, "gfx.update without a window")
    self.texts = self.frame
  end

  --- Press and release the mouse on a text that is shown. Returns whether there is one.
  function self.click(label)
    for _, entry in ipairs(self.texts) do
      if entry.text == label then
        local x, y = (entry.x + entry.right) / 2, (entry.y + entry.bottom) / 2
        for _, down in ipairs({ true, false }) do self.clicks[#self.clicks + 1] = { x = x, y = y, down = down } end
        return true
      end
    end
    return false
  end

  return gfx, self
end

return window
