"""`python -m batchyard.batch_runner`."""

from batchyard.batch_runner.app import serve
from batchyard.batch_runner.handlers import SERVICE
from batchyard.batch_runner.settings import RunnerSettings
from batchyard.common.service import run_service

if __name__ == "__main__":
    run_service(SERVICE, RunnerSettings, serve)
