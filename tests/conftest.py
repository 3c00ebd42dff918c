"""Before anything imports torch: one thread. The models of the tests are so small that handing work to a second thread
costs more than the work (four times the CPU seconds), and pytest-xdist uses the other cores.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
