"""What the composer knows of genres: tempi, meters, grooves, instruments. Data only."""

from __future__ import annotations

from dataclasses import dataclass, field

# General MIDI programs behind each instrument word.
TONAL: dict[str, tuple[int, ...]] = {
    "piano": (0, 1),
    "epiano": (4, 5),
    "organ": (16, 17, 18),
    "guitar": (24, 25, 27),
    "distguitar": (29, 30),
    "strings": (48, 49),
    "pad": (88, 89, 90),
    "synth": (80, 81),
    "pluck": (45, 46),
    "brass": (61, 62),
    "flute": (73,),
    "vibes": (11,),
    "marimba": (12,),
    "choir": (52,),
    "sax": (65, 66),
    "bell": (9, 14),
    "accordion": (21,),
    "violin": (40,),
    "harp": (46,),
}
BASSES: dict[str, tuple[int, ...]] = {
    "fingerbass": (33,),
    "pickbass": (34,),
    "synthbass": (38, 39),
    "uprightbass": (32,),
    "slapbass": (36,),
}
DRUM_KEYS = {
    "k": 36, "s": 38, "c": 39, "r": 37, "h": 42, "o": 46, "d": 51, "t": 54, "m": 70, "q": 63, "b": 56,
    "y": 49,
}  # fmt: skip
TOMS = (50, 47, 45, 43)

# One bar per groove in sixteenths: x strong, o soft, g ghost.
GROOVES: dict[str, dict[str, dict[str, str]]] = {
    "4/4": {
        "four": {
            "k": "x...x...x...x...",
            "c": "....x.......x...",
            "h": "x.o.x.o.x.o.x.o.",
            "o": "..x...x...x...x.",
        },
        "fourclap": {"k": "x...x...x...x...", "c": "....x.......x..o", "o": "..x...x...x...x."},
        "drive": {
            "k": "x...x...x...x...",
            "h": "xgogxgogxgogxgog",
            "o": "..x...x...x...x.",
            "s": "....o.......o...",
        },
        "disco": {
            "k": "x...x...x...x...",
            "s": "....x.......x...",
            "h": "x..ox..ox..ox..o",
            "o": "..x...x...x...x.",
        },
        "backbeat": {"k": "x.......x.......", "s": "....x.......x...", "h": "x.o.x.o.x.o.x.o."},
        "rock": {"k": "x.....x.x.......", "s": "....x.......x...", "h": "x.o.x.o.x.o.x.o."},
        "rock2": {"k": "x.x.....x.x.....", "s": "....x.......x...", "d": "x...x...x...x..."},
        "punk": {"k": "x..x..x.x..x..x.", "s": "..x...x...x...x.", "h": "x.x.x.x.x.x.x.x."},
        "boombap": {"k": "x..x..x...x.....", "s": "....x.......x...", "h": "x.o.x.o.x.o.x.o."},
        "boombap2": {"k": "x.....x..xx.....", "s": "....x..g....x...", "h": "x.x.x.x.x.x.x.x."},
        "trap": {"k": "x.....x.........", "c": "........x.......", "h": "x.x.x.x.x.xxx.x."},
        "funk": {"k": "x..x..x...x..x..", "s": "....x..g.g..x..g", "h": "xoxoxoxoxoxoxoxo"},
        "onedrop": {"k": "........x.......", "r": "........x.......", "h": "x.o.x.o.x.o.x.o."},
        "steppers": {"k": "x...x...x...x...", "r": "....x.......x...", "h": "..x...x...x...x."},
        "amen": {"k": "x.x.......xx....", "s": "....x..g.g..x..g", "h": "x.x.x.x.x.x.x.x."},
        "twostep": {"k": "x.........x.....", "s": "....x.......x...", "h": "x.x.x.x.x.x.x.x."},
        "swing": {
            "k": "o...............",
            "r": "......o.......o.",
            "d": "x...x.o.x...x.o.",
            "h": "....x.......x...",
        },
        "shuffle": {"k": "x.......x.....o.", "s": "....x.......x...", "h": "x..ox..ox..ox..o"},
        "bossa": {"k": "x..ox..ox..ox..o", "r": "x..x..x...x..x..", "m": "xoxoxoxoxoxoxoxo"},
        "latin": {
            "k": "x..x..x.x..x..x.",
            "q": "..x...xx..x...xx",
            "b": "x...x...x...x...",
            "m": "x.x.x.x.x.x.x.x.",
        },
        "half": {"k": "x.........o.....", "s": "........x.......", "h": "x...o...x...o..."},
        "march": {"k": "x.......x.......", "s": "x.xxx.x.x.xxx.xx"},
        "soft": {"k": "x...............", "t": "....o.......o...", "m": "x.o.x.o.x.o.x.o."},
    },
    "3/4": {
        "waltz": {"k": "x...........", "r": "....o...o...", "h": "x...x...x..."},
        "waltzrock": {"k": "x.....o.....", "s": "....x...x...", "h": "x.o.x.o.x.o."},
        "jazzwaltz": {"k": "o...........", "d": "x...x.o.x...", "h": "....x......."},
    },
    "6/8": {
        "sixeight": {"k": "x.....o.....", "s": "......x.....", "h": "x.o.o.x.o.o."},
        "afro": {"k": "x.....x.....", "b": "x.x..xx.x..x", "q": "..x.x...x.x.", "m": "x.x.x.x.x.x."},
    },
    "5/4": {"five": {"k": "x.....x.....x.......", "s": "....x...........x...", "h": "x.o.x.o.x.o.x.o.x.o."}},
    "7/8": {"seven": {"k": "x.......x.....", "s": "....x.......x.", "h": "x.o.x.o.x.o.x."}},
}


@dataclass(frozen=True)
class Style:
    """One genre. `swing` delays every second eighth (or sixteenth) by that share of its length."""

    tempo: tuple[int, int]
    grooves: dict[str, tuple[str, ...]]
    kits: tuple[int, ...]
    bass: tuple[str, ...]
    basses: tuple[str, ...]
    chords: tuple[tuple[str, str], ...]
    melody: tuple[tuple[str, str], ...]
    modes: dict[str, float]
    moods: tuple[str, ...]
    swing: float = 0.0
    swing_unit_steps: int = 2
    tight: float = 0.4
    seventh: float = 0.0
    drums: float = 1.0
    extra: tuple[str, ...] = field(default=())


STYLES: dict[str, Style] = {
    "house": Style(
        (116, 128), {"4/4": ("four", "fourclap")}, (25, 24), ("off", "octave", "tresillo"), ("synthbass",),
        (("piano", "stab"), ("organ", "stab"), ("pad", "hold")), (("pluck", "arp"), ("vibes", "arp"),
        ("synth", "motif")),
        {"minor": 0.6, "dorian": 0.2, "major": 0.2}, ("energetic", "happy"),
        tight=0.9, seventh=0.4, extra=("dance",),
    ),
    "techno": Style(
        (126, 142), {"4/4": ("drive", "fourclap")}, (25, 24), ("roll", "off"), ("synthbass",),
        (("pad", "hold"), ("strings", "hold"), ("synth", "stab")), (("synth", "arp"), ("pluck", "arp")),
        {"minor": 0.9, "dorian": 0.1}, ("dark", "driving"), tight=1.0, extra=("dance",),
    ),
    "disco": Style(
        (108, 126), {"4/4": ("disco",)}, (0, 25), ("octave",), ("fingerbass", "pickbass", "slapbass"),
        (("strings", "hold"), ("guitar", "chop"), ("epiano", "stab")), (("brass", "motif"),
        ("strings", "motif")),
        {"minor": 0.5, "major": 0.3, "dorian": 0.2}, ("happy", "energetic"), seventh=0.4, extra=("dance",),
    ),
    "hiphop": Style(
        (80, 98), {"4/4": ("boombap", "boombap2")}, (25, 0, 8), ("sub", "tresillo"),
        ("synthbass", "fingerbass"),
        (("epiano", "hold"), ("strings", "stab"), ("piano", "stab")), (("flute", "motif"),
        ("bell", "arp"), ("brass", "motif")),
        {"minor": 0.8, "dorian": 0.2}, ("dark", "chill"), swing=0.12, swing_unit_steps=1, tight=0.6,
        seventh=0.4,
    ),
    "trap": Style(
        (130, 150), {"4/4": ("trap",)}, (25,), ("sub",), ("synthbass",),
        (("bell", "arp"), ("piano", "pulse"), ("pad", "hold")), (("flute", "motif"), ("bell", "motif"),
        ("pluck", "arp")),
        {"minor": 1.0}, ("dark",), tight=1.0,
    ),
    "lofi": Style(
        (68, 88), {"4/4": ("boombap", "half")}, (40, 0, 32), ("root", "sub"), ("uprightbass", "fingerbass"),
        (("epiano", "hold"), ("guitar", "arp8"), ("piano", "hold")), (("vibes", "motif"),
        ("flute", "motif"), ("sax", "motif")),
        {"major": 0.4, "minor": 0.3, "dorian": 0.3}, ("chill", "sad"),
        swing=0.16, swing_unit_steps=1, seventh=1.0,
    ),
    "rock": Style(
        (108, 148), {"4/4": ("rock", "rock2", "backbeat"), "6/8": ("sixeight",), "7/8": ("seven",)}, (16, 0),
        ("eighth", "root"), ("pickbass", "fingerbass"), (("distguitar", "power"), ("organ", "hold"),
        ("guitar", "strum")),
        (("distguitar", "motif"), ("guitar", "arp")),
        {"minor": 0.4, "major": 0.3, "mixolydian": 0.3}, ("energetic", "driving"),
    ),
    "punk": Style(
        (156, 180), {"4/4": ("punk", "backbeat")}, (16, 0), ("eighth",), ("pickbass",),
        (("distguitar", "power"),), (("distguitar", "motif"),),
        {"major": 0.6, "minor": 0.4}, ("energetic", "angry"),
    ),
    "pop": Style(
        (96, 126), {"4/4": ("backbeat", "rock", "fourclap"), "6/8": ("sixeight",)}, (0, 8, 25),
        ("eighth", "tresillo", "root"),
        ("fingerbass", "synthbass"), (("piano", "pulse"), ("guitar", "strum"), ("strings", "hold"),
        ("synth", "stab")),
        (("synth", "motif"), ("piano", "motif"), ("bell", "arp")),
        {"major": 0.75, "minor": 0.25}, ("happy", "bright"),
    ),
    "funk": Style(
        (96, 116), {"4/4": ("funk",)}, (8, 0), ("riff",), ("slapbass", "fingerbass"),
        (("epiano", "stab"), ("guitar", "chop"), ("organ", "stab")), (("brass", "motif"), ("sax", "motif")),
        {"dorian": 0.5, "minor": 0.2, "mixolydian": 0.3}, ("happy", "energetic"), seventh=1.0,
    ),
    "ambient": Style(
        (60, 88), {"4/4": ("soft",), "3/4": ("waltz",), "6/8": ("sixeight",)}, (48, 0), ("root",),
        ("synthbass", "fingerbass"),
        (("pad", "hold"), ("choir", "hold"), ("strings", "hold")), (("bell", "arp"), ("piano", "motif"),
        ("flute", "motif"), ("harp", "arp")),
        {"major": 0.5, "minor": 0.3, "dorian": 0.2}, ("calm", "sad"), drums=0.3, seventh=0.5,
    ),
    "reggae": Style(
        (70, 92), {"4/4": ("onedrop", "steppers")}, (0, 8), ("riff", "tresillo"), ("fingerbass",),
        (("organ", "skank"), ("guitar", "skank"), ("piano", "skank")), (("brass", "motif"),
        ("organ", "motif")),
        {"major": 0.5, "minor": 0.4, "mixolydian": 0.1}, ("chill", "happy"), swing=0.1,
    ),
    "dnb": Style(
        (160, 178), {"4/4": ("amen", "twostep")}, (25, 8), ("sub", "root"), ("synthbass",),
        (("pad", "hold"), ("strings", "hold"), ("epiano", "hold")), (("synth", "arp"), ("pluck", "arp")),
        {"minor": 0.9, "dorian": 0.1}, ("dark", "energetic"), tight=0.9, extra=("dance",),
    ),
    "jazz": Style(
        (100, 160), {"4/4": ("swing",), "3/4": ("jazzwaltz",), "5/4": ("five",)}, (32, 40), ("walk",),
        ("uprightbass",),
        (("piano", "comp"), ("guitar", "comp"), ("vibes", "comp")), (("sax", "motif"), ("vibes", "motif"),
        ("piano", "motif")),
        {"major": 0.5, "dorian": 0.3, "minor": 0.2}, ("chill", "bright"), swing=0.33, seventh=1.0, tight=0.2,
    ),
    "blues": Style(
        (72, 120), {"4/4": ("shuffle",), "6/8": ("sixeight",)}, (0, 40), ("walk", "eighth"),
        ("fingerbass", "uprightbass"),
        (("guitar", "comp"), ("organ", "hold"), ("piano", "stab")), (("guitar", "motif"), ("sax", "motif")),
        {"mixolydian": 0.7, "minor": 0.3}, ("sad", "driving"), swing=0.33, seventh=0.8, tight=0.2,
    ),
    "bossa": Style(
        (112, 144), {"4/4": ("bossa",)}, (40, 0), ("fifth",), ("uprightbass", "fingerbass"),
        (("guitar", "comp"), ("piano", "comp")), (("flute", "motif"), ("sax", "motif"), ("vibes", "motif")),
        {"major": 0.6, "minor": 0.4}, ("chill", "calm"), seventh=1.0,
    ),
    "latin": Style(
        (92, 124), {"4/4": ("latin",), "6/8": ("afro",)}, (0, 8), ("tresillo", "riff"),
        ("fingerbass", "uprightbass"),
        (("piano", "stab"), ("guitar", "strum"), ("marimba", "arp8")), (("brass", "motif"),
        ("marimba", "motif")),
        {"minor": 0.6, "major": 0.4}, ("happy", "energetic"),
    ),
    "folk": Style(
        (84, 132), {"3/4": ("waltz", "waltzrock"), "6/8": ("sixeight",),
        "4/4": ("backbeat", "soft")}, (0, 40), ("fifth", "root"),
        ("uprightbass", "fingerbass"), (("guitar", "strum"), ("guitar", "arp8"), ("accordion", "pulse")),
        (("violin", "motif"), ("flute", "motif"), ("accordion", "motif")),
        {"major": 0.6, "mixolydian": 0.2, "minor": 0.2}, ("calm", "happy"), drums=0.7,
    ),
    "waltz": Style(
        (96, 170), {"3/4": ("waltz", "jazzwaltz")}, (48, 0), ("fifth", "root"), ("uprightbass",),
        (("strings", "oompah"), ("piano", "oompah"), ("accordion", "oompah")), (("violin", "motif"),
        ("flute", "motif")),
        {"major": 0.7, "minor": 0.3}, ("bright", "calm"), drums=0.8, extra=("orchestral",),
    ),
    "cinematic": Style(
        (72, 130), {"4/4": ("march", "half"), "6/8": ("sixeight",), "3/4": ("waltzrock",)}, (48,),
        ("root", "eighth"), ("uprightbass",),
        (("strings", "pulse"), ("choir", "hold"), ("brass", "hold")), (("brass", "motif"),
        ("violin", "motif"), ("harp", "arp")),
        {"minor": 0.8, "major": 0.2}, ("dark", "driving"), drums=0.8, extra=("orchestral",),
    ),
}  # fmt: skip
