"""The truth from outside: files, ledger, the simulators' logs, the broker and the objects' folder, against the plan."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from batchyard.vllm_sim.answers import chat_text
from batchyard.vllm_sim.request_log import ANSWERED, DISCONNECTED, PENDING, Record
from soak.chaos import Struck
from soak.leftovers import Leftovers
from soak.plan import RUNNERS, PlannedBatch
from soak.prices import Prices

ENDED = frozenset({"completed", "failed", "expired", "cancelled"})
_ATTEMPT = re.compile(r"-[0-9a-f]+$")
_BAD_REQUEST = 400
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Verdict:
    """One invariant, whether it holds, and the numbers that say so."""

    name: str
    passed: bool
    numbers: str


@dataclass
class Seen:
    """One batch as the API shows it once everything is at rest."""

    planned: PlannedBatch
    batch: Any
    output: list[Any]
    errors: list[Any]
    ledger: list[Any]
    prices: Prices

    @property
    def name(self) -> str:
        return f"batch {self.planned.number}"

    @property
    def never_planned(self) -> bool:
        """Cancelled, or found too dear, before its lines had been counted: it has none."""
        return self.batch["status"] in {"cancelled", "failed"} and self.batch["request_counts"]["total"] == 0

    @property
    def is_too_dear(self) -> bool:
        """Refused once its lines had been read, as the budget had become smaller than all of it."""
        problems = (self.batch["errors"] or {"data": []})["data"]
        return self.planned.team == "purse" and [one["code"] for one in problems] == ["insufficient_quota"]

    @property
    def not_run(self) -> list[Any]:
        return [line for line in self.errors if (line["error"] or {}).get("code") == "batch_cancelled"]

    @property
    def failed(self) -> list[Any]:
        return [line for line in self.errors if (line["error"] or {}).get("code") != "batch_cancelled"]

    @property
    def tokens(self) -> tuple[int, int, int]:
        """Prompt, cached and output tokens that the answers say."""
        used = [line["response"]["body"]["usage"] for line in self.output]
        cached = sum((usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0) for usage in used)
        return (
            sum(usage["prompt_tokens"] for usage in used),
            cached,
            sum(usage["completion_tokens"] for usage in used),
        )


@dataclass
class Findings:
    """What is wrong with one invariant: the first few, and how many."""

    problems: list[str] = field(default_factory=list)

    def expect(self, holds: bool, problem: str) -> None:
        if not holds:
            self.problems.append(problem)

    def verdict(self, name: str, numbers: str) -> Verdict:
        if not self.problems:
            return Verdict(name, True, numbers)
        shown = "; ".join(self.problems[:_SHOWN])
        return Verdict(name, False, f"{numbers}. {len(self.problems)} wrong: {shown}")


def check_batches(all_seen: Sequence[Seen]) -> list[Verdict]:
    """Every invariant that batches and their files show by themselves."""
    checks: tuple[Callable[[Sequence[Seen]], Verdict], ...] = (
        _ended,
        _once_in_order,
        _answers,
        _judged,
        _counts,
        _usage,
        _ledger,
        _cancelled,
    )
    return [check(all_seen) for check in checks]


def _ended(all_seen: Sequence[Seen]) -> Verdict:
    findings = Findings()
    for seen in all_seen:
        wanted = {"completed"} if seen.planned.cancel_after is None else {"completed", "cancelled"}
        wanted |= {"failed"} if seen.is_too_dear else set()
        findings.expect(
            seen.batch["status"] in wanted, f"{seen.name} is {seen.batch['status']}: {seen.batch['errors']}"
        )
    statuses = Counter(seen.batch["status"] for seen in all_seen)
    return findings.verdict("no batch is stuck, none failed", f"{len(all_seen)} batches: {_listed(statuses)}")


def _once_in_order(all_seen: Sequence[Seen]) -> Verdict:
    findings, total = Findings(), 0
    for seen in all_seen:
        order = {seen.planned.custom_id(line): line for line in range(seen.planned.lines)}
        found: Counter[str] = Counter()
        for what, lines in (("output", seen.output), ("errors", seen.errors)):
            ids = [line["custom_id"] for line in lines]
            found.update(ids)
            places = [order.get(one, -1) for one in ids]
            findings.expect(places == sorted(places), f"{seen.name}: {what} not in input order")
        total += found.total()
        expected: Counter[str] = Counter() if seen.never_planned else Counter(dict.fromkeys(order, 1))
        missing, extra = (expected - found).total(), (found - expected).total()
        findings.expect(found == expected, f"{seen.name}: {missing} missing, {extra} too many")
    return findings.verdict("every line once, in input order", f"{total} lines in the files")


def _answers(all_seen: Sequence[Seen]) -> Verdict:
    findings, total = Findings(), 0
    for seen in all_seen:
        for line in seen.output:
            number = int(line["custom_id"].rpartition("-l")[2])
            expected = chat_text(seen.planned.messages(number), seen.planned.model.name)
            said = line["response"]["body"]["choices"][0]["message"]["content"]
            total += 1
            findings.expect(said == expected, f"{line['custom_id']} says {said[:60]!r}")
    return findings.verdict("each answer belongs to its line", f"{total} answers")


def _judged(all_seen: Sequence[Seen]) -> Verdict:
    """Bad lines, and they alone, are refused by the server."""
    findings, refused = Findings(), 0
    for seen in all_seen:
        bad = {seen.planned.custom_id(line) for line in seen.planned.bad}
        findings.expect(not any(line["custom_id"] in bad for line in seen.output), f"{seen.name}: a bad line answered")
        for line in seen.failed:
            status = (line["response"] or {}).get("status_code")
            refused += 1
            findings.expect(
                line["custom_id"] in bad and status == _BAD_REQUEST,
                f"{line['custom_id']}: status {status}, error {line['error']}",
            )
    return findings.verdict("only bad lines failed", f"{refused} refused by the server")


def _counts(all_seen: Sequence[Seen]) -> Verdict:
    findings = Findings()
    for seen in all_seen:
        total = 0 if seen.never_planned else seen.planned.lines
        in_files = {"total": total, "completed": len(seen.output), "failed": len(seen.failed)}
        counts = seen.batch["request_counts"]
        findings.expect(counts == in_files, f"{seen.name}: {counts}, in the files {in_files}")
    sums = [sum(seen.batch["request_counts"][what] for seen in all_seen) for what in ("completed", "failed")]
    return findings.verdict("counts are those of the files", f"{sums[0]} completed, {sums[1]} failed")


def _usage(all_seen: Sequence[Seen]) -> Verdict:
    findings, total = Findings(), 0
    for seen in all_seen:
        prompt, cached, output = seen.tokens
        usage = seen.batch["usage"] or {}
        details = usage.get("input_tokens_details") or {}
        said = (usage.get("input_tokens", 0), details.get("cached_tokens", 0), usage.get("output_tokens", 0))
        total += prompt + output
        findings.expect(said == (prompt, cached, output), f"{seen.name}: {said}, answers {(prompt, cached, output)}")
        findings.expect(usage.get("total_tokens", 0) == prompt + output, f"{seen.name}: total_tokens")
    return findings.verdict("usage is the sum of the answers", f"{total} tokens")


def _ledger(all_seen: Sequence[Seen]) -> Verdict:
    findings, sum_of_costs = Findings(), Decimal(0)
    for seen in all_seen:
        due = int(seen.batch["status"] != "failed")
        findings.expect(len(seen.ledger) == due, f"{seen.name}: {len(seen.ledger)} entries")
        for entry in seen.ledger:
            cost, expected = (
                Decimal(entry["cost"]),
                seen.prices.cost(seen.planned.model, seen.tokens, entry["finished_at"]),
            )
            sum_of_costs += cost
            findings.expect(cost == expected, f"{seen.name}: cost {cost}, by its answers {expected}")
            same = entry["usage"]["total_tokens"] == (seen.batch["usage"] or {}).get("total_tokens", 0)
            findings.expect(same, f"{seen.name}: the entry's usage is another")
            findings.expect(entry["request_counts"] == seen.batch["request_counts"], f"{seen.name}: entry's counts")
    entries = sum(len(seen.ledger) for seen in all_seen)
    return findings.verdict("one ledger entry each, cost = usage × price", f"{entries} entries, {sum_of_costs} USD")


def _cancelled(all_seen: Sequence[Seen]) -> Verdict:
    findings, left, executed = Findings(), 0, 0
    cancelled = [seen for seen in all_seen if seen.batch["status"] == "cancelled"]
    for seen in all_seen:
        findings.expect(seen in cancelled or not seen.not_run, f"{seen.name}: lines not run, but not cancelled")
    for seen in cancelled:
        counts = seen.batch["request_counts"]
        rest = counts["total"] - counts["completed"] - counts["failed"]
        left += len(seen.not_run)
        executed += counts["completed"] + counts["failed"]
        findings.expect(
            rest == len(seen.not_run), f"{seen.name}: {rest} left by the counts, {len(seen.not_run)} listed"
        )
    before = sum(seen.never_planned for seen in cancelled)
    numbers = f"{len(cancelled)} batches ({before} before planning), {executed} lines run, {left} batch_cancelled"
    return findings.verdict("cancelled: the rest is listed, not failed", numbers)


def check_sends(
    all_seen: Sequence[Seen], records: Sequence[Record], struck: Sequence[Struck], per_strike: int
) -> list[Verdict]:
    """What reached the model servers, against what is in the files.

    Args:
        records: The logs of all simulators.
        struck: What was done to whom: the one before an extra sending is taken for its cause.
        per_strike: How many lines one strike against the runner may cost.
    """
    answered = {record.request_id for record in records if record.outcome == ANSWERED}
    findings = Findings()
    for seen in all_seen:
        for line in seen.output:
            findings.expect(line["response"]["request_id"] in answered, f"{line['custom_id']} was never answered")
    first = findings.verdict(
        "every answer came from a model server", f"{len(records)} requests, {len(answered)} answered"
    )
    extra, by_line = _sent_again(records)
    costly = RUNNERS | {"nats"}  # without NATS for longer than `work_ack_wait` a shard may go to the other runner
    dangerous = [one for one in struck if costly & set(one.strike.targets)]
    blamed: dict[int, int] = defaultdict(int)
    for record in extra:
        before = [index for index, one in enumerate(dangerous) if one.began <= record.time]
        blamed[before[-1] if before else -1] += 1
    kinds: Counter[str] = Counter()
    for index, blame in blamed.items():
        kinds[str(dangerous[index].strike) if index >= 0 else "before any strike"] += blame
    count = sum(len(costly & set(one.strike.targets)) for one in dangerous)
    bound = per_strike * count
    worst = max(blamed.values(), default=0)
    second = Verdict(
        "lines sent again within the bound",
        len(extra) <= bound,
        f"{len(extra)} needless sendings of {by_line} lines ≤ {bound} = {count} strikes at runners or NATS × "
        f"{per_strike}; most after one strike {worst}; after {_listed(kinds) or 'nothing'}",
    )
    return [first, second]


def _sent_again(records: Sequence[Record]) -> tuple[list[Record], int]:
    """Sendings beyond the first of lines whose earlier sending was not a fault's victim, and of how many lines."""
    sent: dict[str, list[Record]] = defaultdict(list)
    for record in sorted(records, key=lambda record: record.time):
        refused = record.status == _BAD_REQUEST
        if refused or record.outcome in {ANSWERED, DISCONNECTED, PENDING}:
            sent[_ATTEMPT.sub("", record.request_id or "")].append(record)
    extra = [record for line in sent.values() for record in line[1:]]
    return extra, sum(len(line) > 1 for line in sent.values())


def check_leftovers(
    look: Leftovers, files_listed: int, unreadable: Sequence[str], batches_listed: int
) -> list[Verdict]:
    """Nothing of what the batches worked with is left, and every file can be read."""
    swept = Verdict(
        "nothing is left of what batches worked with",
        look.is_clean,
        f"{_listed(look.found) or 'no shards, progress, queued work or objects'}; "
        f"{len(look.unfinished)} of {look.batch_records} records unfinished {look.unfinished[:_SHOWN] or ''}".strip(),
    )
    agree = files_listed == look.file_records and batches_listed == look.batch_records and not unreadable
    kept = Verdict(
        "every record is listed, every file is whole",
        agree and look.stored_files >= look.file_records,
        f"{files_listed} files listed of {look.file_records}, {batches_listed} batches of {look.batch_records}, "
        f"{len(unreadable)} unreadable {list(unreadable[:_SHOWN]) or ''}".strip()
        + f"; {look.stored_files - look.file_records} uploads unclaimed",
    )
    return [swept, kept]


def _listed(counts: Mapping[str, int] | Iterable[tuple[str, int]]) -> str:
    return ", ".join(f"{count} {what}" for what, count in sorted(dict(counts).items()))
