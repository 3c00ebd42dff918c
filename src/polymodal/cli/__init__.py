"""The command line: one file a verb, a thin skin over one public function.

Results go to stdout, talk and progress to stderr. Exit 0 done, 1 failed, 2 not asked properly. A verb's file is
imported only when that verb is asked for, so that `polymodal --help` is quick.
"""

from polymodal.cli.app import main

__all__ = ["main"]
