"""`python -m mcp_macaroon_middleware` is `mcp-macaroon`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
