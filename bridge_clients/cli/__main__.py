"""``python -m bridge_clients.cli`` is the same as ``segue``."""

import sys

from bridge_clients.cli.main import main

sys.exit(main())
