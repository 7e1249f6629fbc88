"""Keys and teams at the end: who saw what, and which secrets opened the gateways when."""

from collections.abc import Mapping, Sequence
from typing import Any

from soak.chaos import Struck
from soak.checker import Findings, Verdict
from soak.diary import Diary, Knock

REVOKED_WITHIN = 1.0
OUT_OF_TOUCH = 5.0
"""Seconds after a strike at a gateway or at NATS within which the gateway may not have heard of a change yet."""
_GRACE = 8


def check_access(
    diary: Diary,
    struck: Sequence[Struck],
    gateways: Mapping[str, str],
    listed: Sequence[tuple[str, Any]],
    files: Mapping[str, Sequence[Any]],
) -> list[Verdict]:
    """`gateways` are their names by their URLs; batches and files are as each team lists them."""
    return [
        _isolation(diary, listed, files),
        _models(diary),
        _revocation(diary, struck, gateways),
        _rotation(diary, struck, gateways),
    ]


def _isolation(diary: Diary, listed: Sequence[tuple[str, Any]], files: Mapping[str, Sequence[Any]]) -> Verdict:
    findings = Findings([*diary.leaks])
    for team, batch in listed:
        planned = diary.wishes[int(batch["metadata"]["soak"])].planned
        findings.expect(planned.team == team, f"{team} lists batch {planned.number} of {planned.team}")
    owners = {wish.file_id: wish.planned.team for wish in diary.wishes.values() if wish.file_id}
    for team, mine in files.items():
        others = [file["id"] for file in mine if owners.get(file["id"], team) != team]
        findings.expect(not others, f"{team} lists {len(others)} files of others")
    return findings.verdict("no team sees what is another's", f"{diary.intrusions} attempts")


def _models(diary: Diary) -> Verdict:
    findings = Findings([*diary.wrong_models])
    findings.expect(diary.denied_models > 0, "nobody tried")
    return findings.verdict("a model is refused to a team that may not name it", f"{diary.denied_models} attempts")


def _revocation(diary: Diary, struck: Sequence[Struck], gateways: Mapping[str, str]) -> Verdict:
    findings, deed = Findings(), diary.deed("revoked")
    if deed is None:
        return Verdict("a revoked key opens nothing after a second", False, "none was revoked")
    after = [knock for knock in diary.revoked if knock.sent >= deed.over + REVOKED_WITHIN]
    opened = [knock for knock in after if knock.is_let_in]
    excused = [knock for knock in opened if _is_out_of_touch(knock, deed.began, struck, gateways)]
    for knock in opened:
        late = f"{knock.sent - deed.over:.2f} s after: {knock.status} at {gateways[knock.url]}"
        findings.expect(knock in excused, late)
    before = [knock for knock in diary.revoked if knock.answered < deed.began]
    wrong = [knock for knock in before if knock.is_refused]
    findings.expect(not wrong, f"{len(wrong)} refused before it was revoked")
    refused = sum(knock.is_refused for knock in after)
    findings.expect(refused > 0, "nobody tried")
    return findings.verdict(
        "a revoked key opens nothing after a second",
        f"{len(before)} knocks before, {refused} refused after it, {len(excused)} let in by a gateway out of touch",
    )


def _rotation(diary: Diary, struck: Sequence[Struck], gateways: Mapping[str, str]) -> Verdict:
    findings, deed = Findings(), diary.deed("rotated")
    if deed is None or diary.old_ends is None:
        return Verdict("a rotated secret works through its overlap alone", False, "none was rotated")
    overlap = [knock for knock in diary.old if knock.answered < deed.began + _GRACE]
    later = [knock for knock in diary.old if knock.sent > diary.old_ends]
    new = [knock for knock in diary.new if knock.sent > deed.over + REVOKED_WITHIN]
    excused = 0
    for what, wrong in (
        ("the old one refused", [knock for knock in overlap if knock.is_refused]),
        ("the old one let in", [knock for knock in later if knock.is_let_in]),
        ("the new one refused", [knock for knock in new if knock.is_refused]),
    ):
        for knock in wrong:
            if _is_out_of_touch(knock, deed.began, struck, gateways):
                excused += 1
                continue
            findings.expect(False, f"{what} {knock.sent - deed.over:.2f} s after by {gateways[knock.url]}")
    findings.expect(bool(overlap and later and new), "nobody tried")
    return findings.verdict(
        "a rotated secret works through its overlap alone",
        f"{len(overlap)} knocks with the old one in its overlap, {len(later)} after it, {len(new)} with the new one, "
        f"{excused} answered by a gateway out of touch",
    )


def _is_out_of_touch(knock: Knock, since: float, struck: Sequence[Struck], gateways: Mapping[str, str]) -> bool:
    """Whether the gateway or NATS was being struck since, and until a moment before the knock."""
    cut_off = {"nats", gateways[knock.url]}
    return any(
        cut_off & set(one.strike.targets)
        and one.over >= since - OUT_OF_TOUCH
        and one.began <= knock.answered
        and knock.sent <= one.over + OUT_OF_TOUCH
        for one in struck
    )
