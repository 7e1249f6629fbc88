"""Which method answers which command."""

from batchyard.common.contracts.files import (
    CreateFile,
    DeleteFile,
    GetFile,
    GetStorage,
    ListFiles,
    OpenDownload,
    OpenPlace,
)
from batchyard.common.contracts.health import CheckFileStore
from batchyard.common.contracts.uploads import AddPart, CancelUpload, CompleteUpload, CreateUpload, GetUpload, OpenPart
from batchyard.common.health import HealthChecks
from batchyard.common.messaging.commands import CommandRouter
from batchyard.file_store.files import Files
from batchyard.file_store.uploads import Uploads

SERVICE = "file-store"


def command_router(files: Files, uploads: Uploads, health: HealthChecks) -> CommandRouter:
    """All commands of the service."""
    router = CommandRouter(SERVICE)
    router.on(OpenPlace, files.open_place)
    router.on(CreateFile, files.create)
    router.on(GetFile, files.get)
    router.on(ListFiles, files.list)
    router.on(DeleteFile, files.delete)
    router.on(OpenDownload, files.open_download)
    router.on(GetStorage, files.quota.report)
    router.on(CreateUpload, uploads.create)
    router.on(GetUpload, uploads.get)
    router.on(OpenPart, uploads.open_part)
    router.on(AddPart, uploads.add_part)
    router.on(CompleteUpload, uploads.complete)
    router.on(CancelUpload, uploads.cancel)
    router.on(CheckFileStore, health.check)
    return router
