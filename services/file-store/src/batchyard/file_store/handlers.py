"""Which method answers which command."""

from batchyard.common.contracts.files import CreateFile, DeleteFile, GetFile, ListFiles, OpenDownload, OpenUpload
from batchyard.common.contracts.health import CheckFileStore
from batchyard.common.health import HealthChecks
from batchyard.common.messaging.commands import CommandRouter
from batchyard.file_store.files import Files

SERVICE = "file-store"


def command_router(files: Files, health: HealthChecks) -> CommandRouter:
    """All commands of the service."""
    router = CommandRouter(SERVICE)
    router.on(OpenUpload, files.open_upload)
    router.on(CreateFile, files.create)
    router.on(GetFile, files.get)
    router.on(ListFiles, files.list)
    router.on(DeleteFile, files.delete)
    router.on(OpenDownload, files.open_download)
    router.on(CheckFileStore, health.check)
    return router
