"""Lines are counted while a file streams in."""

import pytest
from unit.gateway.rig import Served

from batchyard.common.contracts.files import Download, OpenDownload
from batchyard.common.messaging.commands import CommandClient
from batchyard.common.service import Messaging
from batchyard.gateway.line_count import LineCount

LINE = b'{"custom_id": "a"}'


@pytest.mark.parametrize(
    ("chunks", "lines"),
    [
        ([], 0),
        ([b""], 0),
        ([b"a"], 1),
        ([b"a\n"], 1),
        ([b"a\n", b""], 1),
        ([b"a", b"\n", b"b"], 2),
        ([b"a\n\n", b"b\n"], 3),
    ],
)
def test_the_last_line_need_not_end(chunks: list[bytes], lines: int) -> None:
    counted = LineCount()
    for chunk in chunks:
        counted.feed(chunk)
    assert counted.lines == lines


async def lines_of(messaging: Messaging, file_id: str) -> int | None:
    download: Download = await CommandClient(messaging.connection).call("default", OpenDownload(file_id=file_id))
    return download.lines


async def test_a_file_for_a_batch_says_how_many_lines_it_has(gateway: Served, messaging: Messaging) -> None:
    file = (await gateway.upload(LINE + b"\n" + LINE)).json()
    assert await lines_of(messaging, file["id"]) == 2
    other = (await gateway.upload(b"a\nb\n", name="a.txt", purpose="user_data")).json()
    assert await lines_of(messaging, other["id"]) is None


async def test_so_does_one_that_came_in_parts(gateway: Served, messaging: Messaging) -> None:
    content = (LINE + b"\n") * 5
    upload = (await gateway.announce(len(content), filename="in.jsonl", purpose="batch")).json()
    parts = [
        (await gateway.add_part(upload["id"], data)).json()["id"]
        for data in (content[:30], content[30:31], content[31:])
    ]
    done = await gateway.http.post(f"/v1/uploads/{upload['id']}/complete", json={"part_ids": parts})
    assert await lines_of(messaging, done.json()["file"]["id"]) == 5
