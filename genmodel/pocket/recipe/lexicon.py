"""The words that pocket knows: the composer's vocabulary and what else people call the same things."""

from __future__ import annotations

from genmodel.pocket.recipe.compose import vocabulary

SYNONYMS: dict[str, str] = {
    "4/4": "fourfour", "3/4": "threefour", "6/8": "sixeight", "5/4": "fivefour", "7/8": "seveneight",
    "three four": "threefour", "six eight": "sixeight", "odd meter": "seveneight",
    "hip hop": "hiphop", "hip-hop": "hiphop", "rap": "hiphop", "boom bap": "hiphop", "lo-fi": "lofi",
    "lo fi": "lofi",
    "drum and bass": "dnb", "drum'n'bass": "dnb", "drum & bass": "dnb", "jungle": "dnb",
    "bossa nova": "bossa",
    "edm": "dance", "club": "dance", "electronic": "dance", "deep house": "house",
    "hard rock": "rock distguitar",
    "metal": "punk dark", "indie": "pop guitar", "soul": "funk", "dub": "reggae", "salsa": "latin",
    "samba": "bossa",
    "country": "folk", "celtic": "folk", "film": "cinematic", "epic": "cinematic", "score": "cinematic",
    "orchestra": "orchestral", "orchestral strings": "orchestral strings", "classical": "orchestral waltz",
    "chillout": "chill", "chilled": "chill", "relaxed": "chill", "laid back": "chill", "mellow": "calm",
    "peaceful": "calm", "soft": "calm", "quiet": "calm", "gentle": "calm", "melancholic": "sad",
    "melancholy": "sad",
    "joyful": "happy", "uplifting": "happy", "cheerful": "happy", "upbeat": "happy", "moody": "dark",
    "aggressive": "angry", "heavy": "angry", "energy": "energetic", "powerful": "driving",
    "swinging": "swing",
    "shuffle": "swing", "shuffled": "swing", "down tempo": "slow", "downtempo": "slow", "mid tempo": "medium",
    "midtempo": "medium", "up tempo": "fast", "uptempo": "fast",
    "electric piano": "epiano", "rhodes": "epiano", "wurlitzer": "epiano", "keys": "piano",
    "keyboard": "piano",
    "guitars": "guitar", "acoustic guitar": "guitar", "electric guitar": "guitar",
    "distorted guitar": "distguitar",
    "distortion": "distguitar", "hammond": "organ", "string section": "strings", "violins": "strings",
    "pads": "pad",
    "synthesizer": "synth", "synths": "synth", "lead": "synth melody", "synth lead": "synth",
    "synthlead": "synth",
    "trumpet": "brass", "horns": "brass", "horn": "brass", "saxophone": "sax", "vibraphone": "vibes",
    "bells": "bell", "glockenspiel": "bell", "vocals": "choir", "voices": "choir", "fiddle": "violin",
    "bass guitar": "fingerbass bass", "electric bass": "fingerbass bass", "synth bass": "synthbass bass",
    "upright bass": "uprightbass bass", "double bass": "uprightbass bass",
    "acoustic bass": "uprightbass bass",
    "slap bass": "slapbass bass", "picked bass": "pickbass bass", "bassline": "bass", "drum": "drums",
    "beat": "drums",
    "beats": "drums", "percussion": "drums", "no drums": "nodrums", "without drums": "nodrums",
    "drumless": "nodrums",
    "no bass": "nobass", "without bass": "nobass", "tune": "melody", "melodic": "melody",
    "a major": "anatural major", "a minor": "anatural minor", "a maj": "anatural major",
    "a min": "anatural minor",
    "am": "anatural minor", "bm": "b minor", "cm": "c minor", "dm": "d minor", "em": "e minor",
    "fm": "f minor",
    "gm": "g minor", "a dorian": "anatural minor", "a mixolydian": "anatural major", "key of a": "anatural",
    "c#": "csharp", "db": "csharp", "d flat": "csharp", "c sharp": "csharp", "d#": "eflat", "eb": "eflat",
    "e flat": "eflat", "d sharp": "eflat", "f#": "fsharp", "gb": "fsharp", "f sharp": "fsharp",
    "g flat": "fsharp",
    "g#": "aflat", "ab": "aflat", "a flat": "aflat", "g sharp": "aflat", "a#": "bflat", "bb": "bflat",
    "b flat": "bflat", "a sharp": "bflat", "maj": "major", "min": "minor", "dorian": "minor",
    "mixolydian": "major",
}  # fmt: skip


def words_config(width: int) -> dict[str, object]:
    """The `words` conditioner's part of lm.yaml."""
    return {"vocabulary": vocabulary(), "synonyms": dict(SYNONYMS), "dim": width}
