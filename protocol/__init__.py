"""The wire between Segue's daemon and everything that asks it for audio.

Lives here: the messages as frozen dataclasses that check themselves (`messages`), frames and limits
(`framing`, `limits`), audio descriptions (`audio`), exact lengths on a tempo map (`tempo`), the error
taxonomy (`errors`), where daemon and clients meet on disk (`paths`), the protocol in words (SPEC.md) and as
bytes (vectors/).

May import: msgpack and the standard library. Interface: `parse_request`, `parse_reply`, `parse_push` and the
classes of `protocol.messages`; `encode_*` and `decode_*` of `protocol.framing`; `SegueError`.
"""
