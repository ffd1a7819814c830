"""Property tests draw the same examples in every run, so that green means the same everywhere; with ``QUIETBOX_HUNT=1``
they draw new ones.
"""

import os

from hypothesis import settings

settings.register_profile("same", derandomize=True, deadline=None)
if not os.environ.get("QUIETBOX_HUNT"):
    settings.load_profile("same")
