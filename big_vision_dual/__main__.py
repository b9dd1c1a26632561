"""`python -m big_vision_dual`: the command `bvd`."""

import sys

from big_vision_dual.cli import main

sys.exit(main())
