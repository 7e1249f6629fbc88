"""What every answer has: an ID, a time, and errors in one form, whatever went wrong."""

import re

import pytest
import structlog
from unit.gateway.peers import Recorder
from unit.gateway.rig import Served, Start, error_of

from batchyard.common.contracts.batches import GetBatch
from batchyard.common.contracts.files import Download, File, OpenDownload, Purpose
from batchyard.common.errors import InternalError
from batchyard.common.messaging.commands import CommandRouter
from batchyard.common.service import Messaging

UNKNOWN = [
    ("GET", "/"),
    ("POST", "/v1/chat/completions"),
    ("GET", "/v2/files"),
    ("GET", "/v1/files/"),
    ("GET", "/v1/files/a/b"),
    ("POST", "/v1/batches/x/repeat"),
    ("DELETE", "/v1"),
]
NOT_ALLOWED = [
    ("PUT", "/v1/files", "GET, POST"),
    ("POST", "/v1/files/x", "GET, HEAD, DELETE"),
    ("DELETE", "/v1/uploads/x", "GET"),
    ("GET", "/uploads/x/parts", "POST"),
    ("DELETE", "/files/x/content", "GET, HEAD"),
    ("DELETE", "/v1/batches/x", "GET"),
    ("GET", "/v1/batches/x/cancel", "POST"),
    ("GET", "/v1/batches/x/retry", "POST"),
    ("POST", "/v1/batches/x/results", "GET, HEAD"),
]


async def test_an_unknown_url_is_a_404(gateway: Served, subtests: pytest.Subtests) -> None:
    for method, path in UNKNOWN:
        with subtests.test(method=method, path=path):
            response = await gateway.http.request(method, path)
            assert response.status_code == 404
            assert error_of(response) == {
                "message": f"Invalid URL ({method} {path})",
                "type": "invalid_request_error",
                "param": None,
                "code": "unknown_url",
            }


async def test_a_wrong_method_is_a_405_that_names_the_right_ones(gateway: Served, subtests: pytest.Subtests) -> None:
    for method, path, allowed in NOT_ALLOWED:
        with subtests.test(method=method, path=path):
            response = await gateway.http.request(method, path)
            assert response.status_code == 405
            assert response.headers["allow"] == allowed
            assert error_of(response)["message"] == f"Not allowed to {method} on {path}"


async def test_a_missing_service_is_a_503_at_once(start: Start) -> None:
    gateway = await start()
    response = await gateway.http.get("/v1/batches", timeout=1)
    assert response.status_code == 503
    assert response.headers["retry-after"] == "2"
    assert error_of(response) == {
        "message": "The batch-runner service is not running. Please retry shortly.",
        "type": "server_error",
        "param": None,
        "code": "service_unavailable",
    }


async def test_an_error_of_a_service_is_a_500(gateway: Served, recorder: Recorder) -> None:
    recorder.answers[GetBatch] = InternalError("The server had an error while processing your request.")
    response = await gateway.http.get("/v1/batches/x")
    assert response.status_code == 500
    assert error_of(response)["type"] == "server_error"


async def test_a_bug_is_a_500_without_details(messaging: Messaging, start: Start) -> None:
    async def open_download(_tenant: str, _command: OpenDownload) -> Download:
        file = File(id="file-1", bytes=1, created_at=1, filename="x", purpose=Purpose.EVALS)
        return Download(file=file, raw_id="file-1", model=None, object_key="../a secret", etag="1")

    router = CommandRouter("file-store")
    router.on(OpenDownload, open_download)
    messaging.broker.include_router(router)
    await messaging.broker.start()
    gateway = await start()
    with structlog.testing.capture_logs() as logs:
        response = await gateway.http.get("/v1/files/file-1/content")
    assert response.status_code == 500
    assert error_of(response) == {
        "message": "The server had an error while processing your request.",
        "type": "server_error",
        "param": None,
        "code": None,
    }
    assert "x-request-id" in response.headers
    assert [log["event"] for log in logs] == ["http.failed", "http.request"]


async def test_every_answer_has_an_id_and_a_time(gateway: Served) -> None:
    for path in ("/v1/files", "/v1/nowhere", "/health/liveness", "/openapi.json", "/v1/files?limit=x"):
        headers = (await gateway.http.get(path)).headers
        assert re.fullmatch(r"req_[0-9a-f]{32}", headers["x-request-id"])
        assert headers["openai-processing-ms"].isdecimal()


@pytest.mark.parametrize("given", ["abc", "A-b_9" * 25])
async def test_the_clients_own_id_is_kept(gateway: Served, given: str) -> None:
    response = await gateway.http.get("/v1/files", headers={"x-request-id": given})
    assert response.headers["x-request-id"] == given


@pytest.mark.parametrize("given", ["", "a b", "ü", "a" * 129, "a;b"])
async def test_an_id_that_is_not_sane_is_replaced(gateway: Served, given: str) -> None:
    response = await gateway.http.get("/v1/files", headers={b"x-request-id": given.encode()})
    assert response.headers["x-request-id"].startswith("req_")


async def test_each_request_is_logged_once_by_its_template(gateway: Served) -> None:
    with structlog.testing.capture_logs([structlog.contextvars.merge_contextvars]) as logs:
        await gateway.http.get("/v1/files/file-x?secret=1", headers={"x-request-id": "abc"})
    (log,) = (log for log in logs if log["event"] == "http.request")
    assert isinstance(log.pop("ms"), int)
    assert log == {
        "event": "http.request",
        "log_level": "info",
        "method": "GET",
        "route": "/files/{file_id}",
        "status": 404,
        "request_id": "abc",
    }


async def test_the_server_does_not_say_what_it_is(gateway: Served) -> None:
    assert "server" not in (await gateway.http.get("/health/liveness")).headers


async def test_the_document_describes_every_operation(gateway: Served) -> None:
    document = (await gateway.http.get("/openapi.json")).json()
    operations = {
        operation["operationId"]: operation for path in document["paths"].values() for operation in path.values()
    }
    assert set(operations) == {
        *("create_file", "list_files", "get_file", "delete_file", "get_file_content"),
        *("create_upload", "get_upload", "add_upload_part", "complete_upload", "cancel_upload"),
        *("create_batch", "list_batches", "get_batch", "cancel_batch", "retry_batch", "get_batch_results"),
        *("list_models", "get_model", "get_spend_logs", "get_spend_summary", "get_liveness", "get_readiness"),
        *("get_spend_report", "get_spend_keys", "get_spend_tags", "get_prices", "adjust_spend"),
        "get_fleet",
        "get_limits",
        *("generate_key", "update_key", "regenerate_key", "block_key", "unblock_key", "delete_keys"),
        *("get_key_info", "list_keys", "get_team_info", "list_teams"),
        *("create_team", "update_team", "block_team", "unblock_team", "delete_teams"),
        *("create_webhook_endpoint", "list_webhook_endpoints", "get_webhook_endpoint", "update_webhook_endpoint"),
        *("delete_webhook_endpoint", "rotate_webhook_secret", "test_webhook_endpoint", "list_webhook_event_types"),
    }
    assert all(operation["tags"] for operation in operations.values())
    assert not any("422" in operation["responses"] for operation in operations.values())
    assert "requestBody" not in operations["cancel_batch"]
    assert set(document["components"]["schemas"]) >= {"File", "Batch", "FilePage", "BatchPage", "ErrorEnvelope"}


async def test_the_document_names_every_answer_with_its_headers(gateway: Served) -> None:
    paths = (await gateway.http.get("/openapi.json")).json()["paths"]
    cancel = paths["/v1/batches/{batch_id}/cancel"]["post"]["responses"]
    assert list(cancel) == ["200", "400", "401", "403", "404", "409", "429", "500", "503"]
    assert set(cancel["200"]["headers"]) == {"x-request-id", "openai-processing-ms", "x-litellm-response-cost"}
    assert set(cancel["409"]["headers"]) - set(cancel["200"]["headers"]) == {"x-should-retry"}
    upload = paths["/v1/files"]["post"]["responses"]
    assert list(upload) == ["200", "400", "401", "403", "408", "413", "415", "429", "500", "503"]
    envelope = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorEnvelope"}}}
    assert all(answer["content"] == envelope for status, answer in upload.items() if status != "200")
    content = paths["/v1/files/{file_id}/content"]["get"]["responses"]
    assert {"206", "304", "416"} < set(content)
    assert "content-range" in content["416"]["headers"]
    assert "retry-after" not in paths["/health/readiness"]["get"]["responses"]["503"]["headers"]


async def test_the_document_describes_bodies_that_fastapi_does_not_read(gateway: Served) -> None:
    paths = (await gateway.http.get("/openapi.json")).json()["paths"]
    form = paths["/v1/files"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert form["required"] == ["file", "purpose"]
    wish = paths["/v1/batches"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert wish["required"] == ["endpoint", "completion_window"]
    assert {"input_file_id", "requests", "dry_run"} <= set(wish["properties"])
    assert "$ref" not in str(wish)
