"""Start the service: `python -m batchyard.file_store`."""

from batchyard.common.service import run_service
from batchyard.file_store.app import serve
from batchyard.file_store.handlers import SERVICE
from batchyard.file_store.settings import FileStoreSettings

if __name__ == "__main__":
    run_service(SERVICE, FileStoreSettings, serve)
