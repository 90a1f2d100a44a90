"""The wire between Segue's daemon and everything that asks it for audio.

Lives here: the messages as frozen dataclasses that check themselves (`messages`, which gathers `requests`,
`submit`, `replies` and `events`), frames and limits (`framing`, `limits`), audio descriptions (`audio`),
exact lengths on a tempo map (`tempo`), chords (`harmony`), the error taxonomy (`errors`), which build this is
(`build`), the protocol in words (SPEC.md) and as bytes (vectors/, written by `vectors_write`).

May import: msgpack and the standard library. Interface: `parse_request`, `parse_reply`, `parse_push` and the
classes of `protocol.messages`; `encode_*` and `decode_*` of `protocol.framing`; `SegueError`.
"""
