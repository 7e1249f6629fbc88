"""`python -m batchyard.gateway`"""

from batchyard.common.service import run_service
from batchyard.gateway.app import SERVICE, serve
from batchyard.gateway.settings import GatewaySettings

if __name__ == "__main__":
    run_service(SERVICE, GatewaySettings, serve)
