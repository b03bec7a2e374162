"""`python -m attndsl` is the `attndsl` command."""

import sys

from attndsl.cli.main import main

sys.exit(main())
