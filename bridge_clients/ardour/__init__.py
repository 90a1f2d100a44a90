"""Ardour: actions and a hook in Lua, put together by `compose`; `installing` says where they go."""
