"""``python -m conformance`` is ``listenspec``."""

import sys

from conformance.cli import main

sys.exit(main())
