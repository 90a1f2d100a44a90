{
	"patcher": {
		"fileversion": 1,
		"appversion": {
			"major": 8,
			"minor": 5,
			"revision": 0,
			"architecture": "x64",
			"modernui": 1
		},
		"classnamespace": "box",
		"rect": [
			60.0,
			90.0,
			940.0,
			680.0
		],
		"boxes": [
			{
				"box": {
					"id": "obj-1",
					"maxclass": "comment",
					"text": "Segue: put your own paths in, click script start once, then a message. Takes come out as files.",
					"numinlets": 1,
					"numoutlets": 0,
					"patching_rect": [
						30,
						20,
						620,
						22.0
					]
				}
			},
			{
				"box": {
					"id": "obj-20",
					"maxclass": "newobj",
					"text": "node.script segue.js",
					"numinlets": 1,
					"numoutlets": 2,
					"patching_rect": [
						30,
						380,
						180,
						22.0
					],
					"outlettype": [
						"",
						""
					]
				}
			},
			{
				"box": {
					"id": "obj-2",
					"maxclass": "message",
					"text": "script start",
					"numinlets": 2,
					"numoutlets": 1,
					"patching_rect": [
						30,
						55,
						84,
						22.0
					],
					"outlettype": [
						""
					]
				}
			},
			{
				"box": {
					"id": "obj-3",
					"maxclass": "message",
					"text": "takes ~/Music/segue-takes",
					"numinlets": 2,
					"numoutlets": 1,
					"patching_rect": [
						42,
						85,
						175,
						22.0
					],
					"outlettype": [
						""
					]
				}
			},
			{
				"box": {
					"id": "obj-4",
					"maxclass": "message",
					"text": "continue /Users/me/loop.wav 4 bars bpm 120 variations 3 id 1",
					"numinlets": 2,
					"numoutlets": 1,
					"patching_rect": [
						54,
						115,
						420,
						22.0
					],
					"outlettype": [
						""
					]
				}
			},
			{
				"box": {
					"id": "obj-5",
					"maxclass": "message",
					"text": "generate 8 text dusty-drums id 2",
					"numinlets": 2,
					"numoutlets": 1,
					"patching_rect": [
						66,
						145,
						224,
						22.0
					],
					"outlettype": [
						""
					]
				}
			},
			{
				"box": {
					"id": "obj-6",
					"maxclass": "message",
					"text": "accompany /Users/me/drums.wav 8 stem drums id 3",
					"numinlets": 2,
					"numoutlets": 1,
					"patching_rect": [
						78,
						175,
						329,
						22.0
					],
					"outlettype": [
						""
					]
				}
			},
			{
				"box": {
					"id": "obj-7",
					"maxclass": "message",
					"text": "vary /Users/me/loop.wav strength 0.3 id 4",
					"numinlets": 2,
					"numoutlets": 1,
					"patching_rect": [
						90,
						205,
						287,
						22.0
					],
					"outlettype": [
						""
					]
				}
			},
			{
				"box": {
					"id": "obj-8",
					"maxclass": "message",
					"text": "fill /Users/me/before.wav /Users/me/after.wav 4 id 5",
					"numinlets": 2,
					"numoutlets": 1,
					"patching_rect": [
						102,
						235,
						364,
						22.0
					],
					"outlettype": [
						""
					]
				}
			},
			{
				"box": {
					"id": "obj-9",
					"maxclass": "message",
					"text": "retake 41 seed 8",
					"numinlets": 2,
					"numoutlets": 1,
					"patching_rect": [
						114,
						265,
						112,
						22.0
					],
					"outlettype": [
						""
					]
				}
			},
			{
				"box": {
					"id": "obj-10",
					"maxclass": "message",
					"text": "cancel",
					"numinlets": 2,
					"numoutlets": 1,
					"patching_rect": [
						126,
						295,
						60,
						22.0
					],
					"outlettype": [
						""
					]
				}
			},
			{
				"box": {
					"id": "obj-11",
					"maxclass": "message",
					"text": "status",
					"numinlets": 2,
					"numoutlets": 1,
					"patching_rect": [
						138,
						325,
						60,
						22.0
					],
					"outlettype": [
						""
					]
				}
			},
			{
				"box": {
					"id": "obj-21",
					"maxclass": "newobj",
					"text": "route accepted progress take done error status",
					"numinlets": 1,
					"numoutlets": 7,
					"patching_rect": [
						30,
						430,
						320,
						22.0
					],
					"outlettype": [
						"",
						"",
						"",
						"",
						"",
						"",
						""
					]
				}
			},
			{
				"box": {
					"id": "obj-30",
					"maxclass": "newobj",
					"text": "print segue-accepted",
					"numinlets": 1,
					"numoutlets": 0,
					"patching_rect": [
						30,
						500,
						115,
						22.0
					]
				}
			},
			{
				"box": {
					"id": "obj-31",
					"maxclass": "newobj",
					"text": "print segue-progress",
					"numinlets": 1,
					"numoutlets": 0,
					"patching_rect": [
						155,
						500,
						115,
						22.0
					]
				}
			},
			{
				"box": {
					"id": "obj-32",
					"maxclass": "newobj",
					"text": "print segue-take",
					"numinlets": 1,
					"numoutlets": 0,
					"patching_rect": [
						280,
						500,
						115,
						22.0
					]
				}
			},
			{
				"box": {
					"id": "obj-33",
					"maxclass": "newobj",
					"text": "print segue-done",
					"numinlets": 1,
					"numoutlets": 0,
					"patching_rect": [
						405,
						500,
						115,
						22.0
					]
				}
			},
			{
				"box": {
					"id": "obj-34",
					"maxclass": "newobj",
					"text": "print segue-error",
					"numinlets": 1,
					"numoutlets": 0,
					"patching_rect": [
						530,
						500,
						115,
						22.0
					]
				}
			},
			{
				"box": {
					"id": "obj-35",
					"maxclass": "newobj",
					"text": "print segue-status",
					"numinlets": 1,
					"numoutlets": 0,
					"patching_rect": [
						655,
						500,
						115,
						22.0
					]
				}
			},
			{
				"box": {
					"id": "obj-36",
					"maxclass": "newobj",
					"text": "print segue-other",
					"numinlets": 1,
					"numoutlets": 0,
					"patching_rect": [
						780,
						500,
						115,
						22.0
					]
				}
			},
			{
				"box": {
					"id": "obj-40",
					"maxclass": "newobj",
					"text": "zl.nth 4",
					"numinlets": 2,
					"numoutlets": 2,
					"patching_rect": [
						290,
						540,
						60,
						22.0
					],
					"outlettype": [
						"",
						""
					]
				}
			},
			{
				"box": {
					"id": "obj-41",
					"maxclass": "newobj",
					"text": "prepend replace",
					"numinlets": 1,
					"numoutlets": 1,
					"patching_rect": [
						290,
						570,
						100,
						22.0
					],
					"outlettype": [
						""
					]
				}
			},
			{
				"box": {
					"id": "obj-42",
					"maxclass": "newobj",
					"text": "buffer~ segue-take",
					"numinlets": 1,
					"numoutlets": 2,
					"patching_rect": [
						290,
						600,
						120,
						22.0
					],
					"outlettype": [
						"float",
						"bang"
					]
				}
			},
			{
				"box": {
					"id": "obj-43",
					"maxclass": "comment",
					"text": "the newest take is in buffer~ segue-take, ready for groove~ or play~",
					"numinlets": 1,
					"numoutlets": 0,
					"patching_rect": [
						420,
						600,
						420,
						22.0
					]
				}
			}
		],
		"lines": [
			{
				"patchline": {
					"source": [
						"obj-2",
						0
					],
					"destination": [
						"obj-20",
						0
					]
				}
			},
			{
				"patchline": {
					"source": [
						"obj-3",
						0
					],
					"destination": [
						"obj-20",
						0
					]
				}
			},
			{
				"patchline": {
					"source": [
						"obj-4",
						0
					],
					"destination": [
						"obj-20",
						0
					]
				}
			},
			{
				"patchline": {
					"source": [
						"obj-5",
						0
					],
					"destination": [
						"obj-20",
						0
					]
				}
			},
			{
				"patchline": {
					"source": [
						"obj-6",
						0
					],
					"destination": [
						"obj-20",
						0
					]
				}
			},
			{
				"patchline": {
					"source": [
						"obj-7",
						0
					],
					"destination": [
						"obj-20",
						0
					]
				}
			},
			{
				"patchline": {
					"source": [
						"obj-8",
						0
					],
					"destination": [
						"obj-20",
						0
					]
				}
			},
			{
				"patchline": {
					"source": [
						"obj-9",
						0
					],
					"destination": [
						"obj-20",
						0
					]
				}
			},
			{
				"patchline": {
					"source": [
						"obj-10",
						0
					],
					"destination": [
						"obj-20",
						0
					]
				}
			},
			{
				"patchline": {
					"source": [
						"obj-11",
						0
					],
					"destination": [
						"obj-20",
						0
					]
				}
			},
			{
				"patchline": {
					"source": [
						"obj-20",
						0
					],
					"destination": [
						"obj-21",
						0
					]
				}
			},
			{
				"patchline": {
					"source": [
						"obj-21",
						0
					],
					"destination": [
						"obj-30",
						0
					]
				}
			},
			{
				"patchline": {
					"source": [
						"obj-21",
						1
					],
					"destination": [
						"obj-31",
						0
					]
				}
			},
			{
				"patchline": {
					"source": [
						"obj-21",
						2
					],
					"destination": [
						"obj-32",
						0
					]
				}
			},
			{
				"patchline": {
					"source": [
						"obj-21",
						3
					],
					"destination": [
						"obj-33",
						0
					]
				}
			},
			{
				"patchline": {
					"source": [
						"obj-21",
						4
					],
					"destination": [
						"obj-34",
						0
					]
				}
			},
			{
				"patchline": {
					"source": [
						"obj-21",
						5
					],
					"destination": [
						"obj-35",
						0
					]
				}
			},
			{
				"patchline": {
					"source": [
						"obj-21",
						6
					],
					"destination": [
						"obj-36",
						0
					]
				}
			},
			{
				"patchline": {
					"source": [
						"obj-21",
						2
					],
					"destination": [
						"obj-40",
						0
					]
				}
			},
			{
				"patchline": {
					"source": [
						"obj-40",
						0
					],
					"destination": [
						"obj-41",
						0
					]
				}
			},
			{
				"patchline": {
					"source": [
						"obj-41",
						0
					],
					"destination": [
						"obj-42",
						0
					]
				}
			}
		],
		"dependency_cache": [],
		"autosave": 0
	}
}
