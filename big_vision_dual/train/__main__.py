"""`python -m big_vision_dual.train`, as Big Vision's users start a training."""

import sys

from big_vision_dual.train.command import main

sys.exit(main())
