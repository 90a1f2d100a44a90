"""Ardour: actions and a hook in Lua, one file each. Imports nothing of Segue but the way installs are said."""
