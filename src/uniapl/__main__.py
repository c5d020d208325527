"""`python -m uniapl` is `uniapl`."""

import sys

from uniapl.cli import main

sys.exit(main())
