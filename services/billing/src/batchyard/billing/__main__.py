"""`python -m batchyard.billing`."""

from batchyard.billing.app import create_app
from batchyard.billing.settings import BillingSettings
from batchyard.common.service import run_service

if __name__ == "__main__":
    run_service("billing", BillingSettings, create_app)
